"""Laws of the trainer under the collapse monitor: what it does about a finding, and what never."""

import dataclasses

import numpy as np
import pytest
import torch

from melodac.errors import CollapseError
from melodac.tokens.array import array_of_tracks
from melodac.training.checkpoint import latest_checkpoint
from melodac.training.data import TrainingData

FRAMES = 32
ON = {"updates": 4, "validate_every": 2, "checkpoint_every": 4}


@pytest.fixture
def data():
    """Enough held-out frames to be judged: 4 windows of 32."""
    generator = np.random.default_rng(0)

    def tracks(*lengths):
        return array_of_tracks([
            (f"t{n}", generator.integers(0, 1024, (n, 2)).astype(np.uint16)) for n in lengths
        ])

    return TrainingData(tracks(100, 60), tracks(128), FRAMES)


def varied(model, num_items, num_frames):
    generator = torch.Generator().manual_seed(1)
    return torch.randint(0, 1024, (num_items, 2, num_frames), generator=generator)


def monotonous(model, num_items, num_frames):
    return torch.full((num_items, 2, num_frames), 5)


@pytest.fixture
def build(build_trainer):
    def build_one(directory=None, *, plays=varied, action="warn", probe_windows=4, **changes):
        collapse = {"action": action, "probe_windows": probe_windows}
        trainer = build_trainer(directory, collapse=collapse, **{**ON, **changes})
        trainer.callbacks = dataclasses.replace(trainer.callbacks, generate_codes=plays)
        return trainer

    return build_one


@pytest.mark.parametrize("action", ["warn", "stop", "gate"])
def test_a_sound_run_ends_well_under_every_action(build, action):
    trainer = build(action=action)
    assert trainer.run().is_complete
    assert trainer.events == []
    assert trainer.validations[-1]["num_unjudged"] == 0


def test_the_best_weights_are_kept_with_what_was_found_in_them(build, tmp_path):
    build(tmp_path, plays=monotonous).run()
    best = latest_checkpoint(tmp_path / "best").checkpoint
    assert best.state["collapse"]["found"]


def test_a_warning_is_said_at_every_validation_and_the_run_goes_on(build):
    trainer = build(plays=monotonous)
    assert trainer.run().is_complete
    assert [(event.name, event.update) for event in trainer.events] == [
        ("collapse", update) for update in (2, 2, 4, 4)
    ]


def test_a_stop_ends_the_run_after_its_checkpoint(build, tmp_path):
    trainer = build(tmp_path, plays=monotonous, action="stop")
    with pytest.raises(CollapseError, match="collapsed in 2 places"):
        trainer.run()
    assert latest_checkpoint(tmp_path / "checkpoints").checkpoint.update == 2
    assert [event.update for event in trainer.events] == [2, 2]


def test_a_gate_fails_after_the_last_update_only(build, tmp_path):
    trainer = build(tmp_path, plays=monotonous, action="gate")
    with pytest.raises(CollapseError, match="action is gate"):
        trainer.run()
    assert len(trainer.updates) == ON["updates"]
    assert latest_checkpoint(tmp_path / "checkpoints").checkpoint.update == ON["updates"]


@pytest.mark.parametrize("action", ["stop", "gate"])
def test_a_run_that_collapse_ended_does_not_pass_when_tried_again(build, tmp_path, action):
    with pytest.raises(CollapseError):
        build(tmp_path, plays=monotonous, action=action).run()
    again = build(tmp_path, plays=monotonous, action=action)
    again.resume()
    with pytest.raises(CollapseError, match=f"action is {action}"):
        again.run()
    assert again.updates == []


def test_looking_changes_nothing_of_the_training(build):
    watched, unwatched = build(), build(probe_windows=0)
    watched.run()
    unwatched.run()
    for one, other in zip(
        watched.state.model.state_dict().values(),
        unwatched.state.model.state_dict().values(),
        strict=True,
    ):
        assert torch.equal(one, other)
    assert [line["loss"] for line in watched.updates] == [
        line["loss"] for line in unwatched.updates
    ]


def test_attention_is_compared_with_update_0_after_a_resume_as_well(build, tmp_path):
    whole = build()
    whole.run()
    build(tmp_path, stop_at=3).run()
    resumed = build(tmp_path)
    resumed.resume()
    resumed.run()
    assert resumed.validations[-1] == whole.validations[-1]
    assert (
        resumed.validations[-1]["attention_start_l0"] == whole.validations[0]["attention_start_l0"]
    )


def test_a_collapse_stops_own_codes_for_good(build, tmp_path):
    changes = {"corruption": {"own_codes": 0.5}}
    trainer = build(tmp_path, plays=monotonous, stop_at=3, **changes)
    trainer.run()
    said = [event.reason for event in trainer.events if event.name == "alarm"]
    assert len(said) == 1
    assert "none of its own codes" in said[0]
    resumed = build(tmp_path, plays=monotonous, **changes)
    assert resumed.gradients.corruption.reads_own_codes
    resumed.resume()
    assert not resumed.gradients.corruption.reads_own_codes


def test_too_few_held_out_cells_are_said_and_not_judged(build):
    trainer = build(plays=monotonous, action="stop", probe_windows=1)
    assert trainer.run().is_complete
    assert trainer.validations[-1]["num_unjudged"] == 6
    assert "only 32 cells" in trainer.validations[-1]["why_unjudged"]
