"""Laws of the overfit gate: it passes what works and fails what does not."""

import numpy as np
import pytest
import torch

from melodac.errors import ConfigError
from melodac.tokens.array import array_of_tracks
from melodac.tokens.delay import apply_delay, build_pattern, cell_frames, undo_delay
from melodac.tokens.vocabulary import PAD
from melodac.training.config import OverfitConfig
from melodac.training.overfit import cut_windows, run_overfit

CONFIG = OverfitConfig(
    windows=2,
    window_frames=16,
    prefix_frames=2,
    updates=150,
    learning_rate=2e-2,
    warmup_updates=5,
    stop_loss=0.3,
    min_accuracy=0.99,
    seed=0,
)


@pytest.fixture
def array():
    generator = np.random.default_rng(0)
    return array_of_tracks([
        (name, generator.integers(0, 1024, (length, 2)).astype(np.uint16))
        for name, length in (("a", 40), ("b", 10), ("c", 17))
    ])


@torch.inference_mode()
def greedy(model, pattern, *, num_frames, prefix):
    """Slow and obvious: the whole sequence is read anew for each step."""
    B, K, P = prefix.shape
    codes = torch.full((B, K, num_frames), PAD)
    codes[..., :P] = prefix
    sequence, frames = apply_delay(codes, pattern), cell_frames(pattern, num_frames)
    for step in range(sequence.shape[-1]):
        free = (frames[step] >= P) & (frames[step] < num_frames)
        guess = model(sequence)[..., step, :].argmax(-1)
        sequence[..., step] = torch.where(free, guess, sequence[..., step])
    return undo_delay(sequence, pattern)


@pytest.mark.parametrize("delay", [(0, 1), (0, 0), (2, 0), "flat"])
def test_the_gate_passes_under_every_pattern(build_model, array, delay):
    heard = []
    report = run_overfit(
        build_model(dropout=0.0),
        build_pattern(delay, 2),
        cut_windows(array, CONFIG),
        config=CONFIG,
        free_run=greedy,
        on_update=heard.append,
    )
    assert report.is_passed
    assert report.free_run_accuracy == report.teacher_forced_accuracy == 1.0
    assert report.free_run_accuracy_per_codebook == (1.0, 1.0)
    assert report.updates == len(heard) < CONFIG.updates
    assert report.loss == heard[-1]["loss"] < CONFIG.stop_loss


def test_the_gate_fails_a_model_that_did_not_learn(build_model, array):
    config = CONFIG.model_copy(update={"updates": 6})
    report = run_overfit(
        build_model(dropout=0.0),
        build_pattern((0, 1), 2),
        cut_windows(array, config),
        config=config,
        free_run=greedy,
    )
    assert not report.is_passed
    assert report.free_run_accuracy < 0.5


def test_the_gate_fails_a_free_run_that_is_off_by_one_frame(build_model, array):
    def late(model, pattern, *, num_frames, prefix):
        return greedy(model, pattern, num_frames=num_frames, prefix=prefix).roll(1, dims=-1)

    report = run_overfit(
        build_model(dropout=0.0),
        build_pattern((0, 1), 2),
        cut_windows(array, CONFIG),
        config=CONFIG,
        free_run=late,
    )
    assert report.teacher_forced_accuracy == 1.0
    assert not report.is_passed


def test_windows_are_cut_whole_and_end_where_they_end(array):
    windows = cut_windows(array, CONFIG)
    assert windows.track_ids == ("a+0", "c+0")
    assert windows.lengths.tolist() == [16, 16]
    assert np.array_equal(windows.codes(1), array.codes(2)[:16])


def test_too_little_music_is_refused(array):
    with pytest.raises(ConfigError, match=r"needs 2 windows of 32 frames, .* hold 1"):
        cut_windows(array, CONFIG.model_copy(update={"window_frames": 32}))
