"""JSON objects as fields: text, numbers, truth values and lists of them, nothing else.

A tag is something a person wrote about music, so an object or a list of lists is no tag. Internal
to `metadata`: tables and side-cars read JSON here.
"""

import json
import math
from typing import NoReturn, cast

from melodac.audio.metadata.fields import join_texts
from melodac.errors import AudioError

Pairs = list[tuple[str, str]]


def parse_object(text: str) -> tuple[Pairs, list[str]]:
    """The fields of one JSON object as text, and a complaint for each that has no text.

    Raises:
        AudioError: If the text is not one JSON object.
    """
    try:
        value = json.loads(text, object_pairs_hook=_unique, parse_constant=_refuse)
    except (ValueError, RecursionError) as error:
        raise AudioError(f"not JSON: {error}") from error
    if not isinstance(value, dict):
        raise AudioError(f"expected an object, got {type(value).__name__}")
    pairs: Pairs = []
    complaints: list[str] = []
    for name, entry in cast(dict[str, object], value).items():
        items = cast(list[object], entry) if isinstance(entry, list) else [entry]
        texts = [_to_text(item) for item in items]
        if None in texts:
            complaints.append(f"{name[:40]!r} is no text, number or list of them, not used")
        else:
            pairs.append((name, join_texts(name, (text for text in texts if text))))
    return pairs, complaints


def _to_text(value: object) -> str | None:
    """Text of a plain value, '' where it says nothing, None where it is no plain value."""
    if value is None or (isinstance(value, float) and not math.isfinite(value)):
        return ""
    if isinstance(value, str):
        return value
    return json.dumps(value) if isinstance(value, (bool, int, float)) else None


def _unique(pairs: list[tuple[str, object]]) -> dict[str, object]:
    fields = dict(pairs)
    if len(fields) < len(pairs):
        raise ValueError("two fields have one name")
    return fields


def _refuse(constant: str) -> NoReturn:
    raise ValueError(f"{constant} is not a value")
