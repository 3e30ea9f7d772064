"""What to try against each kind of collapse, and what is known of it not helping.

The doses are those of the runs that were reported; they are where to begin, not what is proven.
"""

from types import MappingProxyType
from typing import Literal, NamedTuple

FindingKind = Literal["usage", "generated_usage", "entropy", "attention"]


class Remedy(NamedTuple):
    """Three parts of a sentence."""

    what: str
    """Name of the number that was found."""
    advice: str
    caveat: str


REMEDIES = MappingProxyType[FindingKind, Remedy]({
    "usage": Remedy(
        "distinct codes sampled from the predictions, beside those of the truth on the same cells,",
        "halve train.learning_rate; then try train.objective.usage_bonus 0.06 and "
        "train.corruption.token_noise 0.08",
        "in one earlier system neither a lower rate nor a longer warm-up, entropy or noise helped, "
        "as its rate was near 0 by mistake: first see that learning_rate in the log is as planned",
    ),
    "generated_usage": Remedy(
        "distinct codes of generated clips, beside those of as many frames of the truth,",
        "if usage is fine, predictions are sound and only reading its own codes fails: sample at "
        "T = 1, never the likeliest code, and try train.corruption.token_noise 0.08, then "
        "own_codes up to 0.1 with a slow rise",
        "in one earlier system reading 1.5 % of its own codes made the collapse: it is switched "
        "off as soon as anything is found",
    ),
    "entropy": Remedy(
        "entropy of the codes sampled from the predictions, beside that of the truth on the same "
        "cells,",
        "halve train.learning_rate; then try train.objective.entropy_bonus 0.1, gone after a "
        "quarter of the updates, or label_smoothing 0.05",
        "in one earlier system a bonus of 0.02 to 0.04 changed nothing, and it was over before the "
        "warm-up was, as it counted micro-batches",
    ),
    "attention": Remedy(
        "change of the attention entropy since update 0, as a share of its maximum,",
        "see attention_logit of the layer: if it grows without end, halve train.learning_rate or "
        "double train.warmup_updates; if it stands and the loss falls, the layer has learned to "
        "look at one place: raise train.collapse.max_attention_change",
        "in one earlier system eight runs with other rates and batches did not help, as the scale "
        "of attention was wrong, which is audited here before update 1",
    ),
})
