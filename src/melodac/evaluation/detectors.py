"""Labels for plain faults of a clip: silent, clipped, noise, static, looping, truncated.

Only the generated part is judged, never a real prefix. Each label follows from measured numbers
that are kept with it; None means not measured. Looping is judged on codes, never on audio:
autocorrelation calls every held note a loop.
"""

import math
from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
from jaxtyping import Float32, Int
from torch import Tensor

from melodac.errors import AudioError
from melodac.evaluation.spectra import change_db, mel_levels, strongest_echo, track_partials
from melodac.tokens.statistics import repeated_ngram_share
from melodac.tokens.vocabulary import CODEBOOK_SIZE

SILENT_BELOW_DBFS = -50.0
"""RMS level in dBFS below which a clip counts as silent; quiet music stays above -40."""

FULL_SCALE = 0.999
"""Magnitude from which a sample counts as clipped."""

CLIPPED_ABOVE_SHARE = 1e-3
"""Share of clipped samples above which a clip is labelled: 44 samples in a second."""

TRUNCATED_BELOW_SHARE = 0.98
"""Share of the requested duration below which a clip is truncated; one frame short is not."""

ECHO_BELOW = 0.22
"""Echo below which frames do not predict later frames (tests/benchmarks/labels.py)."""

TONAL_ABOVE_SHARE = 0.12
"""Share of the power in held partials above which a clip without echo is a drone, not noise
(tests/benchmarks/labels.py)."""

STATIC_BELOW_DB = 1.0
"""Change of the spectrum in dB below which a clip is static (tests/benchmarks/labels.py)."""

LOOPING_ABOVE_SHARE = 0.5
"""Share of repeated code n-grams above which a clip is looping: more repeats than new material."""

JUDGED_FROM_S = 2.0
"""Duration in seconds from which noise and static are judged: in a shorter clip the largest of many
autocorrelations is above the limit by chance."""


@dataclass(frozen=True, kw_only=True)
class ClipFindings:
    """Measurements of one clip; None means not measured, never zero."""

    asked_s: float
    """Requested duration."""
    duration_s: float
    """Duration of the audio."""
    peak_dbfs: float | None
    """Largest magnitude; None if every sample is zero."""
    rms_dbfs: float | None
    """Root mean square over channels and time; None if every sample is zero."""
    clipped_share: float | None
    """Share of samples at full scale; None for an empty clip."""
    echo: float | None
    """Predictability of later frames, about 0 to 1; None if silent or under 2 s."""
    tonal_share: float | None
    """Share of the power in held partials; None as for the echo."""
    change_db: float | None
    """Movement of the spectrum within the clip, in dB; None as for the echo."""
    repeated_share: float | None
    """Share of n-grams of the first two codebooks heard before; None without codes or with fewer
    than two n-grams."""

    @property
    def is_silent(self) -> bool:
        """True if there is nothing to hear."""
        return self.rms_dbfs is None or self.rms_dbfs < SILENT_BELOW_DBFS

    @property
    def labels(self) -> tuple[str, ...]:
        """Names of the faults in a fixed order; `("ok",)` if there is none."""
        return tuple(self.reasons) or ("ok",)

    @property
    def reasons(self) -> Mapping[str, str]:
        """Reason for each fault, in plain words with the numbers; empty if there is none."""
        faults = {
            "silent": self._why_silent(),
            "clipped": self._why_clipped(),
            "noise": self._why_noise(),
            "static": self._why_static(),
            "looping": self._why_looping(),
            "truncated": self._why_truncated(),
        }
        return {label: reason for label, reason in faults.items() if reason}

    @property
    def _has_no_echo(self) -> bool:
        return self.echo is not None and self.echo < ECHO_BELOW

    @property
    def _is_tonal(self) -> bool:
        return self.tonal_share is not None and self.tonal_share > TONAL_ABOVE_SHARE

    def _why_silent(self) -> str:
        if not self.is_silent:
            return ""
        if self.rms_dbfs is None:
            return "every sample is zero"
        return f"its level is {self.rms_dbfs:.0f} dBFS, quiet music is above -40"

    def _why_clipped(self) -> str:
        if not _exceeds(self.clipped_share, CLIPPED_ABOVE_SHARE):
            return ""
        return f"{self.clipped_share:.1%} of the samples are at full scale"

    def _why_noise(self) -> str:
        if not self._has_no_echo or self._is_tonal:
            return ""
        return (
            f"no moment leads to the next (echo {self.echo:.2f}, music has {ECHO_BELOW:g} and "
            f"more) and tones hold {self.tonal_share:.0%} of the power"
        )

    def _why_static(self) -> str:
        if self._has_no_echo and self._is_tonal:
            return (
                f"a held sound to which nothing is added but noise (echo {self.echo:.2f}, music "
                f"has {ECHO_BELOW:g} and more)"
            )
        is_still = self.change_db is not None and self.change_db < STATIC_BELOW_DB
        if self._why_noise() or not is_still:
            return ""
        return (
            f"the spectrum stays the same within {self.change_db:.1f} dB (music moves by "
            f"{STATIC_BELOW_DB:g} dB and more)"
        )

    def _why_looping(self) -> str:
        # silence and drones repeat their codes too, and have their own label
        is_told = self.is_silent or self._why_static()
        if is_told or not _exceeds(self.repeated_share, LOOPING_ABOVE_SHARE):
            return ""
        return f"{self.repeated_share:.0%} of its code sequences were heard before in it"

    def _why_truncated(self) -> str:
        if self.duration_s >= TRUNCATED_BELOW_SHARE * self.asked_s:
            return ""
        return f"it lasts {self.duration_s:.2f} s of {self.asked_s:.2f} s"


def examine_clip(
    audio: Float32[np.ndarray, "C N"],
    *,
    rate_hz: int,
    asked_s: float,
    codes: Int[Tensor, "C K T"] | None,
) -> ClipFindings:
    """Measure a clip for faults.

    Args:
        audio: Samples, full scale at 1, without a real prefix.
        rate_hz: Sample rate.
        asked_s: Requested duration.
        codes: Codes of the clip, without the prefix; None if there are none.

    Raises:
        AudioError: If a sample is not finite.
    """
    num_bad = audio.size - int(np.isfinite(audio).sum())
    if num_bad:
        raise AudioError(
            f"cannot examine a clip with samples that are not finite: got {num_bad} of "
            f"{audio.size}, allowed are none; look for the step that produced them"
        )
    rms = math.sqrt(float(np.square(audio, dtype=np.float64).sum()) / max(audio.size, 1))
    rms_dbfs = _decibels(rms)
    echo = tonal_share = change = None
    is_audible = rms_dbfs is not None and rms_dbfs >= SILENT_BELOW_DBFS
    if is_audible and audio.shape[1] >= JUDGED_FROM_S * rate_hz:
        levels = mel_levels(audio, rate_hz=rate_hz)
        echo, change = strongest_echo(levels), change_db(levels, rate_hz=rate_hz)
        tonal_share = track_partials(audio, rate_hz=rate_hz).held_share_of_clip
    return ClipFindings(
        asked_s=asked_s,
        duration_s=audio.shape[1] / rate_hz,
        peak_dbfs=_decibels(float(np.abs(audio).max(initial=0.0))),
        rms_dbfs=rms_dbfs,
        clipped_share=float(np.mean(np.abs(audio) >= FULL_SCALE)) if audio.size else None,
        echo=echo,
        tonal_share=tonal_share,
        change_db=change,
        repeated_share=None if codes is None else repeated_ngram_share(_pair_codebooks(codes)),
    )


def _pair_codebooks(codes: Int[Tensor, "C K T"]) -> Int[Tensor, "C _ T"]:
    """Return one number per frame for the codes of the first two codebooks.

    A held note repeats the first code for as long as it lasts: by that alone a fifth to a quarter
    of real clips would be loops. No real clip repeats more than 39 % of its pairs
    (tests/benchmarks/labels.py).
    """
    second = codes[:, min(1, codes.shape[1] - 1)]
    return (codes[:, 0].long() * CODEBOOK_SIZE + second)[:, None]


def _decibels(amplitude: float) -> float | None:
    return 20.0 * math.log10(amplitude) if amplitude > 0.0 else None


def _exceeds(measured: float | None, limit: float) -> bool:
    return measured is not None and measured > limit
