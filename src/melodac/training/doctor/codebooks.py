"""Each codebook by itself, and signs of a model that says less and less.

What was not logged is not measured, never zero. The doctor alone imports this file.
"""

import math
from collections.abc import Iterator, Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np

from melodac.training.doctor.curve import MIN_UPDATES, uniform_nats
from melodac.training.doctor.findings import Measured
from melodac.training.doctor.run_log import Line, RunLog, late_window


class Codebook(NamedTuple):
    """What is known of one codebook at the end; None where it was not measured."""

    codebook: int
    train_nats: float | None
    """Median of the last tenth of the updates."""
    validation_nats: float | None
    unigram_nats: float | None
    """Held-out loss of a model that knows how frequent codes are and nothing else."""
    usage: float | None
    target_usage: float | None
    entropy: float | None


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
            last.get(f"loss_k{codebook}"),
            unigram[codebook] if unigram is not None and codebook < len(unigram) else None,
            last.get(f"usage_k{codebook}"),
            last.get(f"target_usage_k{codebook}"),
            last.get(f"entropy_k{codebook}"),
        )
        for codebook in range(count)
    ]


def check_codebooks(
    rows: Sequence[Codebook], log: RunLog, config: Mapping[str, Any]
) -> Iterator[Measured]:
    """Every check of single codebooks and of collapse."""
    uniform = uniform_nats(config)
    yield _stalled(rows, log, uniform)
    yield _beside_unigram(rows)
    yield _usage(rows)
    yield from _entropy(rows, uniform)
    yield _attention(log)


def _stalled(rows: Sequence[Codebook], log: RunLog, uniform: float) -> Measured:
    if len(log.accepted) < MIN_UPDATES:
        return Measured("stalled_codebooks", None, f"{len(log.accepted)} updates are too few")
    known = [row for row in rows if row.train_nats is not None]
    if not known:
        return Measured("stalled_codebooks", None, "losses of codebooks are not logged")
    still = [row.codebook for row in known if not (row.train_nats or 0.0) < uniform]
    return Measured("stalled_codebooks", len(still) / len(known), f"codebooks {still or 'none'}")


def _beside_unigram(rows: Sequence[Codebook]) -> Measured:
    pairs = [
        (row.validation_nats, row.unigram_nats)
        for row in rows
        if row.validation_nats is not None and row.unigram_nats is not None
    ]
    if not pairs:
        return Measured("above_unigram", None, "no baselines or no validation at hand")
    above = sum(model - unigram for model, unigram in pairs) / len(pairs)
    worse = sum(model > unigram for model, unigram in pairs)
    return Measured("above_unigram", above, f"{worse} of {len(pairs)} codebooks above")


def _usage(rows: Sequence[Codebook]) -> Measured:
    ratios = {
        row.codebook: row.usage / row.target_usage
        for row in rows
        if row.usage is not None and row.target_usage
    }
    if not ratios:
        return Measured("usage", None, "usage is not logged, see train.collapse.probe_windows")
    least = min(ratios, key=lambda codebook: ratios[codebook])
    return Measured("usage", ratios[least], f"codebook {least}")


def _entropy(rows: Sequence[Codebook], uniform: float) -> Iterator[Measured]:
    known = {row.codebook: row.entropy for row in rows if row.entropy is not None}
    if not known:
        yield Measured("entropy", None, "entropy is not logged, see train.collapse.probe_windows")
        return
    least = min(known, key=lambda codebook: known[codebook])
    yield Measured("entropy", known[least] / uniform, f"codebook {least}: {known[least]:.3g} nats")
    slack = 1e-4  # of sums in float32
    wrong = [k for k, value in known.items() if not -slack <= value <= uniform + slack]
    yield Measured("entropy_range", float(len(wrong)), f"codebooks {wrong or 'none'}")


def _attention(log: RunLog) -> Measured:
    measured = [line for line in log.validations if any(key.startswith(_ATTENTION) for key in line)]
    if len(measured) < 2:
        return Measured("attention", None, "attention entropy is logged fewer than two times")
    first, last = measured[0], measured[-1]
    changes = {
        key.removeprefix(_ATTENTION): abs(last[key] - first[key])
        for key in first
        if key.startswith(_ATTENTION) and key in last
    }
    most = max(changes, key=lambda layer: changes[layer])
    return Measured("attention", changes[most], f"layer {most}, since update {first['update']}")


_ATTENTION = "attention_entropy_l"


def _count(lines: Sequence[Line]) -> int:
    numbers = [
        int(key.removeprefix("loss_k"))
        for line in lines
        for key in line
        if key.startswith("loss_k") and key.removeprefix("loss_k").isdecimal()
    ]
    return max(numbers, default=-1) + 1


def _median(values: Sequence[float]) -> float | None:
    finite = [value for value in values if math.isfinite(value)]
    return float(np.median(finite)) if finite else None
