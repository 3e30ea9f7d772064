"""Conditions in training: texts of the tags of each window's track, or the null condition.

Each item of each update has its own generator, so dropped conditions, left out tags and their order
are a pure function of seed, update and item: equal on every rank, for any micro-batch size and
after resuming. Validation and evaluation read all tags in their own order.
"""

from collections.abc import Sequence

import torch

from melodac.models.condition import Condition, encode_texts
from melodac.tokens.tags import join_tags
from melodac.training.config import TrainConfig
from melodac.training.seeding import build_generator

Tags = tuple[str, ...]
"""Tags of one track."""


def draw_conditions(
    tags: Sequence[Tags], config: TrainConfig, *, update: int, items: range, max_bytes: int
) -> Condition:
    """Draw the conditions of the items of one part of an update.

    Args:
        tags: Tags of each item's track; an item without any gets the null condition.
        config: Probabilities of the draws.
        update: Counted from 1.
        items: Numbers of the items in the whole update.
        max_bytes: `text_bytes` of the model.
    """
    drawn = [
        _draw(of_item, config, update=update, item=item)
        for of_item, item in zip(tags, items, strict=True)
    ]
    return full_conditions(drawn, max_bytes)


def full_conditions(tags: Sequence[Tags], max_bytes: int) -> Condition:
    """Return all tags of each item in their own order, for validation and evaluation."""
    return encode_texts([join_tags(of_item, max_bytes).text for of_item in tags], max_bytes)


def count_left_out(tags: Sequence[Tags], max_bytes: int) -> int:
    """Count the tags that do not fit if all of an item are used."""
    return sum(join_tags(of_item, max_bytes).num_left_out for of_item in tags)


def _draw(tags: Tags, config: TrainConfig, *, update: int, item: int) -> Tags:
    generator = build_generator(config.seed, "condition", update, item)
    # everything is drawn whatever the config, so that one key changed leaves the other draws equal
    is_dropped = float(torch.rand((), generator=generator)) < config.unconditional_frac
    order = [int(tag) for tag in torch.randperm(len(tags), generator=generator)]
    is_kept = torch.rand(len(tags), generator=generator) >= config.tag_dropout
    if is_dropped:
        return ()
    if not config.tag_shuffle:
        order = sorted(order)
    # one tag always stays: unconditional_frac alone decides how many items have no condition
    kept = [tags[tag] for tag in order if is_kept[tag]] or [tags[tag] for tag in order[:1]]
    return tuple(kept[: config.tag_limit or None])
