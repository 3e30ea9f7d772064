"""Tags inside audio files: ID3, Vorbis comments, MP4, ASF, APEv2, and text of RIFF, AIFF and CAF.

Only fields that describe the music are taken, by a fixed list. Comments and descriptions are not:
encoders and download tools fill them, so they would be poor prompts. Runs in worker processes:
light imports only, and the answer is plain data. Any module above may import it.
"""

import struct
import zlib
from collections.abc import Callable, Iterable, Mapping
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, cast

from melodac.audio.metadata.bounded_file import BoundedFile
from melodac.audio.metadata.containers import iterate_texts
from melodac.audio.metadata.fields import canonical_name, clean_fields, join_texts
from melodac.errors import AudioError

LISTS = frozenset({
    "album_artist", "artist", "composer", "genre", "instrument", "keywords", "language", "licence",
    "moods",
})  # fmt: skip
"""Fields that may have several values; of the others the first one counts."""
WANTED = LISTS | {"album", "copyright", "date", "key", "tempo_bpm", "title", "track_number"}
CONTAINER_NAMES: Mapping[str, str] = {
    # ID3v2.4 frames, https://id3.org/id3v2.4.0-frames; mutagen lifts older versions to it
    "TALB": "album", "TBPM": "tempo_bpm", "TCOM": "composer", "TCON": "genre", "TCOP": "copyright",
    "TDRC": "date", "TIT2": "title", "TKEY": "key", "TLAN": "language", "TMOO": "moods",
    "TPE1": "artist", "TPE2": "album_artist", "TRCK": "track_number", "WCOP": "licence",
    # MP4 atoms as iTunes writes them
    "\xa9alb": "album", "\xa9ART": "artist", "\xa9day": "date", "\xa9gen": "genre",
    "\xa9nam": "title", "\xa9wrt": "composer", "aART": "album_artist", "cprt": "copyright",
    "tmpo": "tempo_bpm", "trkn": "track_number",
    # ASF, https://learn.microsoft.com/windows/win32/wmformat/attribute-list
    "Author": "artist", "WM/AlbumArtist": "album_artist", "WM/AlbumTitle": "album",
    "WM/BeatsPerMinute": "tempo_bpm", "WM/Composer": "composer", "WM/Genre": "genre",
    "WM/InitialKey": "key", "WM/Language": "language", "WM/Mood": "moods",
    "WM/TrackNumber": "track_number", "WM/Year": "date",
    # APEv2, https://wiki.hydrogenaud.io/index.php?title=APE_key
    "Track": "track_number",
}  # fmt: skip
"""Names that only one format knows; the others are words, and the synonyms of fields fit them."""
# mutagen would take these for damaged files of a kind it knows
_UNKNOWN_TO_MUTAGEN = (b"RF64", b"riff", b"caff", b".snd", b"dns.", b"\x1aE\xdf\xa3", b"Creative V")
_MPEG = (b"ID3", b"\xff")
_HAVE_TEXT_CHUNKS = (b"RIFF", b"RF64", b"FORM", b"caff")
# Besides its own errors mutagen lets these through on hostile files, since its parsers index,
# assert, unpack, convert, nest and allocate by what the file says. Tags that cannot be parsed must
# not cost the music they belong to.
_PARSER_ERRORS = (
    ArithmeticError, AssertionError, AttributeError, EOFError, LookupError, MemoryError,
    RuntimeError, TypeError, ValueError, struct.error, zlib.error,
)  # fmt: skip


@dataclass(frozen=True)
class EmbeddedTags:
    """What a file says of itself."""

    fields: Mapping[str, str] = field(default_factory=dict[str, str])
    problem: str = ""
    """What could not be read, in a few words; empty if nothing was wrong."""


def read_embedded(path: Path) -> EmbeddedTags:
    """The tags of a file; a file without tags has no fields and no problem.

    Memory and time depend on the file: run it in a worker that limits both.
    """
    found: dict[str, str] = {}
    problems: list[str] = []
    for read in (_read_tag_block, _read_text_chunks):
        try:
            # the tag block stands: text chunks are often the same, cut to 30 characters
            found = read(path) | found
        except AudioError as error:
            problems.append(str(error))
        except OSError as error:
            problems.append(f"cannot be read: {error.strerror or type(error).__name__}")
    fields, complaints = clean_fields(sorted(found.items()))
    return EmbeddedTags(fields, "; ".join([*problems, *complaints]))


def _read_tag_block(path: Path) -> dict[str, str]:
    """Tags in the container's own format."""
    with BoundedFile(path) as file:
        blocks = _parse_blocks(file)
    found: dict[str, str] = {}
    for block in blocks:
        found = _choose_fields(iterate_texts(block)) | found
    return found


def _choose_fields(named_texts: Iterable[tuple[str, list[str]]]) -> dict[str, str]:
    """The wanted fields of one block, each as one text."""
    found: dict[str, dict[str, None]] = {}  # a dict keeps the order and drops what is said twice
    for raw_name, texts in named_texts:
        name = CONTAINER_NAMES.get(raw_name) or canonical_name(raw_name)
        if name in WANTED:
            found.setdefault(name, {}).update(dict.fromkeys(text for text in texts if text))
    return {
        name: join_texts(name, texts) if name in LISTS else next(iter(texts))
        for name, texts in found.items()
        if texts
    }


def _parse_blocks(file: BoundedFile) -> list[object]:
    """The tag blocks of a file as mutagen holds them, most binding first.

    Raises:
        AudioError: If they cannot be parsed.
    """
    import mutagen

    start = file.peek(16)
    if start.startswith(_UNKNOWN_TO_MUTAGEN):
        return []
    try:
        if not start.startswith(_MPEG):
            parse = cast(Callable[[BoundedFile], Any], mutagen.File)  # pyright: ignore[reportUnknownMemberType]
            parsed = parse(file)
            if parsed is not None:
                return [parsed.tags]
        return _parse_free_blocks(file)
    except (mutagen.MutagenError, *_PARSER_ERRORS) as error:
        kind = type(error)  # mutagen calls several of its errors just "error"
        name = kind.__module__ if kind.__name__ == "error" else kind.__name__
        raise AudioError(f"damaged ({name}), not used") from error


def _parse_free_blocks(file: BoundedFile) -> list[object]:
    """Blocks before and behind a stream that has no container; its sound is not parsed."""
    from mutagen.apev2 import APENoHeaderError, APEv2
    from mutagen.id3 import ID3, ID3NoHeaderError

    blocks: list[object] = []
    with suppress(ID3NoHeaderError):
        blocks.append(ID3(file))
    with suppress(APENoHeaderError):
        blocks.append(APEv2(file))
    return blocks


def _read_text_chunks(path: Path) -> dict[str, str]:
    """Text chunks of RIFF, AIFF and CAF, which libsndfile reads and mutagen does not."""
    import soundfile  # pyright: ignore[reportMissingTypeStubs]  it has none

    with path.open("rb") as file:
        if not file.read(4).startswith(_HAVE_TEXT_CHUNKS):
            return {}
    try:
        with soundfile.SoundFile(path) as sound:
            found = sound.copy_metadata()
    except soundfile.LibsndfileError:
        return {}  # sound that cannot be decoded gets its verdict elsewhere
    named = {canonical_name(name): text for name, text in found.items()}
    # U+FFFD: it was not UTF-8, and what the letters were is unknown
    return {name: text for name, text in named.items() if name in WANTED and "\ufffd" not in text}
