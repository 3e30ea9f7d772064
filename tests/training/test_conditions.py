"""Laws of what training asks for: fair, the same on every rank and cut, nothing drawn elsewhere."""

import json

import pytest
import torch

from melodac.models.condition import PADDING
from melodac.training.conditions import count_left_out, draw_conditions, full_conditions
from melodac.training.config import TrainConfig

TAGS = tuple((f"tag{n}", "folk", "piano", "slow") for n in range(8))
ITEMS = range(8)


@pytest.fixture
def reading_config(train_config):
    """The run of the other tests, with tags: nothing drawn unless a test says so."""

    def build(**changes):
        given = {
            "condition": "tags", "unconditional_frac": 0.0, "tag_shuffle": False,
            "tag_dropout": 0.0, "tag_limit": 0, "seed": 5,
        }  # fmt: skip
        raw = train_config.model_dump(mode="json") | given | changes
        return TrainConfig.model_validate_json(json.dumps(raw))

    return build


def texts_of(condition):
    rows = [bytes(cell for cell in row if cell != PADDING) for row in condition.text.tolist()]
    return [row.decode() for row in rows]


def draw(config, update=1, items=ITEMS, tags=TAGS, max_bytes=80):
    return texts_of(draw_conditions(tags, config, update=update, items=items, max_bytes=max_bytes))


def many(config, num_updates=250):
    return [text for update in range(1, num_updates + 1) for text in draw(config, update)]


def test_with_nothing_on_training_reads_what_validation_reads(reading_config):
    assert draw(reading_config()) == texts_of(full_conditions(TAGS, 80))
    assert texts_of(full_conditions(TAGS, 80))[2] == "tag2, folk, piano, slow"


def test_one_update_is_drawn_the_same_however_it_is_cut(reading_config):
    config = reading_config(unconditional_frac=0.3, tag_shuffle=True, tag_dropout=0.3)
    for update in (1, 2, 99):
        whole = draw(config, update)
        for size in (1, 2, 4):
            parts = [range(first, first + size) for first in range(0, 8, size)]
            cut = [
                text
                for part in parts
                for text in draw(config, update, part, TAGS[part.start : part.stop])
            ]
            assert cut == whole


def test_two_ranks_drop_the_same_items(reading_config):
    """What ran before and the process's own generators have no say."""
    config = reading_config(unconditional_frac=0.5, tag_shuffle=True, tag_dropout=0.3)
    first = draw(config, 7)
    torch.manual_seed(1234)
    torch.rand(100)
    before = torch.get_rng_state()
    draw(config, 6)
    assert draw(config, 7) == first
    assert torch.equal(torch.get_rng_state(), before)


def test_updates_items_and_seeds_are_drawn_apart(reading_config):
    config = reading_config(unconditional_frac=0.5)
    patterns = {tuple(bool(text) for text in draw(config, update)) for update in range(1, 50)}
    assert len(patterns) > 30
    assert draw(config, 1) != draw(reading_config(unconditional_frac=0.5, seed=6), 1)


@pytest.mark.parametrize("share", [0.0, 0.15, 0.5])
def test_as_many_items_are_dropped_as_asked_for(reading_config, share):
    """2000 draws; five standard deviations: a false alarm in two million runs of this test."""
    config = reading_config(unconditional_frac=share, tag_dropout=0.9)
    nulls = sum(not text for text in many(config))
    assert abs(nulls - 2000 * share) <= 5 * (2000 * share * (1 - share)) ** 0.5


def test_tags_are_left_out_as_often_as_asked_for(reading_config):
    """Of 3 x 2000 tags; the fourth stays where all were left out, so it is not counted."""
    config = reading_config(tag_dropout=0.25)
    kept = " ".join(many(config))
    for word in ("folk", "piano", "slow"):
        assert abs(kept.count(word) - 1500) <= 5 * (2000 * 0.25 * 0.75) ** 0.5 + 2000 * 0.25**4


def test_one_tag_always_stays(reading_config):
    assert all(many(reading_config(tag_dropout=0.99, tag_shuffle=True), 50))


def test_every_place_is_as_likely_for_every_tag(reading_config):
    """A tag leads a quarter of 2000 draws; five standard deviations."""
    firsts = [text.split(", ")[0][:3] for text in many(reading_config(tag_shuffle=True))]
    for word in ("tag", "fol", "pia", "slo"):
        assert abs(firsts.count(word) - 500) <= 5 * (2000 * 0.25 * 0.75) ** 0.5


def test_no_more_tags_than_the_limit(reading_config):
    texts = many(reading_config(tag_shuffle=True, tag_limit=2), 20)
    assert {len(text.split(", ")) for text in texts} == {2}
    assert len(set(texts)) > 20


def test_a_shuffle_moves_words_and_loses_none(reading_config):
    for text, tags in zip(draw(reading_config(tag_shuffle=True)), TAGS, strict=True):
        assert sorted(text.split(", ")) == sorted(tags)


def test_one_key_changed_moves_nothing_else(reading_config):
    """Dropping items changes no order; leaving tags out keeps the order of those that stay."""
    shuffled = draw(reading_config(tag_shuffle=True))
    dropped = draw(reading_config(tag_shuffle=True, unconditional_frac=0.5))
    assert all(text in {"", whole} for text, whole in zip(dropped, shuffled, strict=True))
    assert "" in dropped
    thinned = draw(reading_config(tag_shuffle=True, tag_dropout=0.5))
    for text, whole in zip(thinned, shuffled, strict=True):
        assert [tag for tag in whole.split(", ") if tag in text.split(", ")] == text.split(", ")


def test_an_item_without_tags_is_null(reading_config):
    config = reading_config(tag_shuffle=True, tag_dropout=0.5)
    condition = draw_conditions([(), ("folk",)], config, update=1, items=range(2), max_bytes=80)
    assert condition.is_null.tolist() == [True, False]
    assert full_conditions([(), ("folk",)], 80).is_null.tolist() == [True, False]


def test_tags_without_room_are_left_out_whole_and_counted(reading_config):
    tags = [("a description far too long for this model", "folk"), ("piano",)]
    assert texts_of(full_conditions(tags, 12)) == ["folk", "piano"]
    assert count_left_out(tags, 12) == 1
    assert draw(reading_config(), items=range(2), tags=tags, max_bytes=12) == ["folk", "piano"]
