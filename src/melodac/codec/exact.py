"""`ExactEncoder`: codes that do not depend on how float32 was rounded.

The last bits of a convolution change with its shape, the threads, the compiler and the machine, and
with them, now and then, which of two nearly equal candidates is the nearest. So a frame in which
the best two lie closer than float32 can tell is decided by float64.
"""

import copy
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property

import numpy as np
import torch
from jaxtyping import Bool, Float, Int64
from torch import Tensor
from torch.nn import functional

from melodac.codec.dac_import import DacModel, DacQuantizer

TOLERANCE = 1.2e-6
"""Error of a projected latent that is allowed for, as a share of the latent's norm times the
projection's. Measured, not proven: the largest seen in 12 s of music is 6e-7 eager and 9e-7
compiled, at the official size with stand-in weights. A larger one costs time, in float64."""

Network = Callable[[Tensor], Tensor]


@dataclass(frozen=True)
class Choice:
    """Nearest codes and the frames whose choice is not certain."""

    codes: Int64[Tensor, "B K T"]
    is_close: Bool[Tensor, "B T"]


class Chooser:
    """The search of DAC's residual quantiser: nearest by cosine, one codebook after another."""

    def __init__(self, quantizer: DacQuantizer) -> None:
        self._stages = list(quantizer.quantizers)
        self._units = [functional.normalize(stage.codebook.weight) for stage in self._stages]
        self._gains = [
            float(np.linalg.norm(stage.in_proj.get_parameter("weight")[..., 0].cpu().numpy(), 2))
            for stage in self._stages
        ]

    def choose(self, latents: Float[Tensor, "B D T"]) -> Choice:
        """Choose the codes of every frame."""
        residual, size = latents, _norm(latents, dim=1)
        codes: list[Tensor] = []
        is_close = torch.zeros_like(size, dtype=torch.bool)
        for stage, units, gain in zip(self._stages, self._units, self._gains, strict=True):
            projected = stage.in_proj(residual).transpose(1, 2)
            best, second, margin = _best_two(projected @ units.T)
            apart = _norm(units[best] - units[second], dim=-1)
            # the tenth is for the rounding of the products themselves
            is_close |= margin <= TOLERANCE * gain * size * (apart + 0.1)
            codes.append(best)
            residual = residual - stage.out_proj(stage.codebook(best).transpose(1, 2))
        return Choice(torch.stack(codes, dim=1), is_close)


class ExactEncoder:
    """A DAC's encoder and quantiser, giving the codes that exact arithmetic would give."""

    def __init__(self, model: DacModel, *, hop: int, halo: int) -> None:
        self._model, self._hop, self._halo = model, hop, halo
        self._chooser = Chooser(model.quantizer)

    def encode(
        self,
        audio: Float[Tensor, "B 1 N"],
        kept: Sequence[slice],
        network: Network,
    ) -> Int64[Tensor, "B K T"]:
        """Encode windows.

        Args:
            audio: Windows that reach the halo beyond the frames kept, or to the recording's end.
            kept: Frames of each window that matter; the others may come out inexact.
            network: The encoder, or a faster equal of it up to rounding.
        """
        choice = self._chooser.choose(network(audio))
        codes, num_frames = choice.codes, choice.is_close.shape[1]
        for row, frames in enumerate(kept):
            close = choice.is_close[row, frames].nonzero()[:, 0] + frames.start
            for run in _runs(close.tolist(), self._halo):
                start = max(0, run[0] - self._halo)
                stop = min(num_frames, run[-1] + self._halo + 1)
                window = audio[row : row + 1, :, start * self._hop : stop * self._hop]
                exact = self._encode_exactly(window)
                codes[row][:, run] = exact[:, [frame - start for frame in run]]
        return codes

    def _encode_exactly(self, audio: Tensor) -> Tensor:
        model, chooser = self._exact
        return chooser.choose(model(audio.double())).codes[0]

    @cached_property
    def _exact(self) -> tuple[Network, Chooser]:
        """The same weights in float64, made when the first frame needs them."""
        quantizer = copy.deepcopy(self._model.quantizer)
        for stage in quantizer.quantizers:
            for module in (stage.in_proj, stage.out_proj, stage.codebook):
                module.double()
        return copy.deepcopy(self._model.encoder).double(), Chooser(quantizer)


def _norm(x: Tensor, dim: int) -> Tensor:
    return x.square().sum(dim).sqrt()


def _best_two(likeness: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Return the indices of the two largest along the last axis, and how far they are apart."""
    first, best = likeness.max(dim=-1)
    others = likeness.scatter(-1, best[..., None], float("-inf"))
    next_to, second = others.max(dim=-1)
    return best, second, first - next_to


def _runs(frames: list[int], halo: int) -> Iterator[list[int]]:
    """Group frames whose windows overlap."""
    run: list[int] = []
    for frame in frames:
        if run and frame - run[-1] > 2 * halo:
            yield run
            run = []
        run.append(frame)
    if run:
        yield run
