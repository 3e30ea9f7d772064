"""Laws of the overfit gate: it passes what works and fails what does not."""

import numpy as np
import pytest
import torch

from melodac.errors import AuditError
from melodac.overfit.gate import RunSpec, constant_nats, run_overfit
from melodac.overfit.window_choice import choose_windows
from melodac.tokens.array import array_of_tracks
from melodac.tokens.delay import apply_delay, build_pattern, cell_frames, undo_delay
from melodac.tokens.vocabulary import PAD
from melodac.training.config import OverfitConfig
from melodac.training.data import TrainingData

CONFIG = OverfitConfig(
    action="stop",
    windows=2,
    window_frames=16,
    prefix_frames=2,
    updates=150,
    stop_loss=0.3,
    min_accuracy=0.99,
    seed=0,
)


@pytest.fixture
def data():
    generator = np.random.default_rng(0)
    array = array_of_tracks([
        (name, generator.integers(0, 1024, (length, 2)).astype(np.uint16))
        for name, length in (("a", 40), ("b", 10), ("c", 17))
    ])
    return TrainingData(array, array, 16)


@pytest.fixture
def real(data, train_config):
    changes = {"learning_rate": 2e-2, "warmup_updates": 5}
    return RunSpec(data, train_config.model_copy(update=changes))


@torch.inference_mode()
def play(model, pattern, *, num_frames, prefix, seeds, temperature, condition):
    """Slow and obvious: the whole sequence is read anew for each step."""
    B, K, P = prefix.shape
    codes = torch.full((B, K, num_frames), PAD)
    codes[..., :P] = prefix
    sequence, frames = apply_delay(codes, pattern), cell_frames(pattern, num_frames)
    generator = torch.Generator().manual_seed(seeds[0])
    for step in range(sequence.shape[-1]):
        free = (frames[step] >= P) & (frames[step] < num_frames)
        logits = model(sequence, condition)[..., step, :]
        guess = logits.argmax(-1)
        if temperature:
            drawn = torch.multinomial(
                (logits / temperature).softmax(-1).flatten(0, 1), 1, generator=generator
            )
            guess = drawn.view(B, K)
        sequence[..., step] = torch.where(free, guess, sequence[..., step])
    return undo_delay(sequence, pattern)


@pytest.fixture
def run(build_model, real):
    def run(delay=(0, 1), config=CONFIG, play=play, model=None, real=real, **options):
        return run_overfit(
            model or build_model(dropout=0.0),
            build_pattern(delay, 2),
            real,
            config=config,
            play=play,
            **options,
        )

    return run


@pytest.mark.parametrize("delay", [(0, 1), (0, 0), (2, 0), "flat"])
def test_the_gate_passes_under_every_pattern(run, delay):
    heard = []
    report = run(delay, on_update=heard.append)
    assert report.problems == ()
    assert report.cause == ""
    assert report.is_passed
    assert report.free_run_accuracy == report.teacher_forced_accuracy == 1.0
    assert report.free_runs.continued_per_codebook == (1.0, 1.0)
    assert report.updates == len(heard) < CONFIG.updates
    assert report.loss == heard[-1]["loss"] < CONFIG.stop_loss
    assert report.loss_curve[-1] == (report.updates, report.loss)


def test_one_window_comes_back_with_nothing_given(run):
    report = run(config=CONFIG.model_copy(update={"windows": 1}))
    assert report.is_passed
    assert report.free_runs.from_nothing == 1.0
    assert report.free_runs.continued == {1: 1.0, 2: 1.0, 8: 1.0}


def test_chance_decides_less_the_lower_the_temperature(run):
    sampled = run().free_runs.sampled
    assert list(sampled) == [0.5, 1.0]
    assert all(len(shares) == 3 for shares in sampled.values())
    assert np.mean(sampled[0.5]) > np.mean(sampled[1.0]) > 0.05
    assert np.mean(sampled[0.5]) > 0.9


def test_the_gate_fails_a_model_that_did_not_learn(run):
    report = run(config=CONFIG.model_copy(update={"updates": 6}))
    assert not report.is_passed
    assert report.free_run_accuracy < 0.5
    assert "continued freely from 2 frames" in report.problems[0]
    assert report.problems[1].startswith("codebook 0 is hardly better predicted than by never")
    assert report.cause.startswith("the windows are not learned, teacher forcing predicts ")
    assert "the loss is still falling" in report.cause


def test_a_rate_that_is_far_too_low_is_named(run, real):
    config = real.config.model_copy(update={"learning_rate": 1e-5})
    report = run(real=real._replace(config=config))
    assert not report.is_passed
    assert "raise train.learning_rate (1e-05)" in report.cause


def test_a_rate_that_is_far_too_high_is_named(run, real):
    config = real.config.model_copy(update={"learning_rate": 3.0})
    report = run(real=real._replace(config=config))
    assert not report.is_passed
    assert report.cause.startswith("the stability controller stopped the optimisation at update ")
    assert "deviations above the median" in report.cause or "leaps up" in report.cause
    assert report.cause.endswith("lower train.learning_rate (3) or raise train.warmup_updates (5)")


def test_the_gate_fails_a_free_run_that_is_off_by_one_frame(run):
    def late(*args, **options):
        return play(*args, **options).roll(1, dims=-1)

    report = run(play=late)
    assert report.teacher_forced_accuracy == 1.0
    assert not report.is_passed
    assert report.cause.startswith("cached generation differs from teacher forcing: in window 0")
    assert "look at delay, shift and generation" in report.cause


def test_one_window_that_needs_a_prefix_is_not_enough(run):
    def forgets_the_start(*args, prefix, **options):
        found = play(*args, prefix=prefix, **options)
        return found if prefix.shape[-1] else torch.zeros_like(found)

    report = run(play=forgets_the_start, config=CONFIG.model_copy(update={"windows": 1}))
    assert report.free_run_accuracy == 1.0
    assert report.problems[0].startswith("played freely from nothing, 0.0% of the cells are right")
    assert report.cause.startswith("cached generation differs from teacher forcing")


def test_a_head_that_is_cut_off_is_refused_before_anything_is_learned(run, build_model):
    model = build_model(dropout=0.0)
    cut_codebook_1(model)
    with pytest.raises(AuditError, match="the head of codebook 1 receives no gradient"):
        run(model=model)


def test_a_codebook_that_stays_constant_fails_though_the_loss_falls(run, build_model, monkeypatch):
    model = build_model(dropout=0.0)
    monkeypatch.setattr("melodac.training.trainer.Trainer.audit", lambda _trainer: {})
    cut_codebook_1(model)
    report = run(model=model)
    first, last = report.loss_curve[0][1], report.loss
    assert last < 0.6 * first
    sentence = (
        "codebook 1 is hardly better predicted than by never looking (6.931 nats per code, "
        "3.422 without looking)"
    )
    assert report.problems[-1] == sentence
    assert report.cause.startswith(f"{sentence}: look at its head and its targets")


def cut_codebook_1(model):
    model.head.register_forward_hook(
        lambda _module, _inputs, output: torch.cat(
            [output[..., :1024], output[..., 1024:].detach() * 0], dim=-1
        )
    )


def test_windows_are_cut_whole_and_end_where_they_end(data):
    windows = choose_windows(data, build_pattern((0, 1), 2), CONFIG).data.train
    assert min(windows.track_ids).startswith("a+")
    assert windows.lengths.tolist() == [16, 16]
    for position, name in enumerate(windows.track_ids):
        track, start = name.split("+")
        whole = data.train.codes(data.train.track_ids.index(track))
        assert np.array_equal(windows.codes(position), whole[int(start) : int(start) + 16])


@pytest.fixture
def quiet_starts():
    """Recordings as they are: each begins with the same silence, longer than the prefix."""
    generator = np.random.default_rng(1)
    tracks = [(f"t{n}", generator.integers(0, 1024, (16, 2)).astype(np.uint16)) for n in range(4)]
    for _, codes in tracks:
        codes[:5] = 7
    array = array_of_tracks(tracks)
    return TrainingData(array, array, 16)


@pytest.mark.parametrize("seed", range(3))
def test_the_gate_passes_where_all_music_begins_with_the_same_silence(
    run, real, quiet_starts, seed
):
    report = run(
        config=CONFIG.model_copy(update={"seed": seed}), real=real._replace(data=quiet_starts)
    )
    assert report.cause == ""
    assert report.prefix_frames == 8
    assert report.notes == (
        "free runs are given 8 frames instead of 2: fewer do not tell the windows apart",
    )


def test_the_gate_passes_though_gradients_of_known_windows_are_tiny_and_uneven(run, real):
    """Without an early end, long after the windows are known by heart: nothing is refused."""
    heard = []
    report = run(
        config=CONFIG.model_copy(update={"stop_loss": 0.0, "updates": 300}), on_update=heard.append
    )
    assert report.is_passed
    assert report.updates == 300
    assert not any(line["is_skipped"] for line in heard)


def test_the_constant_predictor_is_the_entropy_of_the_windows():
    codes = np.array([[0, 7], [1, 7], [2, 7], [3, 7]], dtype=np.uint16)
    assert constant_nats(array_of_tracks([("a", codes)])) == pytest.approx([np.log(4), 0.0])
