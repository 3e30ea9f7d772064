"""`SpectralCodec`, the codec bundled with melodac: coded magnitudes, phases resynthesised.

`front_end` encodes, `frame_decoder` decodes; here they become a streaming `Codec`. Recordings are
cut into chunks on one grid whatever blocks they come in, so results are equal to the bit.
"""

from collections.abc import Iterator

import torch
from jaxtyping import Float, Float32, Int64
from torch import Tensor, nn

from melodac.codec.frame_decoder import (
    OVERLAP,
    FrameDecoder,
    FrameDecoderShape,
    Spectra,
    first_phases,
    sound_noise,
    sound_tonal,
    turn_phases,
)
from melodac.codec.front_end import HALO, FrontEnd, FrontEndShape, ResidualQuantizer
from melodac.codec.streams import Chunk, ChunkShape, StreamingCodec, read_chunks
from melodac.config import Section

ENCODED_FRAMES = 256
"""Frames encoded at once: enough to keep a core busy, few enough for its cache."""
DECODED_FRAMES = 512
"""Frames decoded at once; more, as the network also reads over 20 frames beyond either end."""


class SpectralArchitecture(Section):
    """Shape of a spectral codec."""

    front_end: FrontEndShape = FrontEndShape()
    decoder: FrameDecoderShape = FrameDecoderShape()


class SpectralModel(nn.Module):
    """Front end, quantizer and decoder of a spectral codec."""

    def __init__(self, architecture: SpectralArchitecture) -> None:
        super().__init__()
        shape = architecture.front_end
        self.front_end = FrontEnd(shape)
        self.quantizer = ResidualQuantizer(shape)
        self.decoder = FrameDecoder(architecture.decoder, shape.num_directions, shape.sample_rate)

    def encode(self, audio: Float[Tensor, "B N"]) -> Int64[Tensor, "B K T"]:
        """Return the codes of all whole frames."""
        points = self.quantizer.project(self.front_end(audio))
        codes = self.quantizer.encode(points.flatten(0, 1))
        return codes.reshape(-1, *points.shape[:2]).transpose(0, 1)


class SpectralCodec(StreamingCodec):
    """Spectral codec with frozen weights."""

    def __init__(
        self,
        model: SpectralModel,
        architecture: SpectralArchitecture,
        *,
        name: str,
        weights_sha256: str,
    ) -> None:
        """Freeze `model` for inference; `weights_sha256` is the hash of its quantizer."""
        shape = architecture.front_end
        self.name, self.weights_sha256 = name, weights_sha256
        self.sample_rate_hz, self.hop = shape.sample_rate, shape.hop
        self.num_codebooks, self.codebook_size = shape.num_codebooks, shape.codebook_size
        self.model = model.eval().requires_grad_(requires_grad=False)
        self._halo = architecture.decoder.receptive_field + OVERLAP

    def code_vectors(self) -> Float32[Tensor, "K U _"]:
        """Return the quantizer's vectors, whose sum is what the decoder reads."""
        return self.model.quantizer.vectors.cpu()

    def _encode(self, blocks: Iterator[Tensor]) -> Iterator[Tensor]:
        shape = ChunkShape(ENCODED_FRAMES, HALO, self.hop)
        for chunk, window in read_chunks(blocks, shape):
            yield self._encode_window(window)[..., chunk.kept]

    @torch.inference_mode()
    def _encode_window(self, window: Tensor) -> Tensor:
        return self.model.encode(window.to(self._device(), torch.float64))

    def _decode(self, blocks: Iterator[Tensor]) -> Iterator[Tensor]:
        shape = ChunkShape(DECODED_FRAMES, self._halo, frame_length=1)
        phases: Tensor | None = None
        for chunk, window in read_chunks(blocks, shape):
            if phases is None:
                phases = first_phases(len(window)).to(self._device())
            # channel by channel: in a batch rounding, and so the phases, would depend on the others
            pairs = zip(window, phases, strict=True)
            sounds = [self._sound(chunk, codes[None], before[None]) for codes, before in pairs]
            phases = torch.cat([after for _, after in sounds])
            yield torch.cat([audio for audio, _ in sounds])

    @torch.inference_mode()
    def _sound(self, chunk: Chunk, window: Tensor, before: Tensor) -> tuple[Tensor, Tensor]:
        """Synthesise the kept frames of a chunk.

        Args:
            chunk: Frames kept, and the window read for them.
            window: Codes of one channel.
            before: Phases of the frame before the first one synthesised, which is `OVERLAP` frames
                before the kept ones, or frame 0.

        Returns:
            The audio of the kept frames, and the phases with which the next chunk begins.
        """
        points = self.model.quantizer.decode(window.to(self._device(), torch.int64))
        spectra = self.model.decoder(points)
        first = max(chunk.start - OVERLAP, 0)
        sounding = slice(first - chunk.read_start, chunk.stop + OVERLAP - chunk.read_start)
        spectra = Spectra(spectra.tonal[:, sounding], spectra.noise[:, sounding])
        turned, phases = turn_phases(spectra.tonal, before, first)
        audio = sound_tonal(spectra, phases) + sound_noise(spectra, first)
        kept = audio[:, (chunk.start - first) * self.hop : (chunk.stop - first) * self.hop]
        # a chunk shorter than the overlap is the last, so its phases do not matter
        return kept, turned[:, max(chunk.stop - OVERLAP - 1 - first, 0)]

    def _device(self) -> torch.device:
        return self.model.quantizer.mean.device
