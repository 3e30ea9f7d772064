"""Each codebook by itself, and signs of a model that says less and less.

What was not logged is not measured, never zero.
"""

import math
from collections.abc import Iterator, Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np

from melodac.doctor.findings import Measurement, list_first
from melodac.doctor.run_curves import MIN_UPDATES, Line, RunLog, late_window, uniform_nats

LEAST_USAGE = 20
"""Distinct codes of the truth below which their number says nothing."""


class Codebook(NamedTuple):
    """What is known of one codebook at the end; None where it was not measured."""

    codebook: int
    train_nats: float | None
    """Median of the last tenth of the updates."""
    validation_nats: float | None
    unigram_nats: float | None
    """Held-out loss of a model that knows how frequent codes are and nothing else."""
    usage: float | None
    """Distinct codes sampled from the predictions."""
    generated_usage: float | None
    """Distinct codes of generated clips."""
    target_usage: float | None
    """Distinct codes of the truth, on as many cells."""
    sampled_entropy: float | None
    target_entropy: float | None


_NAMES = ("usage", "generated_usage", "target_usage", "sampled_entropy", "target_entropy")
_ENTROPIES = ("entropy", "sampled_entropy", "target_entropy")
_ATTENTION = "attention_entropy_l"


def tabulate(log: RunLog, unigram: Sequence[float] | None) -> list[Codebook]:
    """One row a codebook, from the end of the log.

    Args:
        log: Lines of the run.
        unigram: Held-out baseline of each codebook, in the order of the run's columns.
    """
    late = log.accepted[-late_window(len(log.accepted)) :]
    last: Line = log.validations[-1] if log.validations else {}
    count = _count([*late[-1:], last])
    return [
        Codebook(
            codebook,
            _median([line[f"loss_k{codebook}"] for line in late if f"loss_k{codebook}" in line]),
            _number(last, f"loss_k{codebook}"),
            unigram[codebook] if unigram is not None and codebook < len(unigram) else None,
            *(_number(last, f"{name}_k{codebook}") for name in _NAMES),
        )
        for codebook in range(count)
    ]


def check_codebooks(
    rows: Sequence[Codebook],
    log: RunLog,
    config: Mapping[str, Any],
    initial_attention: Sequence[float] | None,
) -> Iterator[Measurement]:
    """Every check of single codebooks and of collapse.

    Args:
        rows: Of `tabulate`.
        log: Lines of the run.
        config: Of its newest checkpoint.
        initial_attention: Entropy share of each layer before training, if the run remembers it.
    """
    uniform = uniform_nats(config)
    yield _stalled(rows, log, uniform)
    yield _beside_unigram(rows)
    many = [row for row in rows if (row.target_usage or 0) >= LEAST_USAGE]
    rich = [row for row in rows if (row.target_entropy or 0.0) > math.log(2.0)]
    yield _least("usage", [(k.codebook, k.usage, k.target_usage) for k in many])
    yield _least("generated_usage", [(k.codebook, k.generated_usage, k.target_usage) for k in many])
    yield _least("entropy", [(k.codebook, k.sampled_entropy, k.target_entropy) for k in rich])
    yield _range(log, uniform)
    yield _attention(log, initial_attention)


def _stalled(rows: Sequence[Codebook], log: RunLog, uniform: float) -> Measurement:
    if len(log.accepted) < MIN_UPDATES:
        return Measurement("stalled_codebooks", None, f"{len(log.accepted)} updates are too few")
    known = [row for row in rows if row.train_nats is not None]
    if not known:
        return Measurement("stalled_codebooks", None, "losses of codebooks are not logged")
    still = [row.codebook for row in known if not (row.train_nats or 0.0) < uniform]
    return Measurement("stalled_codebooks", len(still) / len(known), f"codebooks {still or 'none'}")


def _beside_unigram(rows: Sequence[Codebook]) -> Measurement:
    pairs = [
        (row.validation_nats, row.unigram_nats)
        for row in rows
        if row.validation_nats is not None and row.unigram_nats is not None
    ]
    if not pairs:
        return Measurement("above_unigram", None, "no baselines or no validation at hand")
    above = sum(model - unigram for model, unigram in pairs) / len(pairs)
    worse = sum(model > unigram for model, unigram in pairs)
    return Measurement("above_unigram", above, f"{worse} of {len(pairs)} codebooks above")


def _least(check: str, pairs: Sequence[tuple[int, float | None, float | None]]) -> Measurement:
    """The least share of the truth; each pair is a codebook, what was said, and the truth."""
    ratios = {k: said / truth for k, said, truth in pairs if said is not None and truth is not None}
    if not ratios:
        return Measurement(check, None, "not logged or too few cells: train.collapse.probe_windows")
    least = min(ratios, key=lambda codebook: ratios[codebook])
    return Measurement(check, ratios[least], f"codebook {least}")


def _range(log: RunLog, uniform: float) -> Measurement:
    slack = 1e-4  # of sums in float32
    names = tuple(f"{name}_k" for name in _ENTROPIES)
    known = [
        (line["update"], key, value)
        for line in log.validations
        for key, value in line.items()
        if key.startswith(names)
    ]
    if not known:
        return Measurement(
            "entropy_range", None, "no entropy is logged: train.collapse.probe_windows"
        )
    wrong = [
        f"{key} {value:.3g} at update {update}"
        for update, key, value in known
        if not -slack <= value <= uniform + slack
    ]
    return Measurement("entropy_range", float(len(wrong)), list_first(wrong))


def _attention(log: RunLog, initial: Sequence[float] | None) -> Measurement:
    measured = [
        {key.removeprefix(_ATTENTION): line[key] for key in line if key.startswith(_ATTENTION)}
        for line in log.validations
    ]
    measured = [layers for layers in measured if layers]
    if initial is not None:
        measured.insert(0, {str(layer): share for layer, share in enumerate(initial)})
    if len(measured) < 2:
        return Measurement("attention", None, "not logged: train.collapse.probe_windows")
    first, last = measured[0], measured[-1]
    changes = {layer: abs(last[layer] - first[layer]) for layer in last if layer in first}
    most = max(changes, key=lambda layer: changes[layer])
    return Measurement("attention", changes[most], f"layer {most}: {last[most]:.3g} at the end")


def _count(lines: Sequence[Line]) -> int:
    numbers = [
        int(key.removeprefix("loss_k"))
        for line in lines
        for key in line
        if key.startswith("loss_k") and key.removeprefix("loss_k").isdecimal()
    ]
    return max(numbers, default=-1) + 1


def _number(line: Line, key: str) -> float | None:
    return float(line[key]) if key in line else None


def _median(values: Sequence[float]) -> float | None:
    finite = [value for value in values if math.isfinite(value)]
    return float(np.median(finite)) if finite else None
