"""Checks of a training log: loss, learning rate, gradient norm, events.

A comment at a limit says where it comes from; limits that training has too are the run's own,
read from the key in `param`. `findings` says what the docstrings are for.
"""

import math
from collections.abc import Sequence
from itertools import pairwise

import numpy as np
from numpy.lib.stride_tricks import sliding_window_view

from melodac.doctor.findings import Checks, Measured, Unmeasured
from melodac.doctor.run import FIRST_UPDATES, MIN_UPDATES, Line, Run, late_window, spike_sigma

LOG_CHECKS = Checks()
REASONS_SHOWN = 3
_RELATIVE = 1e-6
"""Relative difference up to which rates are equal: a log holds them as used, in float64."""
_SPIKE_WINDOW = 31
_SIGMA_PER_MAD = 1.4826
"""Standard deviation of a normal distribution over its median absolute deviation."""


# train.stability refuses such updates before they reach a weight
@LOG_CHECKS.add(failure=0.0)
def finite_loss(run: Run) -> Measured:
    """Accepted updates whose loss is not finite.

    The guard did not see them. Go back to an earlier checkpoint and report it.
    """
    return _updates([n["update"] for n in run.log.accepted if not math.isfinite(n["loss"])])


# normal logits of deviation s cost s^2/2 more: 0.2 is s = 0.63
@LOG_CHECKS.add(warning=0.2, failure=2.0)
def initial_loss(run: Run) -> Measured:
    """Nats between the first loss and that of a uniform guess.

    The start is badly scaled: see the audit of the start for attention logits far from 1 and
    modules that dwarf the residual; a lower learning rate does not cure it.
    """
    first, uniform = run.curve.first, run.curve.uniform
    if first is None:
        raise Unmeasured(f"the log lacks the first {FIRST_UPDATES} updates")
    return abs(first - uniform), f"{first:.3f}, a uniform guess costs {uniform:.3f}"


# 0.09 in the default run; 0.02 is three deviations of its median over 60 updates
@LOG_CHECKS.add(warning=0.05, failure=0.02, is_floor=True)
def learned(run: Run) -> Measured:
    """Nats won over a uniform guess.

    Nothing was learned. Run `dvc repro overfit`: if that passes, see `peak_rate` and `warmup`,
    raise train.learning_rate or train.updates; if not, see `frozen`.
    """
    lowest, _, _ = _shape(run, warmup=run.train.get("warmup_updates", 0))
    uniform = run.curve.uniform
    return uniform - lowest, f"lowest {lowest:.3f}, uniform {uniform:.3f}"


# 0.01 in the default run; an e-fold of perplexity is a failure
@LOG_CHECKS.add(warning=0.25, failure=1.0)
def divergence(run: Run) -> Measured:
    """Nats from the lowest running median up to the end.

    The run diverged. Take the best checkpoint, lower train.learning_rate by half, lengthen the
    warm-up, and see whether `norm_growth` and `skips` rose before.
    """
    lowest, late, _ = _shape(run)
    return late - lowest, f"{late:.3f} at the end"


@LOG_CHECKS.add(warning=0.01, is_floor=True)  # 0.03 in the default run (4.19 for 200 epochs)
def plateau(run: Run) -> Measured:
    """Nats won in the last half of the run.

    More updates of this kind win nothing. If held-out loss stands too: larger size or more music;
    another train.delay; else a decaying train.schedule.
    """
    _, late, gain = _shape(run, warmup=run.train.get("warmup_updates", 0))
    return gain, f"loss {late:.3f} at update {run.curve.updates}"


@LOG_CHECKS.add(warning=0.01, failure=0.1)  # none in the default run
def spikes(run: Run) -> Measured:
    """Share of updates {sigma:g} robust deviations above their neighbours.

    Look at the windows of those updates for silence or noise, lower train.learning_rate or raise
    train.windows_per_update.
    """
    losses = run.log.losses()
    known = losses[np.isfinite(losses)]
    if len(known) < MIN_UPDATES:
        raise Unmeasured(f"{len(known)} updates, it takes {MIN_UPDATES}")
    padded = np.pad(known, _SPIKE_WINDOW // 2, mode="reflect")
    rest = known - np.median(sliding_window_view(padded, _SPIKE_WINDOW), axis=1)
    sigma = _SIGMA_PER_MAD * float(np.median(np.abs(rest)))
    num_spikes = int((rest > spike_sigma(run.train) * sigma).sum()) if sigma else 0
    return num_spikes / len(known), f"{num_spikes} of {len(known)} updates"


# 0 in the default run; the best checkpoint is kept, so a failure it is not
@LOG_CHECKS.add(warning=0.05)
def overfitting(run: Run) -> Measured:
    """Nats of held-out loss lost since the best.

    Later updates memorise. What is kept is the best; stop there, or add music, train.dropout or
    train.weight_decay.
    """
    best, last = run.curve.best_validation, run.curve.last_validation
    if best is None or last is None:
        raise Unmeasured("nothing was validated")
    return last - best, f"best {best:.3f} at update {run.curve.best_update}"


# 0.07 in the default run; 9 and more when 41 windows were memorised
@LOG_CHECKS.add(warning=1.0)
def gap(run: Run) -> Measured:
    """Nats between held-out and training loss.

    The model knows its training windows by heart: more music (see `coverage` in
    data/metrics/index.json), a smaller size, or index.offsets=random.
    """
    late, last = run.curve.late, run.curve.last_validation
    if late is None or last is None:
        raise Unmeasured
    return last - late, f"train {late:.3f}, held out {last:.3f}"


@LOG_CHECKS.add(warning=0.5)  # the second half of the updates bought nothing
def stale_best(run: Run) -> Measured:
    """Share of the run since the best validation.

    Stop earlier, or see `overfitting` and `plateau` for which of the two it is.
    """
    validations, best = run.log.validations, run.curve.best_update
    if best is None:
        raise Unmeasured
    if len(validations) < 4:
        raise Unmeasured(f"{len(validations)} validations, it takes 4")
    last = validations[-1]["update"]
    return (last - best) / last, f"best at update {best} of {last}"


@LOG_CHECKS.add(failure=0.0)  # one line an update, also after a resume or a rollback
def log_order(run: Run) -> Measured:
    """Updates that do not follow the one before in the log.

    Two processes wrote one log, or lines are missing: the curve is not this run's.
    """
    numbers = [line["update"] for line in run.log.train]
    return _updates([after for before, after in pairwise(numbers) if after != before + 1])


# 0.08 in the default run (a warm-up counted in micro-steps outlived the run)
@LOG_CHECKS.add(warning=0.25, failure=0.6)
def warmup(run: Run) -> Measured:
    """Share of the run that warms up.

    Lower train.warmup_updates: it counts updates, a few hundred are enough.
    """
    warming, updates = run.train.get("warmup_updates"), run.train.get("updates")
    if warming is None or not updates:
        raise Unmeasured("the checkpoint does not say")
    return warming / updates, f"{warming} of {updates} updates"


@LOG_CHECKS.add(failure=0.01)  # after the warm-up the peak was reached once
def peak_rate(run: Run) -> Measured:
    """Relative distance of the highest logged learning rate from train.learning_rate.

    The schedule counts something else than updates, or is not the one that was named. Compare
    with the schedule table of a dry run.
    """
    if not _after_warmup(run):
        raise Unmeasured("the warm-up is not over")
    highest = max(line["learning_rate"] for line in run.log.train)
    peak = run.train["learning_rate"]
    ratio = run.train.get("stability", {}).get("rollback_learning_rate_ratio", 1.0)
    # a run that went back may never reach more
    least = peak * ratio ** len(run.log.events_named("rollback"))
    off = max(highest / peak, least / highest) - 1.0 if highest > 0.0 else math.inf
    return max(off, 0.0), f"{highest:.3g} of {peak:.3g}"


@LOG_CHECKS.add(failure=0.0)  # every schedule falls or stays (a second cosine undid the run)
def rate_rises(run: Run) -> Measured:
    """Updates after the warm-up with a higher learning rate than before.

    The horizon of the schedule is shorter than the run, or it was resumed with another. Set
    train.updates to the whole run.
    """
    after = _after_warmup(run)
    if not after:
        raise Unmeasured
    return _updates([
        two["update"]
        for one, two in pairwise(after)
        if two["learning_rate"] > one["learning_rate"] * (1 + _RELATIVE)
    ])


# 0.5 in the default run (it exploded for weeks before the loss showed it)
@LOG_CHECKS.add(warning=10.0, failure=100.0)
def norm_growth(run: Run) -> Measured:
    """Gradient norm at the end beside that after the warm-up.

    Gradients explode: see the audit of the start for attention logits, then lower
    train.learning_rate; clipping only hides it.
    """
    warming = run.train.get("warmup_updates", 0)
    late = [line for line in run.log.accepted if line["update"] > warming]
    norms = np.array([n["grad_norm"] for n in late if "grad_norm" in n], dtype=np.float64)
    size = late_window(len(norms))
    if len(norms) < 4 * size:
        raise Unmeasured(f"{len(norms)} updates after the warm-up")
    first, last = float(np.median(norms[:size])), float(np.median(norms[-size:]))
    growth = last / first if first else math.inf
    return growth, f"{first:.3g} after the warm-up, {last:.3g} at the end"


@LOG_CHECKS.add(warning=0.95, param="stability.clip_frac_alarm")  # 0.002 of the default run
def clips(run: Run) -> Measured:
    """Share of late updates that were clipped.

    The clipping norm decides the step. Raise train.windows_per_update or train.clip_norm, or
    lower train.learning_rate.
    """
    if not run.log.train:
        raise Unmeasured("no update is logged")
    clipped = [bool(line["is_clipped"]) for line in run.log.late() if "is_clipped" in line]
    if not clipped:
        raise Unmeasured("not logged")
    return sum(clipped) / len(clipped), f"last {len(clipped)} updates"


# none in the default run (all were skipped)
@LOG_CHECKS.add(warning=0.02, failure=0.25, param="stability.max_skip_frac")
def skips(run: Run) -> Measured:
    """Share of refused updates.

    Read the reasons. NaN: lower train.learning_rate or use train.compute.precision=fp32;
    outliers: look at their windows, or raise train.stability.sigma.
    """
    if not run.log.train:
        raise Unmeasured("no update is logged")
    events = run.log.events_named("skip")
    refused = {line["update"] for line in run.log.train if line.get("is_skipped", False)}
    refused |= {line["update"] for line in events}
    known = {line["update"] for line in run.log.train} | refused
    reasons = [str(line.get("reason", "")) for line in events[:REASONS_SHOWN]]
    detail = "; ".join([f"{len(refused)} of {len(known)} updates", *reasons])
    return len(refused) / len(known), detail


@LOG_CHECKS.add(warning=0.0, failure=2.0, param="stability.max_rollbacks")
def rollbacks(run: Run) -> Measured:
    """Times the run went back to a checkpoint.

    The rate was cut each time; train afresh with the rate it ended with.
    """
    return _events(run.log.events_named("rollback"))


@LOG_CHECKS.add(warning=0.0)  # each was said with its own limit from params
def alarms(run: Run) -> Measured:
    """Alarms of the run.

    Read the reasons above, first to last: the first is the cause more often.
    """
    return _events(run.log.events_named("alarm", "collapse"))


def _updates(updates: Sequence[int]) -> Measured:
    return float(len(updates)), f"first at update {updates[0]}" if updates else ""


def _events(events: Sequence[Line]) -> Measured:
    said = [f"update {line['update']}: {line.get('reason', 'no reason')}" for line in events]
    return float(len(events)), "; ".join(said[:REASONS_SHOWN])


def _shape(run: Run, warmup: int = 0) -> tuple[float, float, float]:
    """Return lowest loss, late loss and gain; `Unmeasured` if there are too few updates.

    Args:
        run: Examined run.
        warmup: Updates of the warm-up, of which the run must be twice as long.
    """
    curve = run.curve
    if curve.lowest is None or curve.late is None or curve.gain is None:
        raise Unmeasured(f"{curve.updates} accepted updates, a shape takes {MIN_UPDATES}")
    if curve.updates < 2 * warmup:
        raise Unmeasured(f"{curve.updates} updates, of which {warmup} warm up")
    return curve.lowest, curve.late, curve.gain


def _after_warmup(run: Run) -> list[Line]:
    """Return the updates from the end of the warm-up on."""
    warming = run.train.get("warmup_updates")
    if warming is None or not run.train.get("updates"):
        raise Unmeasured
    return [line for line in run.log.train if line["update"] >= max(warming, 1)]
