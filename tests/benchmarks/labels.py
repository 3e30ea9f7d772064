"""How often does each label meet real music, and how often clips that are broken on purpose?

    PYTHONPATH=src:. python tests/benchmarks/labels.py FOLDER ... [--tokens data/encode/tokens]
        [--codec bundled] [--played FOLDER ...] [--seconds 4] [--clips 40] [--per-file 3]

Every folder of real recordings is a row. Broken clips are made from noise and from grains of these
recordings: frames of one piece or of all pieces in any order. With a token store, codes of its
tracks are decoded as they are, shuffled, drawn from each codebook's frequencies, held, and held in
the first codebooks while the others are drawn. `--played` are clips of a model. The limits of
`melodac.evaluation.detectors` were read off these rows; quantiles of what they limit are printed
beside the labels. One core needs about a second for three clips, and the codec's time.
"""

import argparse
import sys
from collections import Counter
from pathlib import Path

import numpy as np
import soundfile
import soxr
import torch

from melodac.codec.load import load_codec
from melodac.evaluation.detectors import examine_clip
from melodac.tokens.store.reader import open_store

RATE_HZ = 44_100
SUFFIXES = {".flac", ".mp3", ".ogg", ".wav"}
RMS = 0.1
GRAIN, HOP = 2048, 512
LABELS = ("ok", "silent", "clipped", "noise", "static", "looping")
MEASURES = ("echo", "tonal_share", "change_db")
QUANTILES = (0.0, 0.05, 0.5, 0.95, 1.0)


def read_clips(folder, num_samples, per_file, generator):
    for path in sorted(p for p in folder.rglob("*") if p.suffix.lower() in SUFFIXES):
        sound, rate_hz = soundfile.read(path, dtype="float32", always_2d=True)
        audio = sound.mean(axis=1)
        if rate_hz != RATE_HZ:
            audio = soxr.resample(audio, rate_hz, RATE_HZ)
        spare = len(audio) - num_samples
        starts = generator.integers(0, spare, per_file) if spare > 0 else [0]
        yield from (audio[start : start + num_samples] for start in starts)


def level(audio):
    rms = float(np.sqrt(np.square(audio).mean()))
    gain = min(RMS / rms, 0.99 / float(np.abs(audio).max())) if rms > 0 else 1.0
    return (gain * audio).astype(np.float32)


def make_noise(slope, num_samples, generator):
    spectrum = np.fft.rfft(generator.normal(size=num_samples))
    spectrum[1:] /= np.arange(1, spectrum.size) ** (slope / 2)
    spectrum[0] = 0
    return np.fft.irfft(spectrum, num_samples)


def join_grains(clips, num_samples, generator):
    """Windows from any clip and any moment, overlapped as frames of a spectrogram are."""
    window = np.hanning(GRAIN + 1)[:-1]
    audio = np.zeros(num_samples + 2 * GRAIN)
    for start in range(0, num_samples + GRAIN, HOP):
        clip = clips[generator.integers(len(clips))]
        at = generator.integers(0, len(clip) - GRAIN)
        audio[start : start + GRAIN] += window * clip[at : at + GRAIN]
    return audio[GRAIN : GRAIN + num_samples]


def break_recordings(clips, num_samples, num_clips, generator):
    long_enough = [clip for clip in clips if len(clip) > 2 * GRAIN and np.abs(clip).max() > 1e-3]
    for _ in range(num_clips):
        for name, slope in (("white", 0), ("pink", 1), ("brown", 2)):
            yield f"{name} noise", make_noise(slope, num_samples, generator)
        yield "frames of all pieces", join_grains(long_enough, num_samples, generator)
        one = long_enough[generator.integers(len(long_enough))]
        yield "frames of one piece", join_grains([one], num_samples, generator)


def break_codes(store, codec, num_frames, num_clips, generator):
    """Codes as the model could play them, with the name of what is wrong with them."""
    tracks = [
        codes
        for name in store.track_ids
        if (codes := store.codes(name)[: codec.num_codebooks].astype(np.int64)).shape[1]
        > num_frames
    ]
    everything = np.concatenate(tracks, axis=1)

    def draw():
        return np.stack([row[generator.integers(0, len(row), num_frames)] for row in everything])

    for _ in range(num_clips):
        track = tracks[generator.integers(len(tracks))]
        start = generator.integers(0, track.shape[1] - num_frames)
        real = track[:, start : start + num_frames]
        frame = np.repeat(real[:, generator.integers(num_frames), None], num_frames, axis=1)
        variants = {"round trip": real, "unigram": draw(), "constant": frame}
        variants["shuffled codes"] = real[:, generator.permutation(num_frames)]
        for kept in (1, 2, 4):
            variants[f"first {kept} held"] = np.concatenate([frame[:kept], draw()[kept:]])
        for name, codes in variants.items():
            tensor = torch.from_numpy(codes)
            yield name, codec.decode(tensor[None])[0].numpy(), tensor[None]


def examine(audio, codes=None):
    audio = level(audio)[None]
    return examine_clip(audio, rate_hz=RATE_HZ, asked_s=audio.shape[1] / RATE_HZ, codes=codes)


def print_row(name, found):
    labels = Counter(label for one in found for label in one.labels)
    shares = "".join(f"{labels[label] / len(found):9.1%}" for label in LABELS)
    sys.stdout.write(f"{name:24.24}{len(found):5}{shares}")
    for measure in MEASURES:
        values = [v for one in found if (v := getattr(one, measure)) is not None]
        told = [f"{v:.2f}" for v in np.quantile(values, QUANTILES)] if values else ["-"]
        sys.stdout.write(f"{' '.join(told):>28}")
    sys.stdout.write("\n")
    sys.stdout.flush()


def main():
    parser = argparse.ArgumentParser()
    parser.add_argument("folders", nargs="+", type=Path)
    parser.add_argument("--tokens", type=Path)
    parser.add_argument("--codec", default="bundled")
    parser.add_argument("--played", nargs="*", type=Path, default=[])
    parser.add_argument("--seconds", type=float, default=4.0)
    parser.add_argument("--clips", type=int, default=40)
    parser.add_argument("--per-file", type=int, default=3)
    asked = parser.parse_args()
    torch.set_num_threads(1)
    generator = np.random.default_rng(0)
    num_samples = round(asked.seconds * RATE_HZ)
    measured = "".join(f"{name + ' 0/5/50/95/100 %':>28}" for name in MEASURES)
    sys.stdout.write(f"{'':24}{'':5}{''.join(f'{name:>9}' for name in LABELS)}{measured}\n")
    pool = []
    for folder in asked.folders:
        clips = list(read_clips(folder, num_samples, asked.per_file, generator))
        judged = [clip for clip in clips if len(clip) >= 2 * RATE_HZ]
        print_row("/".join(folder.parts[-2:]), [examine(clip) for clip in judged])
        pool += [level(clip) for clip in judged]
    for folder in asked.played:
        clips = read_clips(folder, num_samples, 1, generator)
        print_row("/".join(folder.parts[-2:]), [examine(clip) for clip in clips])
    found = {}
    for name, audio in break_recordings(pool, num_samples, asked.clips, generator):
        found.setdefault(name, []).append(examine(audio))
    if asked.tokens:
        codec, store = load_codec(asked.codec), open_store(asked.tokens)
        num_frames = num_samples // codec.hop
        for name, audio, codes in break_codes(store, codec, num_frames, asked.clips, generator):
            found.setdefault(name, []).append(examine(audio, codes))
    for name, findings in found.items():
        print_row(name, findings)


if __name__ == "__main__":
    main()
