"""From a trained checkpoint to sound: codes are sampled, then decoded."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from jaxtyping import Float32, Int
from torch import Tensor

from melodac.audio.write import write_flac
from melodac.codec.interface import Codec
from melodac.codec.load import load_codec
from melodac.errors import CheckpointMismatchError, OutputError
from melodac.sampling.generate import generate
from melodac.sampling.settings import SamplingSettings
from melodac.tokens.layout import mix_channels
from pipeline.experiment import Trained, load_trained
from pipeline.logs import progress_bar


@dataclass(frozen=True)
class Instrument:
    """A trained model and the codec whose codes it speaks."""

    trained: Trained
    codec: Codec
    device: torch.device

    def frames_in(self, seconds: float) -> int:
        """Codec frames that last so long, at least one."""
        return max(1, round(seconds * self.codec.sample_rate_hz / self.codec.hop))

    def play(
        self,
        *,
        num_frames: int,
        seeds: Sequence[int],
        settings: SamplingSettings,
        prefix: Int[Tensor, "B K P"] | None = None,
        on_step: Callable[[int, int], None] | None = None,
    ) -> Int[Tensor, "B K T"]:
        """Codes of one clip per seed, continuing the prefix if there is one."""
        return generate(
            self.trained.model,
            self.trained.pattern,
            num_frames=num_frames,
            seeds=seeds,
            settings=settings,
            prefix=None if prefix is None else prefix.to(self.device),
            on_step=on_step,
        )

    def decode(self, codes: Int[Tensor, "K T"]) -> Float32[np.ndarray, "C N"]:
        """Sound of one clip, in mono or in left and right, from codes in the model's order."""
        channels = self.trained.layout.split_channels(codes.to(self.device))
        return mix_channels({
            channel: self.codec.decode(rows[None])[0].cpu().float().numpy()
            for channel, rows in channels.items()
        })


def load_instrument(weights: str, device: torch.device) -> Instrument:
    """The checkpoint of the train stage with its codec.

    Raises:
        CheckpointMismatchError: If the model was trained on the codes of another codec.
    """
    trained = load_trained(device)
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
) -> list[Path]:
    """Play one clip per seed from nothing and write each as FLAC.

    Raises:
        OutputError: If the folder cannot be made.
    """
    num_frames = instrument.frames_in(seconds)
    steps = instrument.trained.pattern.num_steps(num_frames)
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise OutputError(f"{folder}: cannot be written: {error.strerror}") from error
    with progress_bar(total=steps, unit="step", description="generate") as advance:
        made = instrument.play(
            num_frames=num_frames,
            seeds=seeds,
            settings=settings,
            on_step=lambda done, total: advance(""),  # noqa: ARG005  the bar counts by itself
        )
    written: list[Path] = []
    for seed, clip in zip(seeds, made.cpu(), strict=True):
        path = folder / f"seed{seed}_t{settings.temperature:g}.flac"
        write_flac(path, instrument.decode(clip), instrument.codec.sample_rate_hz, subtype="PCM_16")
        written.append(path)
    return written
