"""The vectors of a codec's codes, stored beside the codes: what each code sounds like, as numbers.

One file with one tensor of codebooks x codes x dimensions, as `Codec.code_vectors` gives it. All
channels share it, since one codec encoded each of them. With it nothing has to load a codec to
train or to run a language model.
"""

from pathlib import Path

import numpy as np
from jaxtyping import Float32
from safetensors import SafetensorError
from safetensors.numpy import load_file, save_file  # pyright: ignore[reportUnknownVariableType]  untyped paths

from melodac.errors import StoreCorruptError, TokenError
from melodac.tokens.header import StoreHeader

_TENSOR = "code_vectors"

CodeVectors = Float32[np.ndarray, "K U Z"]


def write_vectors(path: Path, vectors: CodeVectors, header: StoreHeader) -> None:
    """Write the vectors of a store.

    Raises:
        TokenError: If they do not fit the store's codes.
    """
    problem = _find_misfit(vectors, header)
    if problem:
        raise TokenError(f"the code vectors of codec {header.codec!r} cannot be stored: {problem}")
    save_file({_TENSOR: np.ascontiguousarray(vectors)}, path)


def read_vectors(path: Path, header: StoreHeader) -> CodeVectors:
    """Read the vectors of a store.

    Raises:
        StoreCorruptError: If the file holds something else, or they do not fit the store's codes.
    """
    try:
        tensors = load_file(path)
    except (OSError, SafetensorError) as error:
        raise StoreCorruptError(
            f"{path} cannot be read ({error}): write the store again"
        ) from error
    if set(tensors) != {_TENSOR}:
        raise StoreCorruptError(
            f"{path} holds {sorted(tensors)}, expected {_TENSOR!r} alone: write the store again"
        )
    problem = _find_misfit(tensors[_TENSOR], header)
    if problem:
        raise StoreCorruptError(f"{path}: {problem}; write the store again")
    return tensors[_TENSOR]


def _find_misfit(vectors: np.ndarray, header: StoreHeader) -> str:
    """Say what is wrong with vectors for the codes of a store; nothing if they fit."""
    num_codebooks, num_codes = max(header.codebooks), header.codebook_size
    if vectors.dtype != np.float32 or vectors.ndim != 3 or not vectors.size:
        return (
            f"expected float32 codebooks x codes x dimensions, got {vectors.dtype} {vectors.shape}"
        )
    if vectors.shape[0] < num_codebooks or vectors.shape[1] != num_codes:
        return (
            f"{vectors.shape[0]} codebooks of {vectors.shape[1]} vectors for at least "
            f"{num_codebooks} codebooks of {num_codes} codes"
        )
    return "" if bool(np.isfinite(vectors).all()) else "some numbers are not finite"
