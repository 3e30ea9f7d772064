"""Speed and memory of normalizing on one thread, beside the plain library calls and the ceiling.

    python tests/benchmarks/normalize.py [--music FOLDER] [--memory]

The plain calls are what anyone would write: read the whole file, mix, resample with soxr, measure
with pyloudnorm, multiply, write. They do less (no true peak, no silent ends, no offset, no hashes)
and hold the track. The ceiling decodes FLAC and encodes FLAC, and does nothing in between. Times are
processor seconds, the three take turns, and the ratios are medians over turns of one run.
"""

import argparse
import multiprocessing
import statistics
import sys
import tempfile
import time
from pathlib import Path

import numpy as np
import pyloudnorm
import soundfile
import soxr

from melodac.audio.level.normalize import NormalizeJob, NormalizeTarget, normalize_file
from melodac.files import hash_file

ROOT = Path(__file__).resolve().parents[2]
RATE_HZ = 44_100
DURATION_S = 120
TURNS = 7
CASES = [  # rate and channels of the source, what is made of them
    (44_100, 2, "mono"), (44_100, 2, "stereo"), (48_000, 2, "mono"), (44_100, 1, "mono"),
]  # fmt: skip
BLOCK_SAMPLES = 1 << 16
LONGEST_HELD_MIN = 10
"""The plain calls need some 150 MB for each minute of stereo."""


def read_music(folder):
    """Real music, two channels, as often over as it takes."""
    pieces, num_samples = [], 0
    files = sorted(path for path in folder.rglob("*") if path.suffix in {".ogg", ".flac", ".wav"})
    while num_samples < DURATION_S * RATE_HZ:
        for path in files:
            audio, rate_hz = soundfile.read(path, dtype="float32", always_2d=True)
            audio = soxr.resample(
                np.repeat(audio, 2, axis=1)[:, :: audio.shape[1]], rate_hz, RATE_HZ
            )
            pieces.append(audio[:, :2])
            num_samples += len(audio)
            if num_samples >= DURATION_S * RATE_HZ:
                break
    return np.concatenate(pieces)[: DURATION_S * RATE_HZ]


def run_ours(source, destination, channels):
    target = NormalizeTarget(
        rate_hz=RATE_HZ,
        channels=channels,
        target_lufs=-16.0,
        max_gain_db=30.0,
        peak_ceiling_dbtp=-1.0,
        trim_below_dbfs=-60.0,
        keep_silence_s=0.5,
    )
    job = NormalizeJob(source, destination, hash_file(source))
    normalize_file(job, target=target, max_duration_s=1e5)


def run_plain(source, destination, channels):
    audio, rate_hz = soundfile.read(source, always_2d=True)
    if channels == "mono":
        audio = audio.mean(axis=1, keepdims=True)
    audio = soxr.resample(audio, rate_hz, RATE_HZ, quality="VHQ")
    loudness_lufs = pyloudnorm.Meter(RATE_HZ).integrated_loudness(audio)
    gain_db = min(-16.0 - loudness_lufs, -20 * np.log10(np.abs(audio).max()))
    soundfile.write(destination, audio * 10 ** (gain_db / 20), RATE_HZ, subtype="PCM_24")


def run_ceiling(source, destination, channels):
    with soundfile.SoundFile(source) as file:
        kept = 1 if channels == "mono" else file.channels
        with soundfile.SoundFile(destination, "w", RATE_HZ, kept, "PCM_24") as written:
            for block in file.blocks(BLOCK_SAMPLES, dtype="float32", always_2d=True):
                written.write(block[:, :kept])


def time_turns(source, destination, channels):
    """Seconds of each turn: ours, plain, ceiling."""
    turns = []
    for _ in range(TURNS + 1):
        seconds = []
        for work in (run_ours, run_plain, run_ceiling):
            start = time.process_time()
            work(source, destination, channels)
            seconds.append(time.process_time() - start)
        turns.append(seconds)
    return turns[1:]  # the first one warms up


def measure_speed(music, folder):
    lines = [
        f"{DURATION_S} s of music, one thread, x real time (median of {TURNS} turns)",
        "source FLAC         -> out     melodac   plain calls  ceiling   melodac/plain  melodac/ceiling",
    ]
    for rate_hz, num_channels, channels in CASES:
        source = folder / f"{rate_hz}_{num_channels}.flac"
        audio = soxr.resample(music, RATE_HZ, rate_hz)[:, :num_channels]
        soundfile.write(source, audio, rate_hz, subtype="PCM_16")
        turns = time_turns(source, folder / "result.flac", channels)
        ours, plain, ceiling = (
            DURATION_S / statistics.median(kind) for kind in zip(*turns, strict=True)
        )
        to_plain = statistics.median(turn[1] / turn[0] for turn in turns)
        to_ceiling = statistics.median(turn[2] / turn[0] for turn in turns)
        named = f"{rate_hz / 1000:g} kHz {'stereo' if num_channels == 2 else 'mono'}"
        lines.append(
            f"{named:19} -> {channels:7} {ours:7.0f} {plain:13.0f} {ceiling:8.0f} "
            f"{to_plain:15.2f} {to_ceiling:16.2f}"
        )
    return lines


def use_memory(work, source, destination, told):
    """In a process of its own: megabytes that the work added to the peak."""
    before = read_peak_mb()
    work(source, destination, "stereo")
    told.put(read_peak_mb() - before)


def read_peak_mb():
    # not ru_maxrss, which a process inherits from the one that started it
    status = Path("/proc/self/status").read_text(encoding="ascii")
    return int(status.partition("VmHWM:")[2].split()[0]) / 1024


def measure_apart(context, work, source, destination):
    told = context.SimpleQueue()
    process = context.Process(target=use_memory, args=(work, source, destination, told))
    process.start()
    process.join()
    return told.get() if process.exitcode == 0 else float("nan")


def measure_memory(music, folder):
    lines = ["peak memory added, 44.1 kHz stereo -> stereo, MB"]
    context = multiprocessing.get_context("spawn")
    for minutes in (1, 10, 60):
        source = folder / f"{minutes}_minutes.flac"
        with soundfile.SoundFile(source, "w", RATE_HZ, 2, "PCM_16") as file:
            for _ in range(minutes):
                file.write(music[: 60 * RATE_HZ])
        added: dict[str, float] = {}
        for name, work in (("melodac", run_ours), ("plain calls", run_plain)):
            if name == "melodac" or minutes <= LONGEST_HELD_MIN:
                added[name] = measure_apart(context, work, source, folder / "result.flac")
        told = "   ".join(f"{name} {megabytes:.0f}" for name, megabytes in added.items())
        lines.append(f"{minutes:3} min: {told}")
    return lines


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--music", type=Path, default=ROOT / "data" / "sample" / "audio")
    parser.add_argument("--memory", action="store_true", help="measure memory instead")
    asked = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        measure = measure_memory if asked.memory else measure_speed
        sys.stdout.write("\n".join(measure(read_music(asked.music), Path(folder))) + "\n")


if __name__ == "__main__":
    main()
