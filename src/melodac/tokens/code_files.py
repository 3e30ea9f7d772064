"""Files of codes from elsewhere: `.npq`, and tables of frames by codebooks as `.npy` or `.pt`.

Hostile input: no pickle is executed, sizes are compared with the file's own before anything is
allocated, links are not followed. What a file does not say (codec, channels) is not guessed from
its bytes.
"""

import pickle
import stat
import struct
import tokenize
import zipfile
from pathlib import Path

import numpy as np
import torch
from jaxtyping import Integer, UInt16
from torch import Tensor

from melodac.errors import TokenError
from melodac.tokens.npq import NpqTokens, read_npq
from melodac.tokens.vocabulary import CODEBOOK_SIZE

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
