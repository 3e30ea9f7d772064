"""Laws of resuming: to the bit, from any update, and each part of a checkpoint is needed."""

import shutil

import pytest
import torch

from melodac.errors import CheckpointCorruptError, CheckpointMismatchError
from melodac.tokens.windows import Bars, Starts
from melodac.training.checkpoint import latest_checkpoint, open_checkpoint, write_checkpoint

FILES = ("model", "ema", "optimizer")

TIMINGS = {"frames_per_s", "memory_mb"}


def essence(events):
    return [{k: v for k, v in event.items() if k not in TIMINGS} for event in events]


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


@pytest.fixture(scope="module")
def finished():
    """The finished trainer, and the folder it filled."""
    return []


@pytest.fixture
def uninterrupted(finished, build_trainer, tmp_path, tmp_path_factory):
    """A run nobody stopped, trained once; its folder is `tmp_path / "whole"`."""
    if not finished:
        folder = tmp_path_factory.mktemp("finished")
        trainer = build_trainer(folder)
        trainer.run()
        finished += [trainer, folder]
    trainer, folder = finished
    shutil.copytree(folder, tmp_path / "whole")
    return trainer


def test_two_runs_with_one_seed_write_the_same_bytes(uninterrupted, build_trainer, tmp_path):
    build_trainer(tmp_path / "again").run()
    files = [p for p in (tmp_path / "whole").rglob("*") if p.is_file()]
    assert len(files) >= 3 * 6
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
    assert (12 / uninterrupted.epoch) % 1 > 0.1
    assert uninterrupted.epoch > 3


def rewrite(source, target, *, tensors=None, state=None, config=None, update=6):
    """The checkpoint of update 6 with parts changed or left out (None), whole and hashed."""
    checkpoint = open_checkpoint(source / "checkpoints" / "00000006")

    def changed(parts, changes):
        left_out = {name for name, value in (changes or {}).items() if value is None}
        return {k: v for k, v in {**parts, **(changes or {})}.items() if k not in left_out}

    write_checkpoint(
        target / "checkpoints",
        update,
        tensors=changed({name: checkpoint.read_tensors(name) for name in FILES}, tensors),
        state=changed(checkpoint.state, state),
        config=changed(checkpoint.config, config),
    )
    return checkpoint


def test_a_checkpoint_rewritten_unchanged_resumes_as_itself(uninterrupted, build_trainer, tmp_path):
    rewrite(tmp_path / "whole", tmp_path / "same")
    for path in (tmp_path / "whole" / "checkpoints" / "00000006").iterdir():
        assert (
            path.read_bytes() == (tmp_path / "same/checkpoints/00000006" / path.name).read_bytes()
        )


@pytest.mark.parametrize(
    ("part", "reason"),
    [
        ({"tensors": {"optimizer": None}}, r"was written without optimizer\.safetensors"),
        ({"tensors": {"ema": None}}, r"was written without ema\.safetensors"),
        ({"tensors": {"model": None}}, r"was written without model\.safetensors"),
        ({"state": {"random": None}}, "was written without 'random'"),
        ({"state": {"stability": None}}, "was written without 'stability'"),
        ({"state": {"collapse": None}}, "was written without 'collapse'"),
        ({"state": {"compute": None}}, "was written without 'compute'"),
        ({"state": {"best": None}}, "was written without 'best'"),
        ({"state": {"num_frames": None}}, "was written without 'num_frames'"),
        ({"tensors": {"optimizer": {}}}, "optimizer state does not fit this model"),
        ({"tensors": {"ema": {}}}, r"does not fit this model: \d+ tensors differ"),
        ({"state": {"random": {"seed": 6, "scheme": "other"}}}, "draws its random numbers by"),
        ({"config": {"train": None}}, r"train\.schedule: checkpoint '\(absent\)'"),
    ],
)
def test_a_checkpoint_with_a_part_left_out_is_refused_by_name(
    uninterrupted, build_trainer, tmp_path, part, reason
):
    rewrite(tmp_path / "whole", tmp_path / "mutant", **part)
    with pytest.raises(CheckpointMismatchError, match=reason):
        build_trainer(tmp_path / "mutant").resume()


def test_the_schedule_is_that_of_the_config_and_never_of_another_horizon(
    uninterrupted, build_trainer, tmp_path
):
    """Past the horizon it was saved with, a restored cosine rises again."""
    with pytest.raises(
        CheckpointMismatchError, match=r"train\.updates: checkpoint 12, this run 20"
    ):
        build_trainer(tmp_path / "whole", updates=20).resume()


def zero_moments(tensors):
    return {"optimizer": {k: torch.zeros_like(v) for k, v in tensors["optimizer"].items()}}


def shift_update(tensors):
    return {}


def model_as_average(tensors):
    return {"ema": tensors["model"]}


@pytest.mark.parametrize(
    ("mutate", "update", "differing"),
    [
        (zero_moments, 6, {"model", "ema", "optimizer"}),
        (shift_update, 5, {"model", "ema", "optimizer"}),
        (model_as_average, 6, {"ema"}),
    ],
)
def test_each_part_of_a_checkpoint_is_needed(
    uninterrupted, build_trainer, tmp_path, mutate, update, differing
):
    tensors = mutate(tensors_of(tmp_path / "whole", 6))
    rewrite(tmp_path / "whole", tmp_path / "mutant", tensors=tensors, update=update)
    trainer = build_trainer(tmp_path / "mutant")
    trainer.resume()
    trainer.run()
    assert (
        differing_files(tensors_of(tmp_path / "whole"), tensors_of(tmp_path / "mutant"))
        == differing
    )


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


def test_the_start_is_a_checkpoint_like_any_other(uninterrupted, build_trainer, tmp_path):
    """There is always something to go back to, and the optimizer's memory is whole from the start."""
    assert build_trainer(tmp_path / "parts", stop_at=0).run() == (0, None, False)
    assert latest_checkpoint(tmp_path / "parts" / "checkpoints").checkpoint.update == 0
    trainer = build_trainer(tmp_path / "parts")
    trainer.resume()
    trainer.run()
    assert differing_files(tensors_of(tmp_path / "whole"), tensors_of(tmp_path / "parts")) == set()


def test_fewer_bytes_than_two_checkpoints_fill_keep_two(build_trainer, tmp_path):
    build_trainer(tmp_path, stop_at=9).run()
    trainer = build_trainer(tmp_path, keep_checkpoints=9, keep_checkpoints_mb=1)
    trainer.resume()
    trainer.run()
    names = sorted(path.name for path in (tmp_path / "checkpoints").iterdir())
    assert names == ["00000009", "00000012"]


def test_the_best_so_far_survives_a_resume(build_trainer, tmp_path):
    """A best that was forgotten is overwritten by whatever is validated next."""
    first = build_trainer(tmp_path, stop_at=4)
    first.run()
    second = build_trainer(tmp_path)
    second.resume()
    assert second.state.best == first.state.best
    best = tmp_path / "best" / f"{first.state.best.update:08d}"
    before = {path.name: path.read_bytes() for path in best.iterdir()}
    second.run()
    validated = {line["update"]: line["loss"] for line in first.validations + second.validations}
    assert second.state.best.loss == min(validated.values())
    assert before == {path.name: path.read_bytes() for path in best.iterdir()}
