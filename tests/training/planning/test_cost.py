"""Laws of what is said before a run: it changes nothing, and it is what the run then takes."""

import pytest
import torch

from melodac.errors import OutputError
from melodac.models.config import build_config, count_parameters
from melodac.tokens.delay import build_pattern
from melodac.training.planning import cost as preflight
from melodac.training.planning.cost import (
    PassTimes,
    RunShape,
    check_disk,
    estimate_disk,
    estimate_seconds,
    forecast_run,
    time_passes,
)
from tests.tiny import change_config

CPU = torch.device("cpu")


@pytest.fixture
def shape(train_config):
    def build(size="nano", train_frames=10_000, validation_frames=1280, frames=128, **changes):
        return RunShape(
            build_config(size, num_codebooks=9, dropout=0.1),
            change_config(train_config, changes),
            build_pattern("musicgen", 9),
            window_frames=frames,
            train_frames=train_frames,
            validation_frames=validation_frames,
        )

    return build


def test_timing_changes_no_weight_and_leaves_no_gradient(build_trainer):
    trainer, twin = build_trainer(), build_trainer()
    model = trainer.state.model
    generator = torch.get_rng_state()
    times = time_passes(trainer.gradients)
    assert times.part_s > 0
    assert times.step_s > 0
    assert all(weight.grad is None for weight in model.parameters())
    assert torch.equal(generator, torch.get_rng_state())
    trainer.run()
    twin.run()
    for one, other in zip(model.parameters(), twin.state.model.parameters(), strict=True):
        assert torch.equal(one, other)


def test_time_is_that_of_every_part_step_and_validation(shape):
    """12 updates of 2 parts, 3 validations of 10 windows, each a third of half a part."""
    run = shape()
    assert estimate_seconds(run, PassTimes(6.0, 0.5)) == pytest.approx(
        12 * (2 * 6.0 + 0.5) + 3 * 10 * 1.0
    )


def test_a_resumed_run_takes_what_is_left(shape):
    run, times = shape(), PassTimes(6.0, 0.5)
    assert estimate_seconds(run, times, first=9) == pytest.approx(4 * 12.5 + 1 * 10 * 1.0)


def test_longer_stages_of_the_context_take_longer(shape):
    times = PassTimes(6.0, 0.5)
    short = estimate_seconds(shape(context=((1, 64),)), times)
    grown = estimate_seconds(shape(context=((1, 64), (7, 128))), times)
    assert grown > short * 1.3


def test_processes_share_the_parts(shape):
    run, times = shape(), PassTimes(6.0, 0.0)
    assert estimate_seconds(run._replace(world_size=2), times) == pytest.approx(
        estimate_seconds(run, times) / 2
    )


def test_checkpoints_on_disk_are_what_was_estimated(build_trainer, tmp_path):
    trainer = build_trainer(tmp_path, keep_checkpoints=3)
    trainer.run()
    model = trainer.state.model.config
    run = RunShape(
        model,
        trainer.config,
        trainer.pattern,
        window_frames=8,
        train_frames=85,
        validation_frames=25,
    )
    newest = max((tmp_path / "checkpoints").iterdir())
    tensors = sum(path.stat().st_size for path in newest.glob("*.safetensors"))
    assert tensors == pytest.approx(4 * 4 * count_parameters(model).total, rel=0.1)
    held = sum(path.stat().st_size for path in tmp_path.rglob("*.safetensors"))
    assert held / 1.1 < estimate_disk(run) < 3 * held


def test_a_limit_in_megabytes_limits_the_estimate(shape):
    many = estimate_disk(shape(keep_checkpoints=50))
    few = estimate_disk(shape(keep_checkpoints=50, keep_checkpoints_mb=200))
    assert few < many / 5
    assert few > estimate_disk(shape(keep_checkpoints=2))


def test_a_disk_that_is_too_small_is_refused_before_the_run(shape, tmp_path, monkeypatch):
    run, directory = shape(), tmp_path / "run"
    assert check_disk(run, directory).startswith("disk: up to ")
    usage = type("Usage", (), {"free": estimate_disk(run) - 1})
    monkeypatch.setattr(preflight.shutil, "disk_usage", lambda _: usage)
    with pytest.raises(OutputError, match=r"fill up to .*, free are .*lower train\.keep_checkpo"):
        check_disk(run, directory)
    directory.mkdir()
    (directory / "held").write_bytes(b"12")
    assert check_disk(run, directory)
    assert sorted(tmp_path.rglob("*")) == [directory, directory / "held"]


def test_a_model_far_larger_than_its_music_is_said_so(shape, tmp_path):
    few = forecast_run(shape(train_frames=1000), device=CPU, directory=tmp_path)
    many = forecast_run(shape(train_frames=10**7), device=CPU, directory=tmp_path)
    assert any("can learn this music by heart" in line for line in few.warnings)
    assert not many.warnings
    assert "5.12 M parameters; music: 9000 training codes, 0.0018 a parameter" in few.lines[0]


def test_every_step_of_a_window_is_counted_and_none_is_cut(shape, tmp_path):
    found = forecast_run(shape(), device=CPU, directory=tmp_path)
    assert "up to 128 frames are 136 steps of delay musicgen, nothing is cut" in found.lines[1]


def test_positions_beyond_the_slowest_wave_are_said(shape, tmp_path):
    long = shape(train_frames=10**7, frames=16384)
    assert not forecast_run(long, device=CPU, directory=tmp_path).warnings
    flat = long._replace(pattern=build_pattern("flat", 9))
    found = forecast_run(flat, device=CPU, directory=tmp_path).warnings
    assert any("far positions look alike" in line for line in found)


def test_a_run_that_may_not_fit_into_memory_is_said_with_what_would(shape, tmp_path, monkeypatch):
    monkeypatch.setattr(preflight, "available_bytes", lambda _: 100_000_000)
    found = forecast_run(shape(train_frames=10**7), device=CPU, directory=tmp_path)
    assert any("may not fit into 100 MB of memory: about" in line for line in found.warnings)
    monkeypatch.setattr(preflight, "available_bytes", lambda _: None)
    assert not forecast_run(shape(train_frames=10**7), device=CPU, directory=tmp_path).warnings
