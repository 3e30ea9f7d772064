"""Clips of the page: what the model made is judged, and nothing else."""

from pathlib import PurePosixPath
from types import SimpleNamespace

import numpy as np
import pytest

from melodac.report.page_content import DemoClip, Rung, RungKind
from pipeline.listening.demo_clips import ClipWriter
from pipeline.stages.demos import _count_labels
from tests.evaluation.sounds import RATE_HZ, band, noise

PREFIX_S = 3.0


@pytest.fixture
def writer(tmp_path):
    codec = SimpleNamespace(sample_rate_hz=RATE_HZ)
    return ClipWriter(tmp_path / "demos", SimpleNamespace(codec=codec))


def add(writer, beginning, rest, prefix_s=PREFIX_S):
    audio = np.concatenate([beginning[:, : int(PREFIX_S * RATE_HZ)], rest], axis=1)
    asked_s = audio.shape[1] / RATE_HZ
    writer.add(
        RungKind.CONTINUATION, audio, codes=None, asked_s=asked_s, label="a", prefix_s=prefix_s
    )
    return writer.clips[RungKind.CONTINUATION][-1]


def test_noise_after_a_real_beginning_is_noise(writer):
    clip = add(writer, band(), noise())
    assert clip.verdicts == ("noise",)
    assert "echo" in clip.reasons["noise"]
    assert add(writer, band(), noise(), prefix_s=None).verdicts == ("ok",)


def test_a_noisy_beginning_is_not_the_model_s_fault(writer):
    clip = add(writer, noise(), band())
    assert (clip.verdicts, clip.reasons) == (("ok",), {})
    assert clip.duration_s == pytest.approx(7.0)


def make_clip(*verdicts):
    return DemoClip(
        audio=PurePosixPath("a.flac"),
        picture=PurePosixPath("a.png"),
        label="a",
        duration_s=1.0,
        verdicts=verdicts,
    )


def test_sampled_labels_are_of_what_was_sampled():
    rungs = [
        Rung(kind=RungKind.ORIGINAL, clips=(make_clip("clipped"),)),
        Rung(kind=RungKind.ROUND_TRIP, clips=(make_clip("noise"),)),
        Rung(kind=RungKind.CONTINUATION, clips=(make_clip("ok"), make_clip("noise", "clipped"))),
        Rung(kind=RungKind.FREE_RUN, clips=(make_clip("static"), make_clip("ok"))),
    ]
    sampled = _count_labels(rungs, (RungKind.CONTINUATION, RungKind.FREE_RUN))
    assert sampled == {"clipped": 1, "noise": 1, "ok": 2, "static": 1}
    assert _count_labels(rungs, RungKind) == {"clipped": 2, "noise": 2, "ok": 2, "static": 1}
