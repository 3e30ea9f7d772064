"""`Codec`: audio to codes and back; the only view of a codec that the rest of melodac has."""

from abc import ABC, abstractmethod
from collections.abc import Iterable, Iterator

import numpy as np
from jaxtyping import Float, Float32, Int, Int64
from torch import Tensor


class Codec(ABC):
    """Frozen audio codec: frames of `hop` samples, `num_codebooks` codes each.

    Coding is a function of the samples alone: it never depends on how the audio was cut, on
    randomness, or on what was coded before.
    """

    name: str
    """Short name of the weights, as in `load_codec`."""
    weights_sha256: str
    """Hash of the weights file in hexadecimal."""
    sample_rate_hz: int
    hop: int
    """Samples per frame."""
    num_codebooks: int
    codebook_size: int

    @abstractmethod
    def encode(self, audio: Float[Tensor, "C N"]) -> Int64[Tensor, "C K T"]:
        """Encode each channel; the end is zero-padded to T = ceil(N / hop) frames.

        Raises:
            CodecError: The audio is empty, not finite or not floating point.
        """

    @abstractmethod
    def decode(self, codes: Int[Tensor, "C K T"]) -> Float[Tensor, "C N"]:
        """Decode each channel to N = T x hop samples; the first codebooks alone sound coarser.

        Raises:
            CodecError: A code is out of range, or the codebooks are too many or none.
        """

    @abstractmethod
    def encode_blocks(
        self, blocks: Iterable[Float32[np.ndarray, "C _"]]
    ) -> Iterator[Int64[Tensor, "C K _"]]:
        """Encode audio that comes in blocks of any sizes, in bounded memory.

        Yields pieces of codes, in order, on the CPU; concatenated they equal `encode` of the
        concatenated blocks, wherever these are cut.

        Raises:
            CodecError: As `encode`; or the number of channels changes between blocks.
        """

    @abstractmethod
    def decode_blocks(
        self, blocks: Iterable[Int[Tensor, "C K _"]]
    ) -> Iterator[Float32[np.ndarray, "C _"]]:
        """Decode codes that come in blocks of any sizes, in bounded memory.

        Yields pieces of audio, in order; concatenated they equal `decode` of all blocks together.

        Raises:
            CodecError: As `decode`; or the number of channels changes between blocks.
        """

    @abstractmethod
    def code_vectors(self) -> Float32[Tensor, "K U Z"]:
        """Return every code of every codebook as the decoder sees it, on the CPU.

        Distances and angles between the vectors of one codebook are those of the terms that the
        decoder sums; the axes themselves mean nothing and differ from codebook to codebook. A
        language model learns from them which codes sound alike.
        """
