"""Checks of single codebooks, and signs of output collapse.

Limits are those of train.collapse, the run's own where its config has them. `findings` says what
the docstrings are for.
"""

from collections.abc import Sequence

from melodac.doctor.findings import Checks, Measured, Unmeasured, count
from melodac.doctor.run import MIN_UPDATES, Run
from melodac.training.guards.collapse import MIN_TRUTH_NATS

CODEBOOK_CHECKS = Checks()
TRIVIAL_USAGE = 19.0
"""Distinct codes of the truth up to which their number says nothing."""
_ATTENTION = "attention_entropy_l"


@CODEBOOK_CHECKS.add(warning=0.0, failure=0.5)  # higher codebooks stalled while the mean fell
def stalled_codebooks(run: Run) -> Measured:
    """Share of codebooks that are no better than a uniform guess.

    Fine codebooks learn last: train longer, or objective.codebook_weights=auto; if coarse ones
    stall, another train.delay.
    """
    if len(run.log.accepted) < MIN_UPDATES:
        raise Unmeasured(f"{len(run.log.accepted)} updates are too few")
    nats = {row.codebook: row.train_nats for row in run.codebooks if row.train_nats is not None}
    if not nats:
        raise Unmeasured("losses of codebooks are not logged")
    still = [codebook for codebook, loss in nats.items() if not loss < run.curve.uniform]
    return len(still) / len(nats), f"codebooks {still or 'none'}"


# data/index/baselines.json; above it no context is used
@CODEBOOK_CHECKS.add(warning=0.0)
def above_unigram(run: Run) -> Measured:
    """Held-out nats above a model that knows frequencies of codes only.

    Too few updates or too little music for this size: train longer, or a smaller train.size.
    """
    above = [
        row.validation_nats - row.unigram_nats
        for row in run.codebooks
        if row.validation_nats is not None and row.unigram_nats is not None
    ]
    if not above:
        raise Unmeasured("no baselines or no validation at hand")
    worse = sum(nats > 0.0 for nats in above)
    return sum(above) / len(above), f"{worse} of {len(above)} codebooks above"


# as the monitor of training, on the same cells
@CODEBOOK_CHECKS.add(warning=0.1, is_floor=True, param="collapse.min_usage_ratio")
def usage(run: Run) -> Measured:
    """Least share of distinct codes sampled from predictions beside those of the truth.

    The model says few codes. Diagnose first: see `peak_rate`; then try
    train.objective.usage_bonus or train.corruption.token_noise.
    """
    return _least_ratio(run, "usage", "target_usage", TRIVIAL_USAGE)


# as the monitor of training, from free runs
@CODEBOOK_CHECKS.add(warning=0.1, is_floor=True, param="collapse.min_usage_ratio")
def generated_usage(run: Run) -> Measured:
    """Least share of distinct codes of generated clips beside those of the truth.

    If `usage` is fine only reading its own codes fails: sample at T = 1, then try
    train.corruption.
    """
    return _least_ratio(run, "generated_usage", "target_usage", TRIVIAL_USAGE)


@CODEBOOK_CHECKS.add(warning=0.5, is_floor=True, param="collapse.min_entropy_ratio")
def entropy(run: Run) -> Measured:
    """Least entropy of sampled codes beside that of the truth.

    Predictions are monotonous: halve train.learning_rate, then try train.objective.entropy_bonus
    with a decay.
    """
    return _least_ratio(run, "sampled_entropy", "target_entropy", MIN_TRUTH_NATS)


@CODEBOOK_CHECKS.add(failure=0.0)  # no distribution has one (an entropy below 0 was reported)
def entropy_range(run: Run) -> Measured:
    """Logged entropies outside 0 to ln V.

    The metric is wrong: do not read anything from it.
    """
    slack = 1e-4  # of sums in float32
    names = ("entropy_k", "sampled_entropy_k", "target_entropy_k")
    known = [
        (f"{key} {value:.3g} at update {line['update']}", value)
        for line in run.log.validations
        for key, value in line.items()
        if key.startswith(names)
    ]
    if not known:
        raise Unmeasured("no entropy is logged: train.collapse.probe_windows")
    most = run.curve.uniform + slack
    return count([where for where, value in known if not -slack <= value <= most])


# against its own start
@CODEBOOK_CHECKS.add(warning=0.7, param="collapse.max_attention_change")
def attention(run: Run) -> Measured:
    """Greatest change of a layer's attention entropy, as a share of its maximum.

    A layer looks at one place or at all alike. Lower train.learning_rate; see the attention
    logits in the audit of the start.
    """
    logged = [
        {key.removeprefix(_ATTENTION): line[key] for key in line if key.startswith(_ATTENTION)}
        for line in run.log.validations
    ]
    measured = [layers for layers in logged if layers]
    initial: Sequence[float] | None = run.newest.state.get("collapse", {}).get("initial_attention")
    if initial is not None:
        measured.insert(0, {str(layer): share for layer, share in enumerate(initial)})
    if len(measured) < 2:
        raise Unmeasured("not logged: train.collapse.probe_windows")
    first, last = measured[0], measured[-1]
    changes = {layer: abs(last[layer] - first[layer]) for layer in last if layer in first}
    if not changes:
        raise Unmeasured("no layer was measured both first and last")
    most = max(changes, key=lambda layer: changes[layer])
    return changes[most], f"layer {most}: {last[most]:.3g} at the end"


def _least_ratio(run: Run, said: str, truth: str, trivial: float) -> Measured:
    """Return the least ratio of what the model says to the truth, over the codebooks.

    Args:
        run: Examined run.
        said: Field of `Codebook` with what the model says.
        truth: Field of `Codebook` with the truth.
        trivial: Value of the truth up to which nothing is judged.
    """
    ratios: dict[int, float] = {}
    for row in run.codebooks:
        value, true = getattr(row, said), getattr(row, truth)
        if value is not None and true is not None and true > trivial:
            ratios[row.codebook] = value / true
    if not ratios:
        raise Unmeasured("not logged or too few cells: train.collapse.probe_windows")
    least = min(ratios, key=lambda codebook: ratios[codebook])
    return ratios[least], f"codebook {least}"
