"""Scores to sound: FluidSynth plays the stems, we balance them by loudness, master and encode.

Needs the `fluidsynth` program, a General MIDI soundfont and `mido`; the audio is committed, so only
composing anew needs them.
"""

import subprocess
import tempfile
from pathlib import Path

import numpy as np
import pyloudnorm
import soundfile
from scipy.ndimage import maximum_filter1d, uniform_filter1d
from scipy.signal import butter, resample_poly, sosfilt

from data.sample.compose.midi import LEAD_IN_BEATS, Take, stem_beats, stems_midi, take_midi
from data.sample.compose.rhythm import MAX_SHIFT_S
from data.sample.compose.score import Part, Score

RATE_HZ = 44_100
TARGET_LUFS = -16.0
CEILING_DB = -1.8
"""Peak after mastering, in dB below full scale; the coder may add some tenths to it."""

_EARLY_S = MAX_SHIFT_S + 0.003
_FADE_S = 0.003
_LOOKAHEAD_S = 0.004
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
    """Samples of a MIDI file, shape (samples, 2)."""
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
    return samples


def _second_pass(stems: np.ndarray, score: Score, place: int) -> np.ndarray:
    """The loop of one stem on its second pass, where the first still rings."""
    beat_s = 60 / score.tempo_bpm
    start_s = (place * stem_beats(score) + LEAD_IN_BEATS + score.num_beats) * beat_s - _EARLY_S
    start, length = round(start_s * RATE_HZ), round(score.duration_s * RATE_HZ)
    return stems[start : start + length]


def _balanced(stem: np.ndarray, part: Part, meter: pyloudnorm.Meter) -> np.ndarray:
    """A stem without rumble, at its place in the mix."""
    sections = butter(2, _HIGH_PASS_HZ[part.role], "highpass", fs=RATE_HZ, output="sos")
    looped = sosfilt(sections, np.concatenate([stem, stem]), axis=0)[len(stem) :]
    loudness = meter.integrated_loudness(looped)
    return looped * 10 ** ((-20 + part.level_db - loudness) / 20)


def true_peak(audio: np.ndarray) -> float:
    """Peak of the waveform between the samples too, by fourfold oversampling."""
    return float(np.max(np.abs(resample_poly(audio, 4, 1, axis=0))))


def _limited(audio: np.ndarray, ceiling: float) -> np.ndarray:
    """Peaks turned down to `ceiling` by a gain that sees a few milliseconds ahead."""
    window = 2 * round(_LOOKAHEAD_S * RATE_HZ) + 1
    over = np.max(np.abs(resample_poly(audio, 4, 1, axis=0)), axis=1)
    peaks = over[: 4 * len(audio)].reshape(-1, 4).max(axis=1)
    gain = ceiling / np.maximum(maximum_filter1d(peaks, window), ceiling)
    return audio * uniform_filter1d(gain, window // 2 * 2 + 1)[:, None]


def _mastered(
    mix: np.ndarray, meter: pyloudnorm.Meter, loudness_lufs: float = TARGET_LUFS
) -> np.ndarray:
    """The mix at a loudness, below the ceiling, with edges that do not click."""
    ceiling = 10 ** (CEILING_DB / 20)
    for _ in range(3):
        mix = mix * 10 ** ((loudness_lufs - meter.integrated_loudness(mix)) / 20)
        mix = _limited(mix, ceiling)
    fade = np.linspace(0, 1, round(_FADE_S * RATE_HZ))[:, None]
    mix[: len(fade)] *= fade
    mix[-len(fade) :] *= fade[::-1]
    return mix * min(1.0, ceiling / true_peak(mix))


def render(score: Score, soundfont: Path) -> np.ndarray:
    """Samples of the mastered loop, in mono: shape (samples, 1)."""
    meter = pyloudnorm.Meter(RATE_HZ)
    stems = _synthesise(stems_midi(score), score, soundfont)
    mix = np.zeros((round(score.duration_s * RATE_HZ), 2))
    for place, part in enumerate(score.parts):
        mix += _balanced(_second_pass(stems, score, place), part, meter)
    return _mastered(mix.mean(axis=1, keepdims=True), meter)


def _sounding(audio: np.ndarray) -> np.ndarray:
    """Audio from a quarter of a second before its first sound to a second after its last."""
    loud = np.flatnonzero(np.max(np.abs(audio), axis=1) > 10 ** (-_SILENCE_DB / 20) * audio.max())
    return audio[max(0, loud[0] - RATE_HZ // 4) : loud[-1] + RATE_HZ]


def render_take(score: Score, take: Take, soundfont: Path) -> np.ndarray:
    """Samples of a piece from its first note until it has died away, in mono."""
    played = _synthesise(take_midi(score, take), score, soundfont).mean(axis=1, keepdims=True)
    sections = butter(2, _RUMBLE_HZ, "highpass", fs=RATE_HZ, output="sos")
    audio = _sounding(sosfilt(sections, played, axis=0))
    return _mastered(audio, pyloudnorm.Meter(RATE_HZ), take.loudness_lufs)


def write_ogg(path: Path, audio: np.ndarray, compression: float) -> None:
    """Writes mono Ogg Vorbis, a second at a time: libsndfile overruns its stack on long blocks."""
    with soundfile.SoundFile(
        path, "w", RATE_HZ, 1, format="OGG", subtype="VORBIS", compression_level=compression
    ) as file:
        for start in range(0, len(audio), RATE_HZ):
            file.write(audio[start : start + RATE_HZ].astype(np.float32))
