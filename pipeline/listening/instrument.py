"""A trained checkpoint with its codec: codes are sampled from the model, then decoded to audio."""

import hashlib
import re
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

import numpy as np
import torch
from jaxtyping import Float32, Int
from torch import Tensor

from melodac.audio.files.write import write_flac
from melodac.codec.interface import Codec
from melodac.codec.load import load_codec
from melodac.errors import CheckpointMismatchError, SamplingError
from melodac.files import plain_errors
from melodac.models.condition import encode_texts
from melodac.models.language_model import LanguageModel
from melodac.sampling.generate import generate
from melodac.sampling.guidance import Guided, check_guidance
from melodac.sampling.logits import SamplingSettings
from melodac.tokens.layout import mix_channels
from melodac.tokens.tags import join_tags
from pipeline.experiment.model import Trained, load_trained
from pipeline.logs import progress_bar

MAX_NAME_CHARS = 40
"""Characters of a prompt that a file's name shows."""


class Request(NamedTuple):
    """Text condition of a clip and its guidance scale."""

    text: str = ""
    """Words such as a track's tags; empty for unconditional sampling."""
    guidance: float = 1.0
    """Guidance scale; 1 samples from the conditional distribution as learned."""


NOTHING = Request()


@dataclass(frozen=True)
class Instrument:
    """Trained model with the codec of its codes."""

    trained: Trained
    codec: Codec
    device: torch.device

    def frames_in(self, seconds: float) -> int:
        """Return the number of codec frames in a duration, at least one."""
        return max(1, round(seconds * self.codec.sample_rate_hz / self.codec.hop))

    def check_guidance(self, guidance: float) -> None:
        """Refuse a guidance scale that the checkpoint was not trained for, with `SamplingError`."""
        check_guidance(
            guidance,
            reads_text=self.trained.reads_text,
            has_trained_null=self.trained.has_trained_null,
        )

    def text_of(self, tags: Iterable[str]) -> str:
        """Join a track's tags to the model's text condition; empty for a model that reads none."""
        return join_tags(tags, self.trained.model.config.text_bytes).text

    def play(
        self,
        *,
        num_frames: int,
        seeds: Sequence[int],
        settings: SamplingSettings,
        prefix: Int[Tensor, "B K P"] | None = None,
        request: Request = NOTHING,
        on_step: Callable[[int, int], None] | None = None,
    ) -> Int[Tensor, "B K T"]:
        """Sample the codes of one clip per seed, on the text and after the prefix if given."""
        return generate(
            self._voice(request, len(seeds)),
            self.trained.pattern,
            num_frames=num_frames,
            seeds=seeds,
            settings=settings,
            prefix=None if prefix is None else prefix.to(self.device),
            on_step=on_step,
        )

    def check(self, request: Request) -> None:
        """Refuse a request that the checkpoint cannot follow, before anything is sampled.

        Raises:
            SamplingError: If there is a text for a model that reads none, no text for a model
                without a trained null condition, guidance without a text, or a guidance scale that
                the checkpoint was not trained for.
        """
        if request.text and not self.trained.reads_text:
            raise SamplingError(
                f"the checkpoint reads codes alone, it cannot play to {request.text!r}: leave the "
                "prompt away or train with train.condition=tags"
            )
        self.check_guidance(request.guidance)
        if not request.text and request.guidance != 1:
            raise SamplingError(
                f"guidance {request.guidance:g} says how strictly to follow a prompt: give one, or "
                "set guidance to 1"
            )
        if not request.text and not self.trained.has_trained_null:
            raise SamplingError(
                "the checkpoint never played without a text (train.unconditional_frac = 0): give "
                "a prompt, or train with some unconditional_frac"
            )

    def _voice(self, request: Request, num_items: int) -> LanguageModel | Guided:
        self.check(request)
        model = self.trained.model
        if not request.text:
            return model
        return Guided(
            model,
            encode_texts([request.text] * num_items, model.config.text_bytes).to(self.device),
            scale=request.guidance,
            has_trained_null=self.trained.has_trained_null,
        )

    def decode(self, codes: Int[Tensor, "K T"]) -> Float32[np.ndarray, "C N"]:
        """Decode one clip to mono or to left and right, from codes in the model's column order."""
        channels = self.trained.layout.split_channels(codes.to(self.device))
        return mix_channels({
            channel: self.codec.decode(rows[None])[0].cpu().float().numpy()
            for channel, rows in channels.items()
        })


def load_instrument(weights: str, device: torch.device) -> Instrument:
    """Load the checkpoint of the train stage with its codec; errors as in `build_instrument`."""
    return build_instrument(load_trained(device), weights, device)


def build_instrument(trained: Trained, weights: str, device: torch.device) -> Instrument:
    """Combine a loaded checkpoint with its codec.

    Raises:
        CheckpointMismatchError: If the model was trained on the codes of another codec.
    """
    codec = load_codec(weights, device=str(device))
    store = trained.checkpoint.config["store"]
    expected = store["weights_sha256"]
    if codec.weights_sha256 != expected:
        raise CheckpointMismatchError(
            f"the checkpoint was trained on codes of codec {store['codec']!r} ({expected[:12]}), "
            f"codec.weights = {weights!r} is {codec.weights_sha256[:12]}: set codec.weights to the "
            "codec of the codes, or run `dvc repro` so that both agree"
        )
    return Instrument(trained, codec, device)


def write_clips(
    instrument: Instrument,
    folder: Path,
    *,
    seconds: float,
    seeds: Sequence[int],
    settings: SamplingSettings,
    request: Request = NOTHING,
) -> list[Path]:
    """Sample one clip per seed, with or without a text, and write each as FLAC.

    A request that the checkpoint cannot follow is refused with `SamplingError`, a folder that
    cannot be made with `OutputError`.
    """
    num_frames = instrument.frames_in(seconds)
    steps = instrument.trained.pattern.num_steps(num_frames)
    with plain_errors(folder):
        folder.mkdir(parents=True, exist_ok=True)
    with progress_bar(total=steps, unit="step", description="generate") as advance:
        made = instrument.play(
            num_frames=num_frames,
            seeds=seeds,
            settings=settings,
            request=request,
            on_step=lambda done, total: advance(""),  # noqa: ARG005  the bar counts by itself
        )
    written: list[Path] = []
    for seed, clip in zip(seeds, made.cpu(), strict=True):
        path = folder / f"{_name(request)}seed{seed}_t{settings.temperature:g}.flac"
        write_flac(path, instrument.decode(clip), instrument.codec.sample_rate_hz, subtype="PCM_16")
        written.append(path)
    return written


def _name(request: Request) -> str:
    """Build the start of a file's name; the hash keeps prompts with the same words apart."""
    if not request.text:
        return ""
    words = "-".join(re.findall(r"\w+", request.text.casefold()))[:MAX_NAME_CHARS]
    digest = hashlib.sha256(request.text.encode()).hexdigest()[:6]
    guidance = "" if request.guidance == 1 else f"_g{request.guidance:g}"
    return f"{words}_{digest}{guidance}_"
