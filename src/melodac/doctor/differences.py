"""Differences between two runs: by how many decisions their configs differ.

Keys of a checkpoint's config that one decision sets together are one factor: another delay pattern
changes a name and a list of delays, yet it is one change.
"""

import json
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

from melodac.training.checkpoint import flatten

_ABSENT = "(absent)"
_SHOWN_CHARACTERS = 48
_FACTORS = (
    ("code_fingerprint", "code"),
    ("data_fingerprint", "data"),
    ("store", "codec"),
    ("window_frames", "index.window_frames"),
    ("starts", "index.align"),
    ("delay", "train.delay"),
    ("layout", "train.layout"),
    ("model.dropout", "train.dropout"),
    ("tags_sha256", "tags"),
    ("model", "train.size"),
)
"""Prefix of a key and the factor it belongs to; the first that fits counts."""
_IMPLIED = (
    ("codec", ("data", "tags", "index.align", "train.layout", "train.size", "train.delay")),
    ("data", ("tags", "index.align")),
    ("train.condition", ("tags", "train.size")),
    ("train.layout", ("train.size", "train.delay")),
)
"""Factors that follow from another one, as long as they differ only in keys of `_FOLLOWING`."""
_FOLLOWING = (
    "data_fingerprint",
    "tags_sha256",
    "starts.bars_sha256",
    "model.num_codebooks",
    "model.memory_dim",
    "model.text_",
    "delay.delays",
    "layout.columns",
)


class Factor(NamedTuple):
    """One decision in which two runs differ."""

    name: str
    changes: tuple[str, ...]
    """Each key with both its values."""


class Present(NamedTuple):
    """Code and data that a run would be made of now; None where they are not known."""

    code_fingerprint: str | None
    data_fingerprint: str | None


def differing_factors(one: Mapping[str, Any], other: Mapping[str, Any]) -> list[Factor]:
    """Return the decisions in which two configs of checkpoints differ, by name."""
    first, second = flatten(one), flatten(other)
    changed = [
        key
        for key in sorted(first.keys() | second.keys())
        if first.get(key, _ABSENT) != second.get(key, _ABSENT)
    ]
    factors: dict[str, list[str]] = {}
    for key in changed:
        factors.setdefault(_factor_of(key), []).append(key)
    for cause, effects in _IMPLIED:
        for effect in effects if cause in factors else ():
            if effect in factors and all(key.startswith(_FOLLOWING) for key in factors[effect]):
                del factors[effect]
    return [
        Factor(
            name,
            tuple(
                f"{key}: {_short(first.get(key, _ABSENT))} -> {_short(second.get(key, _ABSENT))}"
                for key in keys
            ),
        )
        for name, keys in sorted(factors.items())
    ]


def describe_difference(factors: Sequence[Factor]) -> str:
    """Say in one line whether two runs may be compared."""
    if not factors:
        return "differs in no factor: the same run"
    names = ", ".join(factor.name for factor in factors)
    if len(factors) == 1:
        # of several keys a name says most
        changes = sorted(factors[0].changes, key=lambda change: ".name: " not in change)
        change = changes[0].partition(": ")[2]
        return f"differs in exactly one factor: {names} ({change})"
    return f"differs in {len(factors)} factors: not a comparison ({names})"


def _factor_of(key: str) -> str:
    for prefix, factor in _FACTORS:
        if key == prefix or key.startswith((f"{prefix}.", f"{prefix}_")):
            return factor
    return key


def _short(value: object) -> str:
    text = value if isinstance(value, str) else json.dumps(value)
    return text if len(text) <= _SHOWN_CHARACTERS else f"{text[: _SHOWN_CHARACTERS - 3]}..."
