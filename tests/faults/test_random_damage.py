"""Whatever is cut off, flipped or blanked in a file: it is refused, or read in full length."""

import numpy as np
import pytest

from melodac.audio.files.read import open_audio
from melodac.errors import AudioError
from tests.faults.sound_formats import (
    edited,
    ffmpeg,
    raw,
    sndfile,
    without_info_frame,
)  # fmt: skip
from tests.faults.sounds import mp3

FILES = {
    "wav": sndfile(1, "WAV", "PCM_16"),
    "aiff": sndfile(1, "AIFF", "PCM_24"),
    "caf": sndfile(1, "CAF", "PCM_16"),
    "w64": sndfile(1, "W64", "PCM_16"),
    "rf64": sndfile(1, "RF64", "PCM_16"),
    "au": sndfile(1, "AU", "PCM_16"),
    "flac": sndfile(1, "FLAC", "PCM_16"),
    "ogg": sndfile(1, "OGG", "VORBIS"),
    "opus": sndfile(1, "OGG", "OPUS", rate_hz=48_000),
    "mp3": raw(lambda: mp3(1)),
    "vbr": raw(lambda: mp3(1, mode="VARIABLE")),
    "bare": edited(raw(lambda: mp3(1, mode="VARIABLE")), without_info_frame),
    "aac": ffmpeg(1, "aac", "adts"),
    "m4a": ffmpeg(1, "aac", "ipod"),
    "fast": ffmpeg(1, "aac", "ipod", options={"movflags": "faststart"}),
    "dash": ffmpeg(1, "aac", "ipod", options={"movflags": "dash+global_sidx+frag_every_frame"}),
    "alac": ffmpeg(1, "alac", "ipod"),
    "wv": ffmpeg(1, "wavpack", "wv"),
    "tta": ffmpeg(1, "tta", "tta"),
    "mka": ffmpeg(1, "aac", "matroska"),
    "oga": ffmpeg(1, "flac", "ogg"),
    "wma": ffmpeg(1, "wmav2", "asf", bit_rate=128_000),
}
PROVED = {"flac", "ogg", "opus", "wv", "tta", "oga"}
"""Formats whose checksums tell every damage to sound."""
LOSS_S = {"wma": 0.1, "dash": 0.1, "mka": 0.03}
"""What may be lost unnoticed where only a header tells the length."""


def cut(content, rng):
    return content[: int(rng.integers(1, len(content)))]


def flip(content, rng):
    bit = int(rng.integers(0, len(content) * 8))
    content[bit // 8] ^= 1 << bit % 8
    return content


def blank(content, rng):
    at = int(rng.integers(0, len(content) - 400))
    content[at : at + 400] = bytes(400)
    return content


def length_s(path):
    with open_audio(path) as file:
        return sum(block.shape[1] for block in file.blocks(60.0)) / file.info.sample_rate_hz


def damaged_lengths(tmp_path, name, damage, trials):
    """The true length, and what was read of each damaged file that was not refused."""
    path = tmp_path / name
    FILES[name](path)
    content, full_s = path.read_bytes(), length_s(path)
    rng = np.random.default_rng([trials, *name.encode()])
    lengths = []
    for _ in range(trials):
        damaged = damage(bytearray(content), rng)
        path.write_bytes(damaged)
        try:
            lengths.append(length_s(path))
        except AudioError:
            continue
        if damaged == content:  # what was blanked was blank before
            lengths.pop()
    return full_s, lengths


@pytest.mark.parametrize(
    "trials", [pytest.param(4, id="few"), pytest.param(150, marks=pytest.mark.slow, id="many")]
)
@pytest.mark.parametrize("damage", [cut, flip, blank], ids=lambda damage: damage.__name__)
@pytest.mark.parametrize("name", FILES)
def test_nothing_is_shortened_in_silence(tmp_path, name, damage, trials):
    full_s, lengths = damaged_lengths(tmp_path, name, damage, trials)
    least_s = full_s - LOSS_S.get(name, 0.0)
    if damage is cut and name == "aac":
        # a raw AAC stream has no end: cut between two frames it is a shorter whole one
        assert len(lengths) <= trials // 30
    else:
        assert min(lengths, default=full_s) >= least_s
    if damage is cut and name not in {"aac", "wma"}:  # a WMA may lose its index and no sound
        assert not lengths
    if name in PROVED and damage is blank:
        assert not lengths
