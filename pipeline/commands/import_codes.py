"""`melodac import`: files of codes made elsewhere -> a token store with a record of its tracks.

An import is a folder that `ingest.source` can name. Nothing is guessed: the user names the codec,
and what a file claims about itself (rate, vocabulary, hash, format) is kept in its track's tags.
A file that cannot be used gets its line in report.csv; an import whose files differ in channels or
codebooks is refused.
"""

import hashlib
import json
import logging
import os
from collections import Counter
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from jaxtyping import UInt16

from melodac.audio.metadata.fields import GROUP, LICENCE, clean_fields
from melodac.codec.interface import Codec
from melodac.codec.load import SHA256, WEIGHTS, has_official_weights, load_codec, load_codec_folder
from melodac.codec.weights import CONFIG_FILE
from melodac.errors import OutputError, TokenError
from melodac.files import hash_file
from melodac.token_files.code_files import SUFFIXES, NpqTokens, read_code_file
from melodac.token_files.store_writer import TrackSource, write_store
from melodac.tokens.store.header import Channel, StoreHeader
from melodac.tokens.store.reader import open_store
from melodac.tokens.vocabulary import CODEBOOK_SIZE
from pipeline.records import write_json, write_text
from pipeline.source.imported import RECORD, REPORT, STORE, ImportedTrack, ImportRecord
from pipeline.source.verdicts import Verdict, format_report

log = logging.getLogger(__name__)
METADATA = "metadata.json"
MAX_METADATA_BYTES = 2**28
SAMPLE_RATE_HZ, HOP, NUM_CODEBOOKS = 44_100, 512, 9
"""Format of the only codes that can be imported; `NUM_CODEBOOKS` is the most in a channel."""
RATE_TOLERANCE = 0.005
"""Largest relative error of the frame rate that a file claims."""
UNKNOWN_WEIGHTS = "unknown"
IMPORTED = "imported_"
"""Prefix of the tags that hold what a file claims about itself."""

Shape = tuple[tuple[Channel, ...], tuple[int, ...]]
"""Channels, and number of codebooks of each."""


class Imported(NamedTuple):
    """Result of an import: its record, and a verdict for every file."""

    record: ImportRecord
    verdicts: tuple[Verdict, ...]


class _Usable(NamedTuple):
    path: str
    shape: Shape
    track: ImportedTrack


def import_codes(folder: Path, output: Path, codec: str) -> Imported:
    """Import every file of codes in a folder and its subfolders.

    Args:
        folder: `.npq`, `.npy` and `.pt` files, and optionally `metadata.json`.
        output: Folder of the import; an older import there is replaced.
        codec: Codec that made the codes: a name, or a weights folder as `codec.py export` writes.

    Raises:
        TokenError: If no file can be used, or usable ones differ in channels or codebooks, or the
            codec's frames or codes have another format.
        OutputError: If something else is already at `output`.
    """
    if output.exists() and any(output.iterdir()) and not (output / RECORD).is_file():
        raise OutputError(f"{output} exists and is no import: remove it or choose another path")
    metadata = _read_metadata(folder)
    verdicts, usable = _examine(folder, metadata)
    shapes = Counter(one.shape for one in usable)
    if len(shapes) != 1:
        raise TokenError(_explain_shapes(folder, usable, verdicts))
    maker = find_codec(codec)
    header = _make_header(codec, usable[0].shape, maker)
    output.mkdir(parents=True, exist_ok=True)
    # the record is removed first and written last: an import that was cut off has none
    (output / RECORD).unlink(missing_ok=True)
    write_store(
        output / STORE,
        header,
        [_source(folder / one.path, one.track) for one in usable],
        vectors=None if maker is None else maker.code_vectors().numpy(),
    )
    store = open_store(output / STORE)
    tracks = tuple(one.track for one in usable)
    record = ImportRecord(header=header, store_fingerprint=store.fingerprint, tracks=tracks)
    write_text(output / REPORT, format_report(verdicts))
    write_json(output / RECORD, record.model_dump(mode="json"))
    return Imported(record, tuple(verdicts))


def _examine(
    folder: Path, metadata: Mapping[str, Mapping[str, Any]]
) -> tuple[list[Verdict], list[_Usable]]:
    verdicts: list[Verdict] = []
    usable: list[_Usable] = []
    first_of: dict[str, str] = {}
    for path in _list_files(folder):
        name = path.relative_to(folder).as_posix()
        try:
            one = _examine_file(path, name, metadata.get(name, {}))
        except TokenError as error:
            reason = str(error).removeprefix(f"{path}: ")
            verdicts.append(Verdict(name, "reject", reason))
            continue
        twin = first_of.setdefault(one.track.codes_sha256, name)
        if twin != name:
            verdicts.append(Verdict(name, "reject", f"same codes as: {twin}"))
            continue
        verdicts.append(Verdict(name, "accept"))
        usable.append(one)
    return verdicts, usable


def _list_files(folder: Path) -> list[Path]:
    """List files of codes, sorted by path; folders behind symbolic links are not entered.

    Raises:
        TokenError: If there is none.
    """
    found = [
        Path(root) / name
        for root, _, names in os.walk(folder)
        for name in names
        if Path(name).suffix in SUFFIXES
    ]
    if not found:
        raise TokenError(f"{folder}: no file of codes ({', '.join(SUFFIXES)})")
    return sorted(found, key=lambda path: path.relative_to(folder).as_posix())


def _examine_file(path: Path, name: str, metadata: Mapping[str, Any]) -> _Usable:
    content = read_code_file(path)
    codes = content.codes if isinstance(content, NpqTokens) else content
    shape, claims = _understand(path, content, metadata)
    sha256 = hash_file(path)
    fields, _ = clean_fields(
        ("description" if key == "text" else key, str(value))
        for key, value in metadata.items()
        if key not in {"sr", "channels", "length"} and isinstance(value, str | int | float)
    )
    claims = {**claims, "format": path.suffix[1:], "sha256": sha256}
    tags = {key: value for key, value in fields.items() if key not in {GROUP, LICENCE}}
    tags |= {f"{IMPORTED}{key}": value for key, value in claims.items()}
    sources = dict.fromkeys(fields, METADATA) | {
        f"{IMPORTED}{key}": "the file itself" for key in claims
    }
    track = ImportedTrack(
        id=sha256[:16],
        path=name,
        codes_sha256=hashlib.sha256(np.ascontiguousarray(codes.T).tobytes()).hexdigest(),
        num_frames=codes.shape[1],
        group=fields.get(GROUP, ""),
        licence=fields.get(LICENCE, ""),
        tags=dict(sorted(tags.items())),
        tag_sources=dict(sorted(sources.items())),
    )
    return _Usable(name, shape, track)


def _understand(
    path: Path, content: NpqTokens | UInt16[np.ndarray, "K T"], metadata: Mapping[str, Any]
) -> tuple[Shape, dict[str, str]]:
    """Return channels and codebooks of a file, and the claims of its header as tags."""
    if isinstance(content, NpqTokens):
        _check_rate(path, content)
        num_first = len(content.codes) - content.num_side
        channels: tuple[Channel, ...] = ("mid", "side") if content.num_side else ("mono",)
        counts = (num_first, content.num_side) if content.num_side else (num_first,)
        claims = {
            "rate_hz": repr(content.rate_hz),
            "bitrate_kbps": repr(content.bitrate_kbps),
            "vocabulary": ",".join(map(str, content.vocabulary_sizes)),
            "width": str(content.width),
            "magic": content.magic,
        }
    else:
        channels, counts = _split_columns(path, len(content), metadata.get("channels"))
        _check_claims(path, content.shape[1], metadata)
        claims = {}
    if max(counts) > NUM_CODEBOOKS:
        raise TokenError(
            f"{path}: {max(counts)} codebooks in a channel, allowed are 1 to {NUM_CODEBOOKS}; a "
            "table holds frames by codebooks, not codebooks by frames"
        )
    return (channels, counts), claims


def _split_columns(
    path: Path, num_columns: int, num_channels: object
) -> tuple[tuple[Channel, ...], tuple[int, ...]]:
    """Split a table's columns: stereo if the metadata says so, or if it is too wide for mono."""
    is_stereo = num_channels == 2 or (num_channels is None and num_columns == 2 * NUM_CODEBOOKS)
    # 18 columns for one channel: the mono recording was doubled to stereo before it was encoded
    if num_channels == 1 and num_columns == 2 * NUM_CODEBOOKS:
        is_stereo = True
    if not is_stereo:
        return ("mono",), (num_columns,)
    if num_columns % 2:
        raise TokenError(f"{path}: {num_columns} columns are no two channels")
    return ("left", "right"), (num_columns // 2, num_columns // 2)


def _check_rate(path: Path, tokens: NpqTokens) -> None:
    """Raise `TokenError` for another frame rate; one frame is tolerated, for short files."""
    num_frames = tokens.codes.shape[1]
    expected = SAMPLE_RATE_HZ / HOP
    claimed = num_frames * expected / tokens.rate_hz
    if abs(claimed - num_frames) > max(RATE_TOLERANCE * num_frames, 1.0):
        raise TokenError(
            f"{path}: {tokens.rate_hz:.3f} frames per second, the codec has {expected:.3f}"
        )


def _check_claims(path: Path, num_frames: int, metadata: Mapping[str, Any]) -> None:
    """Raise `TokenError` if `metadata.json` contradicts the file; length: frames or samples."""
    rate, length = metadata.get("sr"), metadata.get("length")
    if rate is not None and rate != SAMPLE_RATE_HZ:
        raise TokenError(f"{path}: {METADATA} says {rate} Hz, the codec has {SAMPLE_RATE_HZ}")
    if isinstance(length, int | float) and not (
        length == num_frames or abs(length / HOP - num_frames) <= 1
    ):
        raise TokenError(f"{path}: {num_frames} frames, {METADATA} says length {length}")


def _read_metadata(folder: Path) -> dict[str, Mapping[str, Any]]:
    """Read the fields of each file from `metadata.json`; empty if there is none.

    Raises:
        TokenError: If it is not a mapping of files to fields, or too large.
    """
    path = folder / METADATA
    if not path.is_file() or path.is_symlink():
        return {}
    if path.stat().st_size > MAX_METADATA_BYTES:
        raise TokenError(f"{path}: more than {MAX_METADATA_BYTES} bytes")
    try:
        found: Any = json.loads(path.read_bytes())
    except (ValueError, RecursionError) as error:
        raise TokenError(f"{path}: no JSON: {error}") from error
    if not isinstance(found, dict) or not all(isinstance(v, dict) for v in found.values()):
        raise TokenError(f'{path}: expected {{"<file>": {{"text": ..., ...}}}}')
    return found


def _explain_shapes(folder: Path, usable: Sequence[_Usable], verdicts: Sequence[Verdict]) -> str:
    if not usable:
        first = next(verdict for verdict in verdicts if verdict.verdict == "reject")
        return (
            f"{folder}: none of {len(verdicts)} files can be used, the first is {first.path}: "
            f"{first.reason}"
        )
    examples = {one.shape: one.path for one in reversed(usable)}
    named = "; ".join(
        f"{path} holds {', '.join(channels)} with {', '.join(map(str, counts))} codebooks"
        for (channels, counts), path in sorted(examples.items())
    )
    return (
        f"{folder}: a store has one set of channels and codebooks, but {named}: import them apart"
    )


def find_codec(codec: str) -> Codec | None:
    """Load the codec that made the codes, if its weights are on this machine; no download.

    Args:
        codec: A name that `load_codec` knows, a weights folder, or any other name.

    Raises:
        TokenError: If the codec has another sample rate, hop or codebook size.
    """
    if codec == "44khz" and not has_official_weights():
        found = None
    elif codec in WEIGHTS:
        found = load_codec(codec)
    elif (Path(codec) / CONFIG_FILE).is_file():
        found = load_codec_folder(Path(codec), name=Path(codec).name)
    else:
        found = None
    if found is None:
        log.warning(
            "the weights of codec %r are not on this machine, so the import does not say what its "
            "codes sound like: models will have to learn that (train.embedding)",
            codec,
        )
        return None
    shape = (found.sample_rate_hz, found.hop, found.codebook_size)
    if shape != (SAMPLE_RATE_HZ, HOP, CODEBOOK_SIZE):
        raise TokenError(
            f"codec {codec!r} has (rate, hop, codes) {shape}, codes can be imported of "
            f"{(SAMPLE_RATE_HZ, HOP, CODEBOOK_SIZE)} only"
        )
    return found


def _make_header(codec: str, shape: Shape, maker: Codec | None) -> StoreHeader:
    channels, codebooks = shape
    unknown = SHA256 if codec == "44khz" else UNKNOWN_WEIGHTS
    return StoreHeader(
        codec=codec if maker is None else maker.name,
        weights_sha256=unknown if maker is None else maker.weights_sha256,
        sample_rate_hz=SAMPLE_RATE_HZ,
        hop=HOP,
        codebook_size=CODEBOOK_SIZE,
        channels=channels,
        codebooks=codebooks,
        target_lufs=None,
    )


def _source(path: Path, track: ImportedTrack) -> TrackSource:
    def read() -> UInt16[np.ndarray, "K T"]:
        content = read_code_file(path)
        codes = content.codes if isinstance(content, NpqTokens) else content
        found = hashlib.sha256(np.ascontiguousarray(codes.T).tobytes()).hexdigest()
        if found != track.codes_sha256:
            raise TokenError(f"{path}: changed while it was imported; import again")
        return codes

    return TrackSource(track.id, track.num_frames, read)
