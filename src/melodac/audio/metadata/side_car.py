"""Side-cars: files beside one audio file that share its stem and speak of it alone.

`song.json` holds fields as AudioCraft writes them, `song_prompt.txt` and `song.txt` the
description. The audio file's own name says nothing. Any module above may import it.
"""

from collections.abc import Iterable
from pathlib import Path, PurePosixPath

from melodac.audio.metadata.fields import DESCRIPTION, Statement, clean_fields
from melodac.audio.metadata.json_fields import parse_object
from melodac.errors import AudioError

MAX_JSON_BYTES = 1 << 20
MAX_TEXT_BYTES = 1 << 16


def read_side_cars(
    root: Path, side_cars: Iterable[tuple[str, str]]
) -> tuple[dict[str, list[Statement]], list[str]]:
    """What the side-cars of each audio path say, most binding first, and what could not be used.

    Source:
        Fields of the JSON: audiocraft/data/music_dataset.py, `MusicInfo`.

    Args:
        root: The folder of music.
        side_cars: Path of each side-car and of the audio file it belongs to, in any order.
    """
    said: dict[str, list[Statement]] = {}
    problems: list[str] = []
    for name, audio in sorted(side_cars, key=_rank):
        try:
            fields, complaints = _read(root / name)
        except AudioError as error:
            problems.append(f"{name}: {error}")
            continue
        problems.extend(f"{name}: {complaint}" for complaint in complaints)
        said.setdefault(audio, []).append(Statement(name, fields))
    return said, problems


def _rank(side_car: tuple[str, str]) -> tuple[str, int, str]:
    """JSON says most and comes first, then the text that is called a prompt."""
    name, audio = side_car
    if name.lower().endswith(".json"):
        return audio, 0, name
    has_own_stem = PurePosixPath(name).stem == PurePosixPath(audio).stem
    return audio, 2 if has_own_stem else 1, name


def _read(path: Path) -> tuple[dict[str, str], list[str]]:
    if path.suffix.lower() == ".json":
        pairs, complaints = parse_object(_read_text(path, MAX_JSON_BYTES))
        fields, more = clean_fields(pairs)
        return fields, complaints + more
    return clean_fields([(DESCRIPTION, _read_text(path, MAX_TEXT_BYTES))])


def _read_text(path: Path, max_bytes: int) -> str:
    try:
        with path.open("rb") as file:
            data = file.read(max_bytes + 1)
        if len(data) > max_bytes:
            raise AudioError(f"not used: more than {max_bytes} bytes")
        return data.decode("utf-8-sig")
    except OSError as error:
        raise AudioError(f"not used: {error.strerror}") from error
    except UnicodeDecodeError as error:
        raise AudioError(f"not used: not UTF-8 text (byte {error.start}), save as UTF-8") from error
