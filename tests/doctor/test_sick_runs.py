"""Every sickness is found by its name, and a healthy run is left in peace."""

import math

import pytest
import torch

from melodac.doctor.checkpoint_checks import adam_reach
from melodac.doctor.diagnosis import Patient
from tests.doctor.runs import (
    CONFIG,
    RATE,
    UNIFORM,
    changed,
    findings_of,
    healthy,
    learning_rate,
    make_lines,
    sick_checks,
    write_run,
)


def test_a_healthy_run_has_no_finding_and_nothing_unmeasured_but_what_was_not_logged(tmp_path):
    found = findings_of(healthy(tmp_path))
    assert {f.severity for f in found.values()} == {"ok", "note"}
    unmeasured = {check for check, finding in found.items() if finding.severity == "note"}
    assert unmeasured == {
        "one_factor", "code", "data", "above_unigram", "usage", "generated_usage", "entropy", "entropy_range", "attention",
    }  # fmt: skip


def event(name, update):
    return {"kind": "event", "event": name, "update": update, "reason": f"{name} because"}


def skipping(first, last, every=1):
    """Lines of a run that refused some updates because their loss was NaN."""
    lines = []
    for line in make_lines():
        update = line["update"]
        if line["kind"] == "train" and first <= update <= last and update % every == 0:
            lines += [line | {"is_skipped": True, "loss": "nan"}, event("skip", update)]
        else:
            lines.append(line)
    return lines


def collapsed(update):
    share = 1.0 if update == 100 else 0.2
    used = {f"usage_k{k}": 5 for k in range(2)} | {f"target_usage_k{k}": 200 for k in range(2)}
    generated = {f"generated_usage_k{k}": 4 for k in range(2)}
    entropies = {"sampled_entropy_k0": 1.0, "target_entropy_k0": 5.0}
    return {"loss": 6.5, **used, **generated, **entropies, "attention_entropy_l0": share}


SICK_LOGS = {
    "divergence": (make_lines(lambda u: 6.5 if u < 400 else 6.5 + (u - 400) / 10), "failure"),
    "learned": (make_lines(lambda u: UNIFORM + 0.01 * math.sin(u)), "failure"),
    "plateau": (make_lines(lambda u: 6.4 + 0.01 * math.sin(7 * u)), "warning"),
    "initial_loss": (make_lines(lambda u: UNIFORM - 0.001 * u + 3.0 * (u < 10)), "failure"),
    "finite_loss": (make_lines(lambda u: UNIFORM - 0.001 * u if u != 300 else "nan"), "failure"),
    "spikes": (make_lines(lambda u: UNIFORM - 0.001 * u + 0.01 * math.sin(u) + (u % 8 == 0)), "failure"),
    "overfitting": (make_lines(validate=lambda u: {"loss": 6.0 + u / 100}), "warning"),
    "gap": (make_lines(validate=lambda u: {"loss": 9.0}), "warning"),
    "stale_best": (make_lines(validate=lambda u: {"loss": 6.5 + u / 1e6}), "warning"),
    "skips": (skipping(200, 500), "failure"),
    "rollbacks": (make_lines() + [event("rollback", u) for u in (200, 300, 400)], "failure"),
    "alarms": ([*make_lines(), event("alarm", 600)], "warning"),
    "clips": (make_lines(is_clipped=True), "warning"),
    "rate_rises": (make_lines(rate=lambda u: learning_rate(u) * (1.1 + math.sin(u / 30)) / 2.1), "failure"),
    "peak_rate": (make_lines(rate=lambda u: learning_rate(u) / 16), "failure"),
    "log_order": (make_lines() + make_lines(), "failure"),
    "norm_growth": (
        [line | {"grad_norm": 0.1 * 1.02 ** line["update"]} for line in make_lines()],
        "failure",
    ),
    "stalled_codebooks": ([line | {"loss_k1": 7.0} for line in make_lines()], "warning"),
    "usage": (make_lines(validate=collapsed), "warning"),
    "generated_usage": (make_lines(validate=collapsed), "warning"),
    "entropy": (make_lines(validate=collapsed), "warning"),
    "attention": (make_lines(validate=collapsed), "warning"),
    "entropy_range": (make_lines(validate=lambda u: {"loss": 6.5, "entropy_k0": -0.4}), "failure"),
}  # fmt: skip


@pytest.mark.parametrize("check", SICK_LOGS)
def test_a_sick_log_is_diagnosed_by_name(tmp_path, check):
    lines, severity = SICK_LOGS[check]
    found = findings_of(Patient(write_run(tmp_path), (), lines))[check]
    assert found.severity == severity, found
    assert found.diagnosis


def put(group, name, value, only=600):
    def change(update, tensors):
        if update == only:
            tensors[group][name].view(-1)[0] = value

    return change


def unrelated_average(update, tensors):
    generator = torch.Generator().manual_seed(9)
    for name, weight in tensors["model"].items():
        noise = torch.randn(weight.shape, generator=generator)
        tensors["ema"][name] = noise / noise.norm() * weight.norm()


def idle_average(update, tensors):
    tensors["ema"] = {name: weight.clone() for name, weight in tensors["model"].items()}


def blown_moments(update, tensors):
    tensors["optimizer"]["exp_avg_sq/embedding.weight"].fill_(1e6)


def dead_head(update, tensors):
    for kind in ("exp_avg", "exp_avg_sq"):
        tensors["optimizer"][f"{kind}/head_norm.weight"].zero_()
    tensors["model"]["head_norm.weight"].fill_(1.0)


def huge_weights(update, tensors):
    for group in ("model", "ema"):
        tensors[group]["blocks.0.attention.output.weight"] *= 1e4


SICK_WEIGHTS = {
    "finite": (put("model", "embedding.weight", math.nan), "failure"),
    "weight_size": (huge_weights, "failure"),
    "frozen": (dead_head, "warning"),
    "dead_parameters": (dead_head, "warning"),
    "reach": (put("model", "embedding.weight", 5.0), "failure"),
    "average_drift": (unrelated_average, "failure"),
    "average_idle": (idle_average, "warning"),
    "moments": (blown_moments, "failure"),
}


@pytest.mark.parametrize("check", SICK_WEIGHTS)
def test_sick_weights_are_diagnosed_by_name(tmp_path, check):
    change, severity = SICK_WEIGHTS[check]
    found = findings_of(Patient(write_run(tmp_path, change=change), (), make_lines()))[check]
    assert found.severity == severity, found


@pytest.mark.parametrize("value", [math.nan, math.inf, -math.inf])
@pytest.mark.parametrize(
    ("group", "name"),
    [
        ("model", "head_norm.weight"),
        ("ema", "embedding.weight"),
        ("optimizer", "exp_avg_sq/embedding.weight"),
    ],
)
def test_every_tensor_that_is_not_finite_is_named(tmp_path, group, name, value):
    patient = Patient(write_run(tmp_path, change=put(group, name, value)), (), make_lines())
    found = findings_of(patient)["finite"]
    assert found.severity == "failure"
    assert f"{group}/{name}" in found.measured


def test_a_long_warmup_is_told(tmp_path):
    config = changed(CONFIG, train__warmup_updates=400)
    lines = make_lines(rate=lambda u: learning_rate(u, warmup=400))
    found = sick_checks(Patient(write_run(tmp_path, config=config), (), lines))
    assert found == {"warmup": "failure"}


def test_a_rate_that_was_cut_after_a_rollback_is_no_fault(tmp_path):
    lines = make_lines(rate=lambda u: learning_rate(u) * (0.5 if u > 30 else 1.0))
    patient = Patient(write_run(tmp_path), (), [*lines, event("rollback", 30)])
    assert findings_of(patient)["peak_rate"].severity == "ok"
    assert findings_of(patient)["reach"].severity == "note"


@pytest.mark.parametrize(
    ("check", "section", "limits"),
    [
        ("clips", "stability", {"clip_frac_alarm": 1.0}),
        ("rollbacks", "stability", {"max_rollbacks": 9}),
        ("skips", "stability", {"max_skip_frac": 0.9}),
        ("spikes", "stability", {"sigma": 1e9}),
        ("usage", "collapse", {"min_usage_ratio": 0.01}),
        ("entropy", "collapse", {"min_entropy_ratio": 0.01}),
        ("attention", "collapse", {"max_attention_change": 0.9}),
    ],
)
def test_limits_that_training_has_too_are_the_run_s_own(tmp_path, check, section, limits):
    lines, severity = SICK_LOGS[check]
    train = {section: CONFIG["train"].get(section, {}) | limits}
    config = CONFIG | {"train": CONFIG["train"] | train}
    found = findings_of(Patient(write_run(tmp_path, config=config), (), lines))[check]
    better = ("ok",) if severity == "warning" else ("ok", "warning")
    assert found.severity in better, found


def test_an_audit_that_passed_is_no_alarm(tmp_path):
    patient = Patient(write_run(tmp_path), (), [event("audit", 0), *make_lines()])
    assert findings_of(patient)["alarms"].severity == "ok"


def test_a_run_that_has_only_begun_is_not_judged_by_what_training_leaves(tmp_path):
    found = findings_of(Patient(write_run(tmp_path, updates=(0,), change=idle_average), (), ()))
    assert {finding.severity for finding in found.values()} <= {"ok", "note"}


def test_a_run_too_short_for_a_shape_is_not_judged_by_it(tmp_path):
    lines = make_lines(lambda _: UNIFORM, updates=20)
    found = findings_of(Patient(write_run(tmp_path, updates=(20,)), (), lines))
    for check in ("learned", "divergence", "plateau", "spikes", "stalled_codebooks"):
        assert found[check].severity == "note", check
        assert found[check].value is None


def test_without_a_log_only_the_weights_are_judged(tmp_path):
    found = findings_of(Patient(write_run(tmp_path), (), ()))
    assert found["finite"].severity == "ok"
    assert found["learned"].severity == "note"
    assert all(finding.severity in {"ok", "note"} for finding in found.values())


def test_skips_of_an_odd_batch_are_a_warning_and_their_reason_is_told(tmp_path):
    found = findings_of(Patient(write_run(tmp_path), (), skipping(100, 600, every=25)))["skips"]
    assert found.severity == "warning"
    assert "skip because" in found.measured


def test_adam_stays_within_its_reach():
    generator = torch.Generator().manual_seed(0)
    for beta1, beta2 in ((0.9, 0.95), (0.9, 0.999), (0.5, 0.9), (0.0, 0.95)):
        for growth in (1.0, 1.5, 3.0):  # growing gradients bring the largest steps
            weight = torch.nn.Parameter(torch.zeros(64, dtype=torch.float64))
            optimizer = torch.optim.AdamW(
                [weight], lr=RATE, betas=(beta1, beta2), eps=1e-30, weight_decay=0.0
            )
            for update in range(40):
                noise = torch.rand(64, generator=generator, dtype=torch.float64)
                weight.grad = growth**update * (0.5 + noise)
                optimizer.step()
            assert float(weight.detach().abs().max()) <= RATE * adam_reach(
                40, beta1=beta1, beta2=beta2
            ) * (1 + 1e-9)
