"""Laws of the dry run: the table says what the trainer will do, the warnings what looks wrong."""

import pytest

from melodac.training.config import TrainConfig
from melodac.training.schedule import (
    context_frames_at,
    format_schedule,
    learning_rate_at,
    schedule_table,
    schedule_warnings,
)

BUSY = {
    "updates": 600,
    "warmup_updates": 50,
    "schedule": "wsd",
    "decay_updates": 100,
    "context": ((1, 4), (301, 8)),
    "validate_every": 100,
    "objective": {"entropy_bonus": 0.1, "entropy_updates": 200, "usage_bonus": 0.2},
    "corruption": {
        "token_noise": 0.3,
        "token_noise_updates": 400,
        "own_codes": 0.2,
        "own_codes_from": 100,
        "own_codes_updates": 300,
    },
}


@pytest.fixture
def build_config(train_config):
    """A config with changes, checked as one that was read from params.yaml."""
    whole = train_config.model_dump()

    def build(values):
        merged = {
            key: {**whole[key], **value} if isinstance(value, dict) else value
            for key, value in values.items()
        }
        return TrainConfig.model_validate(whole | merged)

    return build


def test_every_beginning_and_end_has_its_row(build_config):
    rows = schedule_table(build_config(BUSY), 8)
    assert {row.update: row.event for row in rows} == {
        1: "first update",
        50: "warm-up ends",
        101: "own_codes begins",
        200: "entropy_bonus has fallen to 0",
        301: "windows of 8 frames",
        400: "token_noise has fallen to 0, own_codes is at its full share",
        500: "last update at the peak",
        600: "last update",
    }


def test_every_row_is_what_the_trainer_will_do(build_config):
    config = build_config(BUSY)
    for row in schedule_table(config, 8, epoch_after=lambda update: update / 7):
        assert row.learning_rate == learning_rate_at(row.update, config)
        assert row.frames == context_frames_at(row.update, config, 8)
        assert row.epoch == row.update / 7


def test_every_quantity_that_is_on_is_shown_and_no_other(build_config):
    names = ["entropy_bonus", "usage_bonus", "token_noise", "own_codes"]
    rows = schedule_table(build_config(BUSY), 8)
    assert all(list(row.quantities) == names for row in rows)
    at = {row.update: row.quantities for row in rows}
    assert at[1] == {
        "entropy_bonus": 0.1,
        "usage_bonus": 0.2,
        "token_noise": 0.3,
        "own_codes": 0.0,
    }
    assert at[200]["entropy_bonus"] == 0.0
    assert at[400]["token_noise"] == 0.0
    assert at[600]["own_codes"] == 0.2
    assert schedule_table(build_config({}), 8)[0].quantities == {}


def test_the_shortest_run_has_one_row(build_config):
    rows = schedule_table(build_config({"updates": 1, "warmup_updates": 0}), 8)
    assert [(row.update, row.event) for row in rows] == [(1, "first update, last update")]


def test_the_text_has_a_line_for_each_row_with_columns_that_end_together(build_config):
    rows = schedule_table(build_config(BUSY), 8, epoch_after=lambda update: update / 7)
    head, *lines = format_schedule(rows).splitlines()
    assert len(lines) == len(rows)
    assert head.split()[:4] == ["update", "epoch", "learning_rate", "frames"]
    end = head.index("learning_rate") + len("learning_rate")
    assert all(line[end - 1] != " " and line[end] == " " for line in lines)
    assert lines[-1].endswith("last update")
    assert lines[-1].split()[:4] == ["600", "85.71", "0.001", "8"]


def test_a_run_like_the_default_is_not_remarked_on(build_config):
    assert schedule_warnings(build_config({"updates": 600, "warmup_updates": 50})) == []
    assert schedule_warnings(build_config(BUSY)) == []


@pytest.mark.parametrize(
    ("values", "text"),
    [
        ({"warmup_updates": 6}, "the warm-up takes 6 of 12 updates (50%)"),
        (
            {"objective": {"entropy_bonus": 0.1, "entropy_updates": 2}},
            "entropy_bonus has fallen to 0 at update 2, before the warm-up ends at update 2",
        ),
        (
            {"corruption": {"token_noise": 0.1, "token_noise_updates": 100}},
            "token_noise would have fallen to 0 at update 100, after the run of 12",
        ),
        (
            {"corruption": {"own_codes": 0.1, "own_codes_from": 12}},
            "own_codes begins after update 12, the run has 12: it never acts",
        ),
        (
            {"corruption": {"own_codes": 0.1, "own_codes_from": 4, "own_codes_updates": 20}},
            "own_codes would reach its full share at update 24",
        ),
        ({"schedule": "wsd"}, "train.schedule is wsd with decay_updates 0"),
        ({"decay_updates": 4}, "train.decay_updates is 4, which train.schedule cosine"),
        ({"min_learning_rate_ratio": 1.0}, "cosine never falls"),
        ({"validate_every": 13}, "train.validate_every is 13, the run has 12 updates"),
    ],
)
def test_what_is_rarely_meant_is_said_once(build_config, values, text):
    found = schedule_warnings(build_config(values))
    assert sum(text in warning for warning in found) == 1
    assert len(found) == 1
