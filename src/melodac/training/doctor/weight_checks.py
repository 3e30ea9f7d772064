"""Limits of what checkpoints hold, and of what they are; a row a check. `checks.py` joins them."""

from melodac.training.doctor.findings import Check

WEIGHT_CHECKS = (
    Check(
        "damaged",
        "checkpoints whose bytes are not those that were written",
        warning=None,
        failure=0.0,
        reason="a manifest with a sha256 of every file",
        advice="The disk or a copy changed it. Train on: the newest whole one is resumed; copy it "
        "again, and check the disk.",
    ),
    Check(
        "finite",
        "tensors with NaN or infinity",
        warning=None,
        failure=0.0,
        reason="no finite weight comes back from a NaN",
        advice="The weights are lost from here on. Go back to the last checkpoint without, lower "
        "train.learning_rate, and see that train.stability refuses such updates.",
    ),
    Check(
        "weight_size",
        "greatest root mean square of a module's weights",
        warning=2.0,
        failure=50.0,
        reason="0.08 at most in the default run; width 192 with RMS 2 amplifies 28 times",
        advice="Weights grew without bound. Lower train.learning_rate or raise "
        "train.weight_decay; look at the logits of attention in the audit of the start.",
    ),
    Check(
        "frozen",
        "tensors that did not move between the last two checkpoints",
        warning=0.0,
        failure=None,
        reason="AdamW moves whatever has a gradient (O1: a head that never learned)",
        advice="No gradient arrives there. See which module it is, whether its output is used, and "
        "whether it is frozen on purpose.",
    ),
    Check(
        "reach",
        "greatest movement of a weight beside what AdamW could have moved it",
        warning=None,
        failure=1.1,
        reason="Kingma and Ba 2015, section 2.1; a tenth for rounding (R11: mixed snapshots)",
        advice="Something else than the optimizer wrote these weights: two runs mixed in one "
        "folder, or averaged weights loaded as raw ones. Compare the checkpoints' configs.",
    ),
    Check(
        "average_drift",
        "distance of averaged from raw weights, beside the raw ones",
        warning=0.5,
        failure=1.0,
        reason="0.1 in the default run; unrelated weights of one size are 1.4 apart (R11, H13)",
        advice="The average does not belong to these weights or lags far behind: lower "
        "train.ema_decay, or see whether it was restored with them.",
    ),
    Check(
        "average_idle",
        "averaged weights equal the raw ones although they are averaged (1: yes)",
        warning=0.0,
        failure=None,
        reason="an average over moving weights differs from the last of them",
        advice="Averaging does nothing: the average was overwritten with the raw weights, or "
        "nothing moves. See `frozen` and train.learning_rate.",
    ),
    Check(
        "moments",
        "sum of AdamW's squared gradients beside the square of the clipping norm",
        warning=None,
        failure=1.01,
        reason="an average of clipped gradients cannot exceed it; 0.01 for rounding",
        advice="A gradient reached the moments unclipped, or the moments are damaged: every later "
        "step is too small. Go back to an earlier checkpoint.",
    ),
    Check(
        "dead_parameters",
        "parameters whose squared gradients are all zero",
        warning=0.0,
        failure=None,
        reason="a gradient that is exactly zero everywhere has no path to the loss (O1)",
        advice="They never received a gradient. If train.condition is none they may be unused; "
        "else look at the module in the audit of the start.",
    ),
    Check(
        "one_run",
        "older checkpoints that belong to another run",
        warning=None,
        failure=0.0,
        reason="a folder is named after everything that decides its run",
        advice="Checkpoints of several runs lie in one folder; what was compared above means "
        "nothing. Part them.",
    ),
    Check(
        "code",
        "trained by other code than this checkout's (1: yes)",
        warning=0.0,
        failure=None,
        reason="H9: a run that used old code was judged as the new",
        advice="Say so beside its numbers, or train again with `dvc repro train`.",
    ),
    Check(
        "data",
        "trained on other data than data/index holds (1: yes)",
        warning=0.0,
        failure=None,
        reason="R8: two runs on different data were compared",
        advice="Say so beside its numbers, or train again with `dvc repro train`.",
    ),
    Check(
        "one_factor",
        "decisions in which the two runs differ",
        warning=1.0,
        failure=None,
        reason="D25, R8: eight changes at once explained nothing",
        advice="Change one decision at a time: rerun one of them with all but one taken over.",
    ),
)
