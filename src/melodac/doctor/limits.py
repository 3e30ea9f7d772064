"""Every check of the doctor by name: the one table of limits, a row a check.

A comment says where the limits come from; those that training has too are the run's own. First
those of what a log says (loss, rates, events, codebooks), then those of what checkpoints hold
and of what they are.
"""

from collections.abc import Mapping
from typing import Any

from melodac.doctor.findings import Check
from melodac.doctor.run_curves import spike_sigma

LOSS_CHECKS = (
    Check(
        "finite_loss",
        "accepted updates whose loss is not finite",
        failure=0.0,  # train.stability refuses such updates before they reach a weight
        advice="The guard did not see them. Go back to an earlier checkpoint and report it.",
    ),
    Check(
        "initial_loss",
        "nats between the first loss and that of a uniform guess",
        warning=0.2,  # normal logits of deviation s cost s^2/2 more: 0.2 is s = 0.63
        failure=2.0,
        advice="The start is badly scaled: see the audit of the start for attention logits far "
        "from 1 and modules that dwarf the residual; a lower learning rate does not cure it.",
    ),
    Check(
        "learned",
        "nats won over a uniform guess",
        # 0.09 in the default run; 0.02 is three deviations of its median over 60 updates
        warning=0.05,
        failure=0.02,
        is_floor=True,
        advice="Nothing was learned. Run `dvc repro overfit`: if that passes, see `peak_rate` and "
        "`warmup`, raise train.learning_rate or train.updates; if not, see `frozen`.",
    ),
    Check(
        "divergence",
        "nats from the lowest running median up to the end",
        warning=0.25,  # 0.01 in the default run; an e-fold of perplexity is a failure
        failure=1.0,
        advice="The run diverged. Take the best checkpoint, lower train.learning_rate by half, "
        "lengthen the warm-up, and see whether `norm_growth` and `skips` rose before.",
    ),
    Check(
        "plateau",
        "nats won in the last half of the run",
        warning=0.01,  # 0.03 in the default run (4.19 for 200 epochs)
        is_floor=True,
        advice="More updates of this kind win nothing. If held-out loss stands too: larger size or "
        "more music; another train.delay; else a decaying train.schedule.",
    ),
    Check(
        "spikes",
        "share of updates {sigma:g} robust deviations above their neighbours",
        warning=0.01,  # none in the default run
        failure=0.1,
        advice="Look at the windows of those updates for silence or noise, lower "
        "train.learning_rate or raise train.windows_per_update.",
    ),
    Check(
        "overfitting",
        "nats of held-out loss lost since the best",
        warning=0.05,  # 0 in the default run; the best checkpoint is kept, so a failure it is not
        advice="Later updates memorise. What is kept is the best; stop there, or add music, "
        "train.dropout or train.weight_decay.",
    ),
    Check(
        "gap",
        "nats between held-out and training loss",
        warning=1.0,  # 0.07 in the default run; 9 and more when 41 windows were memorised
        advice="The model knows its training windows by heart: more music (see `coverage` in "
        "data/metrics/index.json), a smaller size, or index.offsets=random.",
    ),
    Check(
        "stale_best",
        "share of the run since the best validation",
        warning=0.5,  # the second half of the updates bought nothing
        advice="Stop earlier, or see `overfitting` and `plateau` for which of the two it is.",
    ),
)

RATE_CHECKS = (
    Check(
        "log_order",
        "updates that do not follow the one before in the log",
        failure=0.0,  # one line an update, also after a resume or a rollback
        advice="Two processes wrote one log, or lines are missing: the curve is not this run's.",
    ),
    Check(
        "warmup",
        "share of the run that warms up",
        warning=0.25,  # 0.08 in the default run (a warm-up counted in micro-steps outlived the run)
        failure=0.6,
        advice="Lower train.warmup_updates: it counts updates, a few hundred are enough.",
    ),
    Check(
        "peak_rate",
        "relative distance of the highest logged learning rate from train.learning_rate",
        failure=0.01,  # after the warm-up the peak was reached once
        advice="The schedule counts something else than updates, or is not the one that was named. "
        "Compare with the schedule table of a dry run.",
    ),
    Check(
        "rate_rises",
        "updates after the warm-up with a higher learning rate than before",
        failure=0.0,  # every schedule falls or stays (a second cosine undid the run)
        advice="The horizon of the schedule is shorter than the run, or it was resumed with "
        "another. Set train.updates to the whole run.",
    ),
    Check(
        "norm_growth",
        "gradient norm at the end beside that after the warm-up",
        warning=10.0,  # 0.5 in the default run (it exploded for weeks before the loss showed it)
        failure=100.0,
        advice="Gradients explode: see the audit of the start for attention logits, then lower "
        "train.learning_rate; clipping only hides it.",
    ),
    Check(
        "clips",
        "share of late updates that were clipped",
        warning=0.95,  # 0.002 of the default run; as train.stability.clip_frac_alarm
        advice="The clipping norm decides the step. Raise train.windows_per_update or "
        "train.clip_norm, or lower train.learning_rate.",
    ),
    Check(
        "skips",
        "share of refused updates",
        # none in the default run; as train.stability.max_skip_frac (all were skipped)
        warning=0.02,
        failure=0.25,
        advice="Read the reasons. NaN: lower train.learning_rate or use train.compute.precision="
        "fp32; outliers: look at their windows, or raise train.stability.sigma.",
    ),
    Check(
        "rollbacks",
        "times the run went back to a checkpoint",
        warning=0.0,  # as train.stability.max_rollbacks, one earlier
        failure=2.0,
        advice="The rate was cut each time; train afresh with the rate it ended with.",
    ),
    Check(
        "alarms",
        "alarms of the run",
        warning=0.0,  # each was said with its own limit from params
        advice="Read the reasons above, first to last: the first is the cause more often.",
    ),
)

CODEBOOK_CHECKS = (
    Check(
        "stalled_codebooks",
        "share of codebooks that are no better than a uniform guess",
        warning=0.0,  # higher codebooks stalled while the mean fell
        failure=0.5,
        advice="Fine codebooks learn last: train longer, or objective.codebook_weights=auto; if "
        "coarse ones stall, another train.delay.",
    ),
    Check(
        "above_unigram",
        "held-out nats above a model that knows frequencies of codes only",
        warning=0.0,  # data/index/baselines.json; above it no context is used
        advice="Too few updates or too little music for this size: train longer, or a smaller "
        "train.size.",
    ),
    Check(
        "usage",
        "least share of distinct codes sampled from predictions beside those of the truth",
        warning=0.1,  # as train.collapse.min_usage_ratio, on the same cells
        is_floor=True,
        advice="The model says few codes. Diagnose first: see `peak_rate`; then try "
        "train.objective.usage_bonus or train.corruption.token_noise.",
    ),
    Check(
        "generated_usage",
        "least share of distinct codes of generated clips beside those of the truth",
        warning=0.1,  # as train.collapse.min_usage_ratio, from free runs
        is_floor=True,
        advice="If `usage` is fine only reading its own codes fails: sample at T = 1, then try "
        "train.corruption.",
    ),
    Check(
        "entropy",
        "least entropy of sampled codes beside that of the truth",
        warning=0.5,  # as train.collapse.min_entropy_ratio
        is_floor=True,
        advice="Predictions are monotonous: halve train.learning_rate, then try "
        "train.objective.entropy_bonus with a decay.",
    ),
    Check(
        "entropy_range",
        "logged entropies outside 0 to ln V",
        failure=0.0,  # no distribution has one (an entropy below 0 was reported)
        advice="The metric is wrong: do not read anything from it.",
    ),
    Check(
        "attention",
        "greatest change of a layer's attention entropy, as a share of its maximum",
        warning=0.7,  # as train.collapse.max_attention_change, against its own start
        advice="A layer looks at one place or at all alike. Lower train.learning_rate; see the "
        "attention logits in the audit of the start.",
    ),
)


WEIGHT_CHECKS = (
    Check(
        "damaged",
        "checkpoints whose bytes are not those that were written",
        failure=0.0,  # a manifest with a sha256 of every file
        advice="The disk or a copy changed it. Train on: the newest whole one is resumed; copy it "
        "again, and check the disk.",
    ),
    Check(
        "finite",
        "tensors with NaN or infinity",
        failure=0.0,  # no finite weight comes back from a NaN
        advice="The weights are lost from here on. Go back to the last checkpoint without, lower "
        "train.learning_rate, and see that train.stability refuses such updates.",
    ),
    Check(
        "weight_size",
        "greatest root mean square of a module's weights",
        warning=2.0,  # 0.08 at most in the default run; width 192 with RMS 2 amplifies 28 times
        failure=50.0,
        advice="Weights grew without bound. Lower train.learning_rate or raise "
        "train.weight_decay; look at the logits of attention in the audit of the start.",
    ),
    Check(
        "frozen",
        "tensors that did not move between the last two checkpoints",
        warning=0.0,  # AdamW moves whatever has a gradient (a head that never learned)
        advice="No gradient arrives there. See which module it is, whether its output is used, and "
        "whether it is frozen on purpose.",
    ),
    Check(
        "reach",
        "greatest movement of a weight beside what AdamW could have moved it",
        failure=1.1,  # Kingma and Ba 2015, section 2.1; a tenth for rounding (mixed snapshots)
        advice="Something else than the optimizer wrote these weights: two runs mixed in one "
        "folder, or averaged weights loaded as raw ones. Compare the checkpoints' configs.",
    ),
    Check(
        "average_drift",
        "distance of averaged from raw weights, beside the raw ones",
        warning=0.5,  # 0.1 in the default run; unrelated weights of one size are 1.4 apart
        failure=1.0,
        advice="The average does not belong to these weights or lags far behind: lower "
        "train.ema_decay, or see whether it was restored with them.",
    ),
    Check(
        "average_idle",
        "averaged weights equal the raw ones although they are averaged (1: yes)",
        warning=0.0,  # an average over moving weights differs from the last of them
        advice="Averaging does nothing: the average was overwritten with the raw weights, or "
        "nothing moves. See `frozen` and train.learning_rate.",
    ),
    Check(
        "moments",
        "sum of AdamW's squared gradients beside the square of the clipping norm",
        failure=1.01,  # an average of clipped gradients cannot exceed it; 0.01 for rounding
        advice="A gradient reached the moments unclipped, or the moments are damaged: every later "
        "step is too small. Go back to an earlier checkpoint.",
    ),
    Check(
        "dead_parameters",
        "parameters whose squared gradients are all zero",
        warning=0.0,  # a gradient that is exactly zero everywhere has no path to the loss
        advice="They never received a gradient. If train.condition is none they may be unused; "
        "else look at the module in the audit of the start.",
    ),
    Check(
        "one_run",
        "older checkpoints that belong to another run",
        failure=0.0,  # a folder is named after everything that decides its run
        advice="Checkpoints of several runs lie in one folder; what was compared above means "
        "nothing. Part them.",
    ),
    Check(
        "code",
        "trained by other code than this checkout's (1: yes)",
        warning=0.0,  # a run that used old code was judged as the new
        advice="Say so beside its numbers, or train again with `dvc repro train`.",
    ),
    Check(
        "data",
        "trained on other data than data/index holds (1: yes)",
        warning=0.0,  # two runs on different data were compared
        advice="Say so beside its numbers, or train again with `dvc repro train`.",
    ),
    Check(
        "one_factor",
        "decisions in which the two runs differ",
        warning=1.0,  # eight changes at once explained nothing
        advice="Change one decision at a time: rerun one of them with all but one taken over.",
    ),
)


CHECKS: dict[str, Check] = {
    check.name: check for check in WEIGHT_CHECKS + LOSS_CHECKS + RATE_CHECKS + CODEBOOK_CHECKS
}

_OF_RUN = {
    "clips": ("warning", "stability", "clip_frac_alarm"),
    "skips": ("failure", "stability", "max_skip_frac"),
    "rollbacks": ("failure", "stability", "max_rollbacks"),
    "usage": ("warning", "collapse", "min_usage_ratio"),
    "generated_usage": ("warning", "collapse", "min_usage_ratio"),
    "entropy": ("warning", "collapse", "min_entropy_ratio"),
    "attention": ("warning", "collapse", "max_attention_change"),
}
"""Limits that training has too: which of the check's, and where the run's params hold it."""


def limits_of(train: Mapping[str, Any]) -> dict[str, Check]:
    """Every check by name, with the limits that the run itself was trained under.

    Args:
        train: Section of the run's config; what it does not say is as in the table.
    """
    checks = dict(CHECKS)
    spikes = checks["spikes"]
    question = spikes.question.format(sigma=spike_sigma(train))
    checks["spikes"] = spikes._replace(question=question)
    for name, (limit, section, key) in _OF_RUN.items():
        value = train.get(section, {}).get(key)
        if value is not None:
            # the last rollback that training allows is a failure already
            value = max(0, value - 1) if name == "rollbacks" else value
            checks[name] = checks[name]._replace(**{limit: float(value)})
    return checks
