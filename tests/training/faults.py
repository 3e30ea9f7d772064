"""Faults put into the updates of a run, where bad music, a bad kernel or a bad cable puts them."""

import math
from collections import Counter

import torch

from melodac.training.objective import Objective, ObjectiveTerms


def _spoil_one(value):
    def spoil(gradient):
        spoiled = gradient.clone()
        spoiled[0, 0, 0, 0] = value
        return spoiled

    return spoil


LOSSES = {"nan loss": math.nan, "inf loss": math.inf, "spike": 1e3}
"""Factors on the loss, and so on its gradient, of one part."""

GRADIENTS = {
    "nan gradient": lambda gradient: gradient * math.nan,
    "one nan": _spoil_one(math.nan),
    "one inf": _spoil_one(math.inf),
    "gradient spike": lambda gradient: gradient * 1e3,
}
"""What becomes of the gradient of one part's logits; the loss stays as it is."""

KINDS = [*LOSSES, *GRADIENTS]


def install(monkeypatch, plan, *, part=0, parts=2):
    """Let every trainer meet the faults of a plan, by update, in one part of each update."""
    measure = Objective.measure
    calls = Counter()

    def faulty(self, logits, sequence, counted, *, update):
        is_hit = calls[update] % parts == part
        calls[update] += 1
        kind = plan.get(update) if is_hit else None
        if kind in GRADIENTS:
            logits.register_hook(GRADIENTS[kind])
        measured = measure(self, logits, sequence, counted, update=update)
        if kind not in LOSSES:
            return measured
        factor = LOSSES[kind]
        return ObjectiveTerms(measured.nats * factor, measured.counts, measured.objective * factor)

    monkeypatch.setattr(Objective, "measure", faulty)


def refused(trainer):
    """Numbers of the updates that were not taken."""
    return [line["update"] for line in trainer.updates if line["is_skipped"]]


def tensors(trainer):
    """Copies of all that a refused update must leave alone."""
    state = trainer.state
    named = {
        **{f"model/{k}": v for k, v in state.model.state_dict().items()},
        **{f"average/{k}": v for k, v in state.average.model.state_dict().items()},
        **state.optimizer.tensors(),
    }
    return {name: value.detach().clone() for name, value in named.items()}


def differing(one, other):
    """Names of the tensors that are not the same to the bit."""
    return {name for name in one | other if not torch.equal(one[name], other[name])}
