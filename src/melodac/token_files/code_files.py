"""Files of codes from elsewhere: NPQ1 and NPQ2, and tables of frames by codebooks, .npy or .pt.

Hostile input: no pickle is executed, sizes are compared with the file's own before anything is
allocated, links are not followed. What a file does not say (codec, channels, rate, hop) is not
guessed from its bytes.

    NPQ1  4s magic, u16 version, u16 K,           f32 rate, f32 kbps, u32 T, u32 vocab[K], u8 width
    NPQ2  4s magic, u16 version, u8 mode, u16 K of mid, u16 K of side,
                                                  f32 rate, f32 kbps, u32 T, u32 vocab[K], u8 width

All little-endian; then T x K unsigned codes, frame after frame, of 1, 2 or 4 bytes (width 0, 1, 2).

Source:
    The description of NPQ and its exporter, as found in public code: NPQ version 1.
"""

import math
import pickle
import stat
import struct
import tokenize
import zipfile
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import numpy as np
import torch
from jaxtyping import Integer, UInt16
from torch import Tensor

from melodac.errors import TokenError
from melodac.tokens.vocabulary import CODEBOOK_SIZE

VERSION = 1
"""Of both; the magic tells them apart."""

MAX_CODEBOOKS = 64
"""More than any codec has."""

_MAGICS = {b"NPQ1": "<HHffI", b"NPQ2": "<HBHHffI"}
_MONO, _MID_SIDE = 0, 1
_WIDTHS = ("<u1", "<u2", "<u4")
_BYTES = (1, 2, 4)


@dataclass(frozen=True)
class NpqTokens:
    """All that an NPQ file says."""

    magic: Literal["NPQ1", "NPQ2"]
    codes: UInt16[np.ndarray, "K T"]
    """Codebooks of mid, or of mono, then those of side."""
    num_side: int
    """Codebooks of side; 0 for mono."""
    rate_hz: float
    """Frames per second: those of the file over the seconds of its source."""
    bitrate_kbps: float
    """Of the file that was encoded."""
    vocabulary_sizes: tuple[int, ...]
    width: int
    """0, 1 or 2: codes of 1, 2 or 4 bytes."""


def read_npq(path: Path) -> NpqTokens:
    """Read a file of either kind.

    Sizes are held against the file's own before anything is allocated.

    Raises:
        TokenError: If the file is no NPQ file, is cut short, goes on after its end, or holds a
            rate, vocabulary or code that no music has.
    """
    size = path.stat().st_size
    with path.open("rb") as file:
        magic = file.read(4)
        if magic not in _MAGICS:
            raise TokenError(f"{path}: begins with {magic!r}, NPQ files with b'NPQ1' or b'NPQ2'")
        form = _MAGICS[magic]
        head = file.read(struct.calcsize(form))
        if len(head) < struct.calcsize(form):
            raise TokenError(f"{path}: ends after {size} bytes, inside its header")
        found = _read_head(path, magic, struct.unpack(form, head))
        rest = file.read(4 * found.num_columns + 1)
        if len(rest) < 4 * found.num_columns + 1:
            raise TokenError(f"{path}: ends after {size} bytes, inside its header")
        numbers: tuple[int, ...] = struct.unpack(f"<{found.num_columns}IB", rest)
        sizes, width = numbers[:-1], numbers[-1]
        if width >= len(_WIDTHS):
            raise TokenError(f"{path}: width code {width}, allowed are 0, 1 and 2")
        expected = file.tell() + found.num_frames * found.num_columns * _BYTES[width]
        if size != expected:
            raise TokenError(
                f"{path}: has {size} bytes, its header speaks of {found.num_frames} frames of "
                f"{found.num_columns} codes: {expected} bytes"
            )
        flat: Integer[np.ndarray, " _"] = np.frombuffer(file.read(), _WIDTHS[width])
    codes = flat.reshape(found.num_frames, found.num_columns)
    _check_codes(path, codes, sizes)
    return NpqTokens(
        magic="NPQ1" if magic == b"NPQ1" else "NPQ2",
        codes=np.ascontiguousarray(codes.T.astype(np.uint16)),
        num_side=found.num_side,
        rate_hz=found.rate_hz,
        bitrate_kbps=found.bitrate_kbps,
        vocabulary_sizes=sizes,
        width=width,
    )


def encode_npq(tokens: NpqTokens) -> bytes:
    """The bytes of the file: for what was read, those that were read."""
    K, T = tokens.codes.shape
    columns = (
        (K,) if tokens.magic == "NPQ1" else (_mode(tokens), K - tokens.num_side, tokens.num_side)
    )
    magic = tokens.magic.encode()
    head = struct.pack(_MAGICS[magic], VERSION, *columns, tokens.rate_hz, tokens.bitrate_kbps, T)
    tail = struct.pack(f"<{K}IB", *tokens.vocabulary_sizes, tokens.width)
    return magic + head + tail + tokens.codes.T.astype(_WIDTHS[tokens.width]).tobytes()


def make_npq(
    codes: UInt16[np.ndarray, "K T"], *, num_side: int, rate_hz: float, codebook_size: int
) -> NpqTokens:
    """Codes as a file to be written: NPQ1 for mono, NPQ2 for mid and side.

    Args:
        codes: Codebooks of mid, or of mono, then those of side.
        num_side: Codebooks of side; 0 for mono.
        rate_hz: Frames per second.
        codebook_size: Codes of each codebook.
    """
    return NpqTokens(
        magic="NPQ2" if num_side else "NPQ1",
        codes=codes,
        num_side=num_side,
        rate_hz=rate_hz,
        bitrate_kbps=0.0,
        vocabulary_sizes=(codebook_size,) * len(codes),
        width=0 if codebook_size <= 256 else 1,
    )


@dataclass(frozen=True)
class _Head:
    num_columns: int
    num_side: int
    rate_hz: float
    bitrate_kbps: float
    num_frames: int


def _read_head(path: Path, magic: bytes, fields: tuple[int | float, ...]) -> _Head:
    version, *columns, rate_hz, bitrate_kbps, num_frames = fields
    if version != VERSION:
        raise TokenError(f"{path}: {magic.decode()} of version {version}, only 1 is known")
    mode, first, num_side = (_MONO, columns[0], 0) if magic == b"NPQ1" else map(int, columns)
    if mode not in {_MONO, _MID_SIDE} or (
        magic == b"NPQ2" and (mode == _MID_SIDE) != (num_side > 0)
    ):
        raise TokenError(
            f"{path}: channel mode {mode} with {num_side} codebooks of side; mode 0 is mono "
            "without any, mode 1 mid and side"
        )
    num_columns = int(first) + num_side
    if not (first >= 1 and num_columns <= MAX_CODEBOOKS and num_frames >= 1):
        raise TokenError(
            f"{path}: {num_frames} frames of {num_columns} codebooks, allowed are 1 to "
            f"{MAX_CODEBOOKS} codebooks and at least 1 frame"
        )
    if not (math.isfinite(rate_hz) and rate_hz > 0 and math.isfinite(bitrate_kbps)):
        raise TokenError(
            f"{path}: {rate_hz} frames per second from {bitrate_kbps} kbps, rates are numbers"
        )
    return _Head(num_columns, num_side, float(rate_hz), float(bitrate_kbps), int(num_frames))


def _mode(tokens: NpqTokens) -> int:
    return _MID_SIDE if tokens.num_side else _MONO


def _check_codes(path: Path, codes: np.ndarray, sizes: tuple[int, ...]) -> None:
    """Raise `TokenError` if a vocabulary is too large, or a code not in its vocabulary."""
    if not all(1 <= size <= CODEBOOK_SIZE for size in sizes):
        raise TokenError(
            f"{path}: vocabularies of {sorted(set(sizes))} codes, allowed are 1 to {CODEBOOK_SIZE}"
        )
    largest = codes.max(axis=0)
    wrong = np.flatnonzero(largest >= np.array(sizes))
    if len(wrong):
        column = int(wrong[0])
        raise TokenError(
            f"{path}: codebook {column} holds code {int(largest[column])}, its vocabulary has "
            f"{sizes[column]}"
        )


SUFFIXES = (".npq", ".npy", ".pt")
"""What can be read."""


def read_code_file(path: Path) -> NpqTokens | UInt16[np.ndarray, "K T"]:
    """What a file holds: an NPQ file with its header, or the codes of a table.

    Raises:
        TokenError: If it is a link or no regular file, not what its suffix says, or not codes.
    """
    if not stat.S_ISREG(path.lstat().st_mode):
        raise TokenError(f"{path}: a link or no regular file")
    try:
        if path.suffix == ".npq":
            return read_npq(path)
        table = _read_npy(path) if path.suffix == ".npy" else _read_pt(path)
    except OSError as error:
        raise TokenError(f"{path}: cannot be read: {error.strerror or error}") from error
    return _check_table(path, table)


def write_code_file(path: Path, codes: UInt16[np.ndarray, "K T"]) -> None:
    """Write a table of frames by codebooks in int16: `.npy`, else what `torch.load` reads."""
    table = np.ascontiguousarray(codes.T.astype(np.int16))
    if path.suffix == ".npy":
        np.save(path, table, allow_pickle=False)
    else:
        torch.save(torch.as_tensor(table), path)


def _read_npy(path: Path) -> np.ndarray:
    try:
        # maps the file, so a header that asks for more than there is allocates nothing
        table = np.lib.format.open_memmap(path, mode="r")
    except (
        ValueError,
        EOFError,
        SyntaxError,
        MemoryError,
        OverflowError,
        tokenize.TokenError,
    ) as error:
        raise TokenError(f"{path}: no array of numbers: {_first_line(error)}") from error
    rest = path.stat().st_size - table.offset - table.nbytes
    if rest:
        raise TokenError(f"{path}: {rest} bytes follow its array")
    return table


def _read_pt(path: Path) -> np.ndarray:
    _check_archive(path)
    try:
        found = torch.load(path, map_location="cpu", weights_only=True)
    except (
        pickle.UnpicklingError,
        RuntimeError,
        ValueError,
        EOFError,
        LookupError,
        AttributeError,
        TypeError,
        struct.error,
    ) as error:
        raise TokenError(f"{path}: no tensor alone: {_first_line(error)}") from error
    if not isinstance(found, Tensor) or found.layout != torch.strided or found.is_meta:
        raise TokenError(f"{path}: holds a {type(found).__name__}, expected one dense tensor")
    if found.numel() * found.element_size() > found.untyped_storage().nbytes():
        raise TokenError(f"{path}: a tensor of {tuple(found.shape)} over less memory than that")
    if found.is_floating_point() or found.is_complex() or found.dtype == torch.bool:
        raise TokenError(f"{path}: numbers of {found.dtype}, codes are whole numbers")
    return found.numpy()


def _check_archive(path: Path) -> None:
    """Refuse what unpacks to more than the file itself, and the format before archives."""
    try:
        with zipfile.ZipFile(path) as archive:
            entries = archive.infolist()
    except (zipfile.BadZipFile, ValueError, NotImplementedError, struct.error) as error:
        raise TokenError(f"{path}: no archive of torch.save: {_first_line(error)}") from error
    unpacked = sum(entry.file_size for entry in entries)
    if unpacked > path.stat().st_size or any(entry.compress_type for entry in entries):
        raise TokenError(
            f"{path}: {unpacked} bytes packed into {path.stat().st_size}, torch.save packs nothing"
        )


def _check_table(
    path: Path, table: Integer[np.ndarray, "..."] | np.ndarray
) -> UInt16[np.ndarray, "K T"]:
    if table.ndim != 2 or table.dtype.kind not in "iu" or not table.size:
        raise TokenError(
            f"{path}: {table.dtype} of shape {table.shape}, expected whole numbers of frames by "
            "codebooks"
        )
    low, high = int(table.min()), int(table.max())
    if low < 0 or high >= CODEBOOK_SIZE:
        raise TokenError(
            f"{path}: numbers from {low} to {high}, codes are 0 to {CODEBOOK_SIZE - 1}: take out "
            "special tokens first"
        )
    return np.ascontiguousarray(table.T.astype(np.uint16))


def _first_line(error: BaseException) -> str:
    return (str(error).splitlines() or [type(error).__name__])[0]
