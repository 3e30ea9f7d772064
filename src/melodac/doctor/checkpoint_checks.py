"""Checks of checkpoints: weights, their average, optimizer state, and what the run was made of.

A comment at a limit says where it comes from. `findings` says what the docstrings are for.
"""

import math
from itertools import pairwise

from melodac.doctor.differences import describe_difference, differing_factors
from melodac.doctor.findings import Checks, Measured, Unmeasured, count
from melodac.doctor.run import Run
from melodac.doctor.snapshots import Snapshot

CHECKPOINT_CHECKS = Checks()
_SQUARES = "exp_avg_sq"


@CHECKPOINT_CHECKS.add(failure=0.0)  # a manifest with a sha256 of every file
def damaged(run: Run) -> Measured:
    """Checkpoints whose bytes are not those that were written.

    The disk or a copy changed it. Train on: the newest whole one is resumed; copy it again, and
    check the disk.
    """
    return count(run.damaged)


@CHECKPOINT_CHECKS.add(failure=0.0)  # no finite weight comes back from a NaN
def finite(run: Run) -> Measured:
    """Tensors with NaN or infinity.

    The weights are lost from here on. Go back to the last checkpoint without, lower
    train.learning_rate, and see that train.stability refuses such updates.
    """
    return count([
        f"update {shot.update}: {bad}" for shot in run.snapshots for bad in shot.nonfinite
    ])


# 0.08 at most in the default run; width 192 with RMS 2 amplifies 28 times
@CHECKPOINT_CHECKS.add(warning=2.0, failure=50.0)
def weight_size(run: Run) -> Measured:
    """Greatest root mean square of a module's weights.

    Weights grew without bound. Lower train.learning_rate or raise train.weight_decay; look at the
    logits of attention in the audit of the start.
    """
    newest = run.snapshots[-1]
    widest = max(newest.parts, key=lambda part: part.rms)
    return widest.rms, f"{widest.module} at update {newest.update}"


@CHECKPOINT_CHECKS.add(warning=0.0)  # AdamW moves whatever has a gradient (a head never learned)
def frozen(run: Run) -> Measured:
    """Tensors that did not move between the last two checkpoints.

    No gradient arrives there. See which module it is, whether its output is used, and whether it
    is frozen on purpose.
    """
    if len(run.snapshots) < 2:
        raise Unmeasured("needs two checkpoints")
    return count([name for name, step in run.snapshots[-1].largest_step.items() if step == 0.0])


# Kingma and Ba 2015, section 2.1; a tenth for rounding (mixed snapshots)
@CHECKPOINT_CHECKS.add(failure=1.1)
def reach(run: Run) -> Measured:
    """Greatest movement of a weight beside what AdamW could have moved it.

    Something else than the optimizer wrote these weights: two runs mixed in one folder, or
    averaged weights loaded as raw ones. Compare the checkpoints' configs.
    """
    train = run.train
    if len(run.snapshots) < 2:
        raise Unmeasured("needs two checkpoints")
    if train.get("optimizer", "adamw") != "adamw" or not {"beta1", "beta2"} <= train.keys():
        raise Unmeasured("the bound is that of AdamW")
    if run.log.events_named("rollback"):
        raise Unmeasured("a rollback lies between the checkpoints")
    worst, where = 0.0, ""
    for before, after in pairwise(run.snapshots):
        lines = [n for n in run.log.accepted if before.update < n["update"] <= after.update]
        rate = max((n["learning_rate"] for n in lines), default=train["learning_rate"])
        updates = after.update - before.update
        limit = rate * adam_reach(updates, beta1=train["beta1"], beta2=train["beta2"])
        # decay pulls by at most rate * decay * |weight| each time
        largest = max(before.whole.largest, after.whole.largest)
        limit += rate * updates * train.get("weight_decay", 0.0) * largest
        for name, step in after.largest_step.items():
            # with a rate of 0 any movement is too far
            share = step / limit if limit else math.inf if step else 0.0
            if not share <= worst:
                worst = share
                where = f"{name}, update {before.update} to {after.update}"
    return worst, where


# 0.1 in the default run; unrelated weights of one size are 1.4 apart
@CHECKPOINT_CHECKS.add(warning=0.5, failure=1.0)
def average_drift(run: Run) -> Measured:
    """Distance of averaged from raw weights, beside the raw ones.

    The average does not belong to these weights or lags far behind: lower train.ema_decay, or see
    whether it was restored with them.
    """
    newest = _trained(run)[-1]
    if newest.whole.drift is None:
        raise Unmeasured("the checkpoint holds no averaged weights")
    far = max(newest.parts, key=lambda part: part.drift or 0.0)
    return newest.whole.drift, f"most in {far.module}: {far.drift or 0.0:.3g}"


@CHECKPOINT_CHECKS.add(warning=0.0)  # an average over moving weights differs from the last of them
def average_idle(run: Run) -> Measured:
    """Averaged weights equal the raw ones although they are averaged (1: yes).

    Averaging does nothing: the average was overwritten with the raw weights, or nothing moves.
    See `frozen` and train.learning_rate.
    """
    drift, decay = _trained(run)[-1].whole.drift, run.train.get("ema_decay")
    if drift is None or not decay:
        raise Unmeasured
    return float(drift == 0.0), f"train.ema_decay {decay:g}"


# an average of clipped gradients cannot exceed it; 0.01 for rounding
@CHECKPOINT_CHECKS.add(failure=1.01)
def moments(run: Run) -> Measured:
    """Sum of AdamW's squared gradients beside the square of the clipping norm.

    A gradient reached the moments unclipped, or the moments are damaged: every later step is too
    small. Go back to an earlier checkpoint.
    """
    with_state = [shot for shot in _trained(run) if shot.moments]
    if not with_state:
        raise Unmeasured("no optimizer state is kept: only weights were left")
    squares = [kind.total for kind in with_state[-1].moments if kind.kind == _SQUARES]
    clip = run.train.get("clip_norm")
    if not squares or not clip:
        raise Unmeasured("no squared gradients or no clipping norm")
    return squares[0] / clip**2, f"update {with_state[-1].update}"


# a gradient that is exactly zero everywhere has no path to the loss
@CHECKPOINT_CHECKS.add(warning=0.0)
def dead_parameters(run: Run) -> Measured:
    """Parameters whose squared gradients are all zero.

    They never received a gradient. If train.condition is none they may be unused; else look at
    the module in the audit of the start.
    """
    with_state = [shot.moments for shot in _trained(run) if shot.moments]
    if not with_state:
        raise Unmeasured
    kinds = with_state[-1]
    # the mean gradient of a parameter may cancel, its square only if there never was one
    telling = [kind for kind in kinds if kind.kind == _SQUARES] or kinds
    return count(sorted({name for kind in telling for name in kind.dead}))


@CHECKPOINT_CHECKS.add(failure=0.0)  # a folder is named after everything that decides its run
def one_run(run: Run) -> Measured:
    """Older checkpoints that belong to another run.

    Checkpoints of several runs lie in one folder; what was compared above means nothing. Part
    them.
    """
    strangers = [
        f"update {other.update}: {', '.join(factor.name for factor in factors)}"
        for other in run.checkpoints[:-1]
        if (factors := differing_factors(other.config, run.newest.config))
    ]
    return float(len(strangers)), "; ".join(strangers)


@CHECKPOINT_CHECKS.add(warning=0.0)  # a run that used old code was judged as the new
def code(run: Run) -> Measured:
    """Trained by other code than this checkout's (1: yes).

    Say so beside its numbers, or train again with `dvc repro train`.
    """
    return _compare_with_present(run, "code_fingerprint")


@CHECKPOINT_CHECKS.add(warning=0.0)  # two runs on different data were compared
def data(run: Run) -> Measured:
    """Trained on other data than data/index holds (1: yes).

    Say so beside its numbers, or train again with `dvc repro train`.
    """
    return _compare_with_present(run, "data_fingerprint")


@CHECKPOINT_CHECKS.add(warning=1.0)  # eight changes at once explained nothing
def one_factor(run: Run) -> Measured:
    """Decisions in which the two runs differ.

    Change one decision at a time: rerun one of them with all but one taken over.
    """
    if run.factors is None:
        raise Unmeasured("no other run was given")
    return float(len(run.factors)), describe_difference(run.factors)


def adam_reach(updates: int, *, beta1: float, beta2: float) -> float:
    """Return how far AdamW without decay can move a weight, in learning rates; an upper bound.

    By Cauchy and Schwarz |m| <= (1 - b1) / sqrt((1 - b2) (1 - b1^2 / b2)) sqrt(v); in the first
    updates the bias corrections bring that to 1.

    Args:
        updates: Updates between two checkpoints.
        beta1: Decay of the mean gradient.
        beta2: Decay of the mean squared gradient.

    Source:
        Kingma and Ba 2015, section 2.1, made exact for beta1^2 < beta2.
    """
    if beta1**2 >= beta2:
        return math.inf
    one = (1 - beta1) / math.sqrt((1 - beta2) * (1 - beta1**2 / beta2))
    return updates * max(1.0, one)


def _trained(run: Run) -> list[Snapshot]:
    """Return the snapshots of a run that has begun to train."""
    if not run.snapshots[-1].update:
        raise Unmeasured("nothing was trained yet")
    return list(run.snapshots)


def _compare_with_present(run: Run, key: str) -> Measured:
    now = None if run.present is None else getattr(run.present, key)
    then = run.newest.config.get(key)
    if now is None or then is None:
        raise Unmeasured("nothing to compare with")
    return float(then != now), f"{then[:12]} then, {now[:12]} now"
