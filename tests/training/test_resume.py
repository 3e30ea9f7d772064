"""Laws of resuming: to the bit, from any update, and each part of a checkpoint is needed."""

import pytest
import torch

from melodac.errors import CheckpointCorruptError, CheckpointMismatchError
from melodac.tokens.windows import Bars, Starts
from melodac.training.checkpoint import latest_checkpoint, open_checkpoint, write_checkpoint

FILES = ("model", "ema", "optimizer", "generators")


def essence(events):
    return [{k: v for k, v in event.items() if k != "frames_per_s"} for event in events]


def tensors_of(directory, update=12):
    checkpoint = open_checkpoint(directory / "checkpoints" / f"{update:08d}")
    return {name: checkpoint.read_tensors(name) for name in FILES}


def differing_files(one, other):
    return {
        name
        for name in FILES
        if one[name].keys() != other[name].keys()
        or any(not torch.equal(value, other[name][key]) for key, value in one[name].items())
    }


@pytest.fixture
def uninterrupted(build_trainer, tmp_path):
    trainer = build_trainer(tmp_path / "whole")
    trainer.run()
    return trainer


def test_two_runs_with_one_seed_write_the_same_bytes(uninterrupted, build_trainer, tmp_path):
    build_trainer(tmp_path / "again").run()
    files = [p for p in (tmp_path / "whole").rglob("*") if p.is_file()]
    assert len(files) >= 3 * 7
    for path in files:
        other = tmp_path / "again" / path.relative_to(tmp_path / "whole")
        assert path.read_bytes() == other.read_bytes(), path


def test_another_seed_trains_another_model(uninterrupted, build_trainer, tmp_path):
    build_trainer(tmp_path / "again", seed=6).run()
    assert "model" in differing_files(
        tensors_of(tmp_path / "whole"), tensors_of(tmp_path / "again")
    )


@pytest.mark.parametrize("stop_at", [1, 3, 4, 6, 7, 11, 12])
def test_a_stopped_run_ends_as_an_uninterrupted_one(
    uninterrupted, build_trainer, tmp_path, stop_at
):
    """Thirteen windows an epoch and 4 an update: 3 and 6 are mid-epoch, 4 crosses into the next."""
    first = build_trainer(tmp_path / "parts", stop_at=stop_at)
    assert first.run().is_complete == (stop_at == 12)
    second = build_trainer(tmp_path / "parts")
    assert second.resume() == ()
    assert second.update == stop_at
    result = second.run()
    assert differing_files(tensors_of(tmp_path / "whole"), tensors_of(tmp_path / "parts")) == set()
    assert essence(first.updates + second.updates) == essence(uninterrupted.updates)
    assert essence(first.validations + second.validations) == essence(uninterrupted.validations)
    assert result.best == uninterrupted.state.best


def test_a_stopped_run_on_bars_ends_as_an_uninterrupted_one(build_trainer, tmp_path):
    starts = Starts(bars=(Bars(2.5, 6.0), None, None, Bars(0.0, 3.3)))
    build_trainer(tmp_path / "whole", starts=starts).run()
    build_trainer(tmp_path / "parts", starts=starts, stop_at=7).run()
    second = build_trainer(tmp_path / "parts", starts=starts)
    second.resume()
    second.run()
    assert differing_files(tensors_of(tmp_path / "whole"), tensors_of(tmp_path / "parts")) == set()


def test_many_stops_end_as_none(uninterrupted, build_trainer, tmp_path):
    for _ in range(6):
        trainer = build_trainer(tmp_path / "parts", stop_at=2)
        trainer.resume()
        trainer.run()
    assert trainer.update == 12
    assert differing_files(tensors_of(tmp_path / "whole"), tensors_of(tmp_path / "parts")) == set()


def test_a_finished_run_resumes_to_its_own_end(uninterrupted, build_trainer, tmp_path):
    trainer = build_trainer(tmp_path / "whole")
    trainer.resume()
    result = trainer.run()
    assert trainer.updates == []
    assert result == (12, uninterrupted.state.best, True)


def test_an_epoch_does_end_inside_an_update(uninterrupted):
    assert uninterrupted.order.windows_per_epoch % 4
    assert uninterrupted.epoch > 3


def zero_moments(tensors, state):
    tensors["optimizer"] = {k: torch.zeros_like(v) for k, v in tensors["optimizer"].items()}
    return 6


def shift_update(tensors, state):
    return 5


def drop_generators(tensors, state):
    tensors["generators"] = {"cpu": torch.Generator().manual_seed(0).get_state()}
    return 6


def drop_average(tensors, state):
    tensors["ema"] = dict(tensors["model"])
    return 6


@pytest.mark.parametrize(
    ("mutate", "differing"),
    [
        (zero_moments, {"model", "ema", "optimizer"}),
        (shift_update, {"model", "ema", "optimizer", "generators"}),
        (drop_generators, {"model", "ema", "optimizer", "generators"}),
        (drop_average, {"ema"}),
    ],
)
def test_each_part_of_a_checkpoint_is_needed(
    uninterrupted, build_trainer, tmp_path, mutate, differing
):
    whole = tmp_path / "whole"
    checkpoint = open_checkpoint(whole / "checkpoints" / "00000006")
    tensors = {name: checkpoint.read_tensors(name) for name in FILES}
    update = mutate(tensors, checkpoint.state)
    write_checkpoint(
        tmp_path / "mutant" / "checkpoints",
        update,
        tensors=tensors,
        state=checkpoint.state,
        config=checkpoint.config,
    )
    trainer = build_trainer(tmp_path / "mutant")
    trainer.resume()
    trainer.run()
    assert differing_files(tensors_of(whole), tensors_of(tmp_path / "mutant")) == differing


@pytest.mark.parametrize(
    ("changes", "key"),
    [
        ({"learning_rate": 0.5}, r"train\.learning_rate: checkpoint 0\.01, this run 0\.5"),
        ({"delay": (1, 0)}, r"delay\.delays: checkpoint \[0, 1\], this run \[1, 0\]"),
        ({"dropout": 0.0}, r"model\.dropout: checkpoint 0\.1, this run 0\.0"),
        ({"starts": Starts(is_fixed=True)}, r"starts\.is_fixed: checkpoint False, this run True"),
        ({"starts": Starts(bars=(None,) * 4)}, r"starts\.bars_sha256: checkpoint None"),
        ({"identity": {"data_fingerprint": "xyz"}}, "data_fingerprint: checkpoint 'abc'"),
    ],
)
def test_a_checkpoint_of_another_run_is_refused(
    uninterrupted, build_trainer, tmp_path, changes, key
):
    with pytest.raises(CheckpointMismatchError, match=key):
        build_trainer(tmp_path / "whole", **changes).resume()


def test_how_often_to_save_may_change_on_resume(build_trainer, tmp_path):
    build_trainer(tmp_path, stop_at=5).run()
    trainer = build_trainer(tmp_path, checkpoint_every=1, keep_checkpoints=9)
    trainer.resume()
    trainer.run()
    names = sorted(path.name for path in (tmp_path / "checkpoints").iterdir())
    assert names == [f"{update:08d}" for update in (3, 5, 6, 7, 8, 9, 10, 11, 12)]


def test_a_damaged_newest_checkpoint_costs_only_its_updates(uninterrupted, build_trainer, tmp_path):
    build_trainer(tmp_path / "parts", stop_at=8).run()
    (tmp_path / "parts" / "checkpoints" / "00000008" / "ema.safetensors").write_bytes(b"")
    trainer = build_trainer(tmp_path / "parts")
    (warning,) = trainer.resume()
    assert "00000008 is skipped" in warning
    assert trainer.update == 6
    trainer.run()
    assert differing_files(tensors_of(tmp_path / "whole"), tensors_of(tmp_path / "parts")) == set()


def test_only_damaged_checkpoints_stop_the_run(uninterrupted, build_trainer, tmp_path):
    for folder in (tmp_path / "whole" / "checkpoints").iterdir():
        (folder / "state.json").write_text("{}")
    with pytest.raises(CheckpointCorruptError, match="none is valid"):
        build_trainer(tmp_path / "whole").resume()


def test_old_checkpoints_are_pruned_to_the_count(uninterrupted, tmp_path):
    assert len(list((tmp_path / "whole" / "checkpoints").iterdir())) == 3
    assert latest_checkpoint(tmp_path / "whole" / "checkpoints").checkpoint.update == 12


def test_a_run_stopped_before_its_first_update_keeps_nothing(build_trainer, tmp_path):
    trainer = build_trainer(tmp_path, stop_at=0)
    assert trainer.run() == (0, None, False)
    assert latest_checkpoint(tmp_path / "checkpoints").checkpoint is None
