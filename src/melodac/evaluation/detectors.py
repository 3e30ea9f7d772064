"""What is plainly wrong with a generated clip: silent, clipped, noise, looping, truncated.

Each label comes from one measured number, which is kept beside it; what could not be measured is
None. Looping is judged on codes, never on audio: autocorrelation calls every held note a loop.
Stages that render or score audio may import it.
"""

import math
from dataclasses import dataclass

import numpy as np
import torch
from jaxtyping import Float32, Int
from torch import Tensor

from melodac.errors import AudioError
from melodac.tokens.repeats import repeated_ngram_share

SILENT_BELOW_DBFS = -50.0
"""RMS level under which a clip counts as silent; quiet music stays above -40 dBFS."""

FULL_SCALE = 0.999
"""Magnitude from which a sample counts as clipped."""

CLIPPED_ABOVE_SHARE = 1e-3
"""Share of clipped samples above which a clip is labelled; 44 samples in a second."""

TRUNCATED_BELOW_SHARE = 0.98
"""Share of the asked duration under which a clip is truncated; one frame short is not."""

NOISE_ABOVE_FLATNESS = 0.5
"""Flatness of the most tonal octave above which a clip is noise: white noise reaches 0.56, pink
0.55, brown 0.51; of 172 real recordings a vinyl hiss, a vinyl scratch and a hi-hat pass 0.5."""

LOOPING_ABOVE_SHARE = 0.5
"""Share of repeated code n-grams above which a clip is looping: more repeats than new material."""

_WINDOW_SAMPLES = 8192  # shorter ones cannot part the partials of a bass drone and call it noise
_HOP_SAMPLES = 4096
_LOWEST_OCTAVE_HZ = 100.0
_NUM_OCTAVES = 7
_AUDIBLE_SHARE = 1e-4
_SMALLEST_POWER = 1e-12


@dataclass(frozen=True, kw_only=True)
class ClipFindings:
    """What was measured on one clip; None means not measured, never zero."""

    asked_s: float
    """Duration that was asked for."""
    duration_s: float
    """Duration of the audio."""
    peak_dbfs: float | None
    """Largest magnitude; None if every sample is zero."""
    rms_dbfs: float | None
    """Root mean square over channels and time; None if every sample is zero."""
    clipped_share: float | None
    """Share of samples at full scale; None for an empty clip."""
    flatness: float | None
    """Spectral flatness of the most tonal octave, 0 to 1; None if silent or under a window long."""
    repeated_share: float | None
    """Share of code n-grams heard before; None without codes or with fewer than two n-grams."""

    @property
    def is_silent(self) -> bool:
        """Whether there is nothing to hear."""
        return self.rms_dbfs is None or self.rms_dbfs < SILENT_BELOW_DBFS

    @property
    def labels(self) -> tuple[str, ...]:
        """What is wrong, in a fixed order; `("ok",)` if nothing is."""
        faults = {
            "silent": self.is_silent,
            "clipped": _exceeds(self.clipped_share, CLIPPED_ABOVE_SHARE),
            "noise": _exceeds(self.flatness, NOISE_ABOVE_FLATNESS),
            # a silent clip repeats its codes too, but that says nothing new
            "looping": not self.is_silent and _exceeds(self.repeated_share, LOOPING_ABOVE_SHARE),
            "truncated": self.duration_s < TRUNCATED_BELOW_SHARE * self.asked_s,
        }
        return tuple(label for label, is_found in faults.items() if is_found) or ("ok",)


def examine_clip(
    audio: Float32[np.ndarray, "C N"],
    *,
    rate_hz: int,
    asked_s: float,
    codes: Int[Tensor, "C K T"] | None,
) -> ClipFindings:
    """What is wrong with a clip, with the numbers that say so.

    Args:
        audio: Samples, full scale at 1.
        rate_hz: Sample rate.
        asked_s: Duration that was asked for.
        codes: The codes that were decoded, without the prefix; None if there are none.

    Raises:
        AudioError: If a sample is not finite.
    """
    num_bad = audio.size - int(np.isfinite(audio).sum())
    if num_bad:
        raise AudioError(
            f"cannot examine a clip with samples that are not finite: got {num_bad} of "
            f"{audio.size}, allowed are none; look for the step that produced them"
        )
    return ClipFindings(
        asked_s=asked_s,
        duration_s=audio.shape[1] / rate_hz,
        peak_dbfs=_decibels(float(np.abs(audio).max(initial=0.0))),
        rms_dbfs=_decibels(
            math.sqrt(float(np.square(audio, dtype=np.float64).sum()) / max(audio.size, 1))
        ),
        clipped_share=float(np.mean(np.abs(audio) >= FULL_SCALE)) if audio.size else None,
        flatness=tonal_octave_flatness(audio, rate_hz=rate_hz),
        repeated_share=None if codes is None else repeated_ngram_share(codes),
    )


def tonal_octave_flatness(audio: Float32[np.ndarray, "C N"], *, rate_hz: int) -> float | None:
    """Spectral flatness of the octave that is least like noise, between 0 and 1.

    Flatness is geometric over arithmetic mean power. Taken octave by octave it does not mistake
    the slope of pink or brown noise for a tone, and one octave with a note in it is enough to be
    music.

    Args:
        audio: Samples; channels are summed in power.
        rate_hz: Sample rate.

    Returns:
        The flatness, averaged over audible frames, or None if there is no audible frame.
    """
    if audio.shape[1] < _WINDOW_SAMPLES:
        return None
    power = _power_spectrum(audio)
    frame_power = power.mean(dim=0)
    audible = frame_power > _AUDIBLE_SHARE * frame_power.max()
    if not bool(audible.any()):
        return None
    hz = torch.arange(power.shape[0]) * (rate_hz / _WINDOW_SAMPLES)
    octaves = [_LOWEST_OCTAVE_HZ * 2**octave for octave in range(_NUM_OCTAVES)]
    flatness = [
        _flatness(power[(hz >= low_hz) & (hz < 2 * low_hz)][:, audible])
        for low_hz in octaves
        if 2 * low_hz <= rate_hz / 2
    ]
    return min(flatness, default=None)


def _power_spectrum(audio: Float32[np.ndarray, "C N"]) -> Tensor:
    window = torch.hann_window(_WINDOW_SAMPLES)
    spectrum = torch.stft(
        torch.as_tensor(audio),
        _WINDOW_SAMPLES,
        hop_length=_HOP_SAMPLES,
        window=window,
        center=False,
        return_complex=True,
    )
    return spectrum.abs().square().sum(dim=0)


def _flatness(power: Tensor) -> float:
    floor = _SMALLEST_POWER
    geometric = (power + floor).log().mean(dim=0).exp()
    return float((geometric / (power.mean(dim=0) + floor)).mean())


def _decibels(amplitude: float) -> float | None:
    return 20.0 * math.log10(amplitude) if amplitude > 0.0 else None


def _exceeds(measured: float | None, limit: float) -> bool:
    return measured is not None and measured > limit
