"""Text in the tag formats of each container, as mutagen holds it: names with their texts.

Internal to `embedded`, and like it imports mutagen only when called. mutagen's types do not say
what its tags hold, hence `Any`. Pictures and other binary values have no text and are passed over.
"""

from collections.abc import Callable, Iterator
from typing import Any

FREE_FORM = "----:com.apple.iTunes:"
_MP4_PREFIXES = ("\xa9", "aART", "cprt", "tmpo")

Texts = Iterator[tuple[str, list[str]]]


def iterate_texts(tags: object) -> Texts:
    """Each name of a tag block with its texts, in the order of the file."""
    from mutagen._vorbis import VComment  # the one base of Ogg's, Opus' and FLAC's comments
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
                yield "TCON", [str(genre) for genre in frame.genres]  # some are numbers of a list
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
    """The texts meant where UTF-8 was filed as Latin-1, as libsndfile and LAME do."""
    texts = [str(text) for text in frame.text]
    return [_read_as_utf8(text) for text in texts] if frame.encoding == 0 else texts


def _read_as_utf8(text: str) -> str:
    try:
        return text.encode("latin-1").decode("utf-8")
    except UnicodeError:
        return text  # Latin-1 indeed: its letters beyond ASCII hardly ever make valid UTF-8


def _vorbis_texts(tags: Any) -> Texts:  # noqa: ANN401
    # a slice is the list it is; as a mapping each look-up walks the list
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
