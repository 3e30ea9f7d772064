"""Tags inside audio files: ID3, Vorbis comments, MP4, ASF, APEv2, and text of RIFF, AIFF and CAF.

Only fields that describe the music are taken, by a fixed list. Comments and descriptions are not:
encoders and download tools fill them, so they would be poor prompts. Runs in worker processes, so
imports are light and the result is plain data.

mutagen walks every chunk a file claims to have and keeps them all: 4 million empty chunks, 32 MB,
cost minutes and gigabytes. So it reads through a file that limits the number and size of reads, and
is imported only when called. Its types do not describe its tags, hence `Any`.
"""

import io
import struct
import zlib
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, cast

from melodac.audio.metadata.fields import canonical_name, clean_fields, join_texts
from melodac.errors import AudioError

MAX_READS = 200_000
MAX_BYTES = 32 << 20


class BoundedFile(io.BufferedReader):
    """File opened for reading that raises when its reader asks for too much."""

    def __init__(self, path: Path) -> None:
        super().__init__(io.FileIO(path))
        self._reads_left = MAX_READS
        self._bytes_left = MAX_BYTES

    @property
    def name(self) -> str:
        """Empty name, so that mutagen chooses no parser by extension but by content."""
        return ""

    def read(self, size: int | None = -1, /) -> bytes:
        """Read at most `size` bytes.

        Raises:
            AudioError: If the limit of reads or bytes is exceeded.
        """
        # one byte above the limit, so that a wrong length in a header allocates no memory
        allowed = self._bytes_left + 1
        data = super().read(allowed if size is None or not 0 <= size < allowed else size)
        self._reads_left -= 1
        self._bytes_left -= len(data)
        if self._reads_left < 0:
            raise AudioError(f"more than {MAX_READS} parts, not used")
        if self._bytes_left < 0:
            raise AudioError(f"more than {MAX_BYTES >> 20} MB of tags, not used")
        return data


FREE_FORM = "----:com.apple.iTunes:"
_MP4_PREFIXES = ("\xa9", "aART", "cprt", "tmpo")

Texts = Iterator[tuple[str, list[str]]]


def iterate_texts(tags: object) -> Texts:
    """Yield each name of a tag block with its texts, in the order of the file."""
    from mutagen._vorbis import VComment  # the common base of Ogg, Opus and FLAC comments
    from mutagen.apev2 import APEv2
    from mutagen.asf import ASFTags
    from mutagen.id3 import ID3
    from mutagen.mp4 import MP4Tags

    readers: list[tuple[type, Callable[[Any], Texts]]] = [
        (ID3, _id3_texts),
        (VComment, _vorbis_texts),
        (MP4Tags, _mp4_texts),
        (ASFTags, _asf_texts),
        (APEv2, _ape_texts),
    ]
    for kind, read in readers:
        if isinstance(tags, kind):
            yield from read(tags)


def _id3_texts(tags: Any) -> Texts:  # noqa: ANN401
    for frame in tags.values():
        match frame.FrameID:
            case "TCON":
                yield "TCON", [str(genre) for genre in frame.genres]  # numbers become names
            case "TXXX":
                yield frame.desc, _repaired(frame)
            case "WCOP":
                yield "WCOP", [frame.url]
            case "TIPL" | "TMCL":
                pass  # pairs of job and person
            case name if name.startswith("T"):
                yield name, _repaired(frame)
            case _:
                pass


def _repaired(frame: Any) -> list[str]:  # noqa: ANN401
    """Return the texts, repaired where UTF-8 was stored as Latin-1, as libsndfile and LAME do."""
    texts = [str(text) for text in frame.text]
    return [_read_as_utf8(text) for text in texts] if frame.encoding == 0 else texts


def _read_as_utf8(text: str) -> str:
    try:
        return text.encode("latin-1").decode("utf-8")
    except UnicodeError:
        return text  # real Latin-1: its non-ASCII letters hardly ever form valid UTF-8


def _vorbis_texts(tags: Any) -> Texts:  # noqa: ANN401
    # slicing returns the underlying list; as a mapping each look-up would walk it
    pairs: list[tuple[str, str]] = tags[:]
    for name, text in pairs:
        yield name, [text]


def _asf_texts(tags: Any) -> Texts:  # noqa: ANN401
    pairs: list[tuple[str, Any]] = tags[:]
    for name, attribute in pairs:
        if isinstance(attribute.value, (str, int)):
            yield name, [str(attribute.value)]


def _ape_texts(tags: Any) -> Texts:  # noqa: ANN401
    from mutagen.apev2 import APETextValue

    for name, value in tags.items():
        if isinstance(value, APETextValue):
            yield name, [str(text) for text in value]


def _mp4_texts(tags: Any) -> Texts:  # noqa: ANN401
    for name, values in tags.items():
        if name.startswith(FREE_FORM):
            yield name.removeprefix(FREE_FORM), [_decode(bytes(value)) for value in values]
        elif name == "trkn":
            yield name, [str(number) for number, _ in values if number]
        elif name.startswith(_MP4_PREFIXES):
            yield name, [str(value) for value in values]


def _decode(data: bytes) -> str:
    try:
        return data.decode("utf-8")
    except UnicodeDecodeError:
        return ""  # a binary value


LISTS = frozenset({
    "album_artist", "artist", "composer", "genre", "instrument", "keywords", "language", "licence",
    "moods",
})  # fmt: skip
"""Fields that may have several values; of other fields the first value counts."""
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
"""Names specific to one format; all others are words, matched by the synonyms of fields."""
# mutagen would mistake these for damaged files of a kind it knows
_UNKNOWN_TO_MUTAGEN = (b"RF64", b"riff", b"caff", b".snd", b"dns.", b"\x1aE\xdf\xa3", b"Creative V")
_MPEG = (b"ID3", b"\xff")
_HAVE_TEXT_CHUNKS = (b"RIFF", b"RF64", b"FORM", b"caff")
# Besides its own errors mutagen lets these through on hostile files, since its parsers index,
# assert, unpack, convert, nest and allocate by what the file says. Unparsable tags must not cost
# the music they belong to.
_PARSER_ERRORS = (
    ArithmeticError, AssertionError, AttributeError, EOFError, LookupError, MemoryError,
    RuntimeError, TypeError, ValueError, struct.error, zlib.error,
)  # fmt: skip


@dataclass(frozen=True)
class EmbeddedTags:
    """Tags embedded in a file."""

    fields: Mapping[str, str] = field(default_factory=dict[str, str])
    problem: str = ""
    """Problem in a few words; empty if all was read."""


def read_embedded(path: Path) -> EmbeddedTags:
    """Read the tags of a file; a file without tags has no fields and no problem.

    Memory and time depend on the file: run it in a worker that limits both.
    """
    found: dict[str, str] = {}
    problems: list[str] = []
    for read in (_read_tag_block, _read_text_chunks):
        try:
            # the tag block takes precedence: text chunks are often copies cut to 30 characters
            found = read(path) | found
        except AudioError as error:
            problems.append(str(error))
        except OSError as error:
            problems.append(f"cannot be read: {error.strerror or type(error).__name__}")
    fields, complaints = clean_fields(sorted(found.items()))
    return EmbeddedTags(fields, "; ".join([*problems, *complaints]))


def _read_tag_block(path: Path) -> dict[str, str]:
    """Read the tags in the container's own format."""
    with BoundedFile(path) as file:
        blocks = _parse_blocks(file)
    found: dict[str, str] = {}
    for block in blocks:
        found = _choose_fields(iterate_texts(block)) | found
    return found


def _choose_fields(named_texts: Iterable[tuple[str, list[str]]]) -> dict[str, str]:
    """Return the wanted fields of one block, each as one text."""
    found: dict[str, dict[str, None]] = {}  # a dict keeps the order and drops repeated values
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
    """Return the tag blocks of a file as mutagen holds them, by precedence.

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
        kind = type(error)  # several of mutagen's errors are just called "error"
        name = kind.__module__ if kind.__name__ == "error" else kind.__name__
        raise AudioError(f"damaged ({name}), not used") from error


def _parse_free_blocks(file: BoundedFile) -> list[object]:
    """Return the blocks before and after a stream without container; the audio is not parsed."""
    from mutagen.apev2 import APENoHeaderError, APEv2
    from mutagen.id3 import ID3, ID3NoHeaderError

    blocks: list[object] = []
    with suppress(ID3NoHeaderError):
        blocks.append(ID3(file))
    with suppress(APENoHeaderError):
        blocks.append(APEv2(file))
    return blocks


def _read_text_chunks(path: Path) -> dict[str, str]:
    """Read the text chunks of RIFF, AIFF and CAF, which libsndfile reads and mutagen does not."""
    import soundfile  # pyright: ignore[reportMissingTypeStubs]  it has none

    with path.open("rb") as file:
        if not file.read(4).startswith(_HAVE_TEXT_CHUNKS):
            return {}
    try:
        with soundfile.SoundFile(path) as sound:
            found = sound.copy_metadata()
    except soundfile.LibsndfileError:
        return {}  # undecodable audio is reported elsewhere
    named = {canonical_name(name): text for name, text in found.items()}
    # U+FFFD: the bytes were not UTF-8, and the original letters are unknown
    return {name: text for name, text in named.items() if name in WANTED and "\ufffd" not in text}
