"""Scores to sound: FluidSynth plays the stems, we balance them by loudness, master and encode.

Needs the `fluidsynth` program, a General MIDI soundfont and `mido`; the audio is committed, so only
composing anew needs them.
"""

import math
import subprocess
import tempfile
from pathlib import Path

import numpy as np
import pyloudnorm
import soundfile
from scipy.ndimage import maximum_filter1d, uniform_filter1d
from scipy.signal import butter, resample_poly, sosfilt

from data.sample.compose.midi import LEAD_IN_BEATS, run_up_beats, stem_beats, stems_midi, take_midi
from data.sample.compose.rhythm import MAX_SHIFT_S
from data.sample.compose.score import Part, Score, Take

RATE_HZ = 44_100
OPUS_RATE_HZ = 48_000
TARGET_LUFS = -16.0
CEILING_DB = -3.0
"""Peak after mastering, in dB below full scale; Opus may add more than one to it."""

_EARLY_S = MAX_SHIFT_S + 0.003
_FADE_S = 0.008
_LOOKAHEAD_S = 0.004
_RATE_STEP_HZ = math.gcd(RATE_HZ, OPUS_RATE_HZ)
_RUMBLE_HZ = 20.0
_SILENCE_DB = 50.0
"""What is this far below the peak counts as silence around a piece."""

_HIGH_PASS_HZ = {"lead": 120.0, "comp": 90.0, "pad": 140.0, "bass": 30.0, "drums": 30.0}
_SYNTH_OPTIONS = (
    "synth.reverb.width=0.9",
    "synth.reverb.damp=0.35",
    "synth.chorus.active=0",
    "synth.polyphony=256",
    "synth.dynamic-sample-loading=1",
)


def _synthesise(midi: bytes, score: Score, soundfont: Path) -> np.ndarray:
    """Samples of a MIDI file, in mono."""
    options = [
        *_SYNTH_OPTIONS,
        f"synth.reverb.room-size={0.2 + 0.6 * score.room:.2f}",
        f"synth.reverb.level={0.3 + 0.5 * score.room:.2f}",
    ]
    with tempfile.TemporaryDirectory() as folder:
        song, sound = Path(folder, "song.mid"), Path(folder, "song.wav")
        song.write_bytes(midi)
        command = ["fluidsynth", "-ni", "-q", "-g", "0.5", "-r", str(RATE_HZ), "-O", "float"]
        for option in options:
            command += ["-o", option]
        command += ["-F", str(sound), str(soundfont), str(song)]
        subprocess.run(command, check=True, capture_output=True)
        samples, _ = soundfile.read(sound, dtype="float64", always_2d=True)
    return samples.mean(axis=1)


def _loop(stems: np.ndarray, score: Score, place: int) -> np.ndarray:
    """The loop of one stem, at whose start its last bars still ring."""
    start_beats = place * stem_beats(score) + LEAD_IN_BEATS + run_up_beats(score)
    start = round((start_beats * 60 / score.tempo_bpm - _EARLY_S) * RATE_HZ)
    return stems[start : start + round(score.duration_s * RATE_HZ)]


def _balanced(stem: np.ndarray, part: Part, meter: pyloudnorm.Meter) -> np.ndarray:
    """A stem without rumble, at its place in the mix."""
    sections = butter(2, _HIGH_PASS_HZ[part.role], "highpass", fs=RATE_HZ, output="sos")
    looped = sosfilt(sections, np.concatenate([stem, stem]))[len(stem) :]
    loudness = meter.integrated_loudness(looped)
    return looped * 10 ** ((-20 + part.level_db - loudness) / 20)


def _limited(audio: np.ndarray, ceiling: float) -> np.ndarray:
    """Peaks, also those between the samples, turned down by a gain that sees some ms ahead."""
    window = 2 * round(_LOOKAHEAD_S * RATE_HZ) + 1
    peaks = np.abs(resample_poly(audio, 4, 1))[: 4 * len(audio)].reshape(-1, 4).max(axis=1)
    gain = ceiling / np.maximum(maximum_filter1d(peaks, window), ceiling)
    return audio * uniform_filter1d(gain, window // 2 * 2 + 1)


def _mastered(
    mix: np.ndarray, meter: pyloudnorm.Meter, loudness_lufs: float = TARGET_LUFS
) -> np.ndarray:
    """The mix at a loudness, below the ceiling, with edges that do not click."""
    for _ in range(2):
        mix = mix * 10 ** ((loudness_lufs - meter.integrated_loudness(mix)) / 20)
        mix = _limited(mix, 10 ** (CEILING_DB / 20))
    fade = np.linspace(0, 1, round(_FADE_S * RATE_HZ))
    mix[: len(fade)] *= fade
    mix[-len(fade) :] *= fade[::-1]
    return mix


def render(score: Score, soundfont: Path) -> np.ndarray:
    """Samples of the mastered loop."""
    meter = pyloudnorm.Meter(RATE_HZ)
    stems = _synthesise(stems_midi(score), score, soundfont)
    mix = np.zeros(round(score.duration_s * RATE_HZ))
    for place, part in enumerate(score.parts):
        mix += _balanced(_loop(stems, score, place), part, meter)
    return _mastered(mix, meter)


def _sounding(audio: np.ndarray) -> np.ndarray:
    """Audio from a quarter of a second before its first sound to a second after its last."""
    loud = np.flatnonzero(np.abs(audio) > 10 ** (-_SILENCE_DB / 20) * np.abs(audio).max())
    return audio[max(0, loud[0] - RATE_HZ // 4) : loud[-1] + RATE_HZ]


def render_take(score: Score, take: Take, soundfont: Path) -> np.ndarray:
    """Samples of a piece from its first note until it has died away."""
    played = _synthesise(take_midi(score, take), score, soundfont)
    sections = butter(2, _RUMBLE_HZ, "highpass", fs=RATE_HZ, output="sos")
    audio = _sounding(sosfilt(sections, played))
    return _mastered(audio, pyloudnorm.Meter(RATE_HZ), take.loudness_lufs)


def write_opus(path: Path, audio: np.ndarray, compression: float) -> None:
    """Writes mono Ogg Opus, a second at a time: libsndfile overruns its stack on long blocks."""
    up, down = OPUS_RATE_HZ // _RATE_STEP_HZ, RATE_HZ // _RATE_STEP_HZ
    resampled = resample_poly(audio, up, down)
    with soundfile.SoundFile(
        path, "w", OPUS_RATE_HZ, 1, format="OGG", subtype="OPUS", compression_level=compression
    ) as file:
        for start in range(0, len(resampled), OPUS_RATE_HZ):
            file.write(resampled[start : start + OPUS_RATE_HZ].astype(np.float32))


def write_flac(path: Path, audio: np.ndarray) -> None:
    """Writes mono FLAC of 16 bits."""
    soundfile.write(path, audio, RATE_HZ, format="FLAC", subtype="PCM_16")
