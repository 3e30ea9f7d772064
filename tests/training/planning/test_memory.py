"""Laws of memory: the estimate knows each switch, and running out of it costs no checkpoint."""

import errno

import numpy as np
import pytest
import torch

from melodac.errors import OutOfMemoryError
from melodac.models.config import build_config
from melodac.training.checkpoint import latest_checkpoint
from melodac.training.planning.memory import (
    MemoryShape,
    available_bytes,
    estimate_memory,
    format_bytes,
    memory_guard,
    say_what_needs_less,
)
from tests.tiny import change_config


def need(config, size="micro", steps=264, world_size=1, sharding="ddp", **changes):
    model = build_config(size, num_codebooks=9, dropout=0.1)
    changed = change_config(config, changes)
    return estimate_memory(MemoryShape(model, changed, steps, world_size, sharding))


@pytest.mark.parametrize(
    "changes",
    [{"micro_batch": 1}, {"compute": {"recompute": True}}, {"compute": {"precision": "bf16"}}],
)
def test_every_change_that_is_advised_needs_less(train_config, changes):
    plain = need(train_config, steps=1032)
    assert need(train_config, steps=1032, **changes).peak_bytes < plain.peak_bytes


def test_state_is_weights_gradients_two_moments_and_the_average(train_config):
    count = sum(weight.numel() for weight in _model("micro").parameters())
    assert need(train_config).state_bytes == 5 * 4 * count
    muon = need(train_config, optimizer="muon")
    assert 4 * 4 * count < muon.state_bytes < 5 * 4 * count


def test_fsdp_cuts_the_state_and_ddp_does_not(train_config):
    alone = need(train_config, size="large")
    cut = need(train_config, size="large", world_size=4, sharding="fsdp")
    assert cut.state_bytes == alone.state_bytes // 4
    assert 0 < cut.gathered_bytes < alone.state_bytes // 4
    assert need(train_config, size="large", world_size=4) == alone
    assert need(train_config, size="large", sharding="fsdp") == alone


def test_longer_windows_and_larger_parts_need_more(train_config):
    peaks = [
        need(train_config, size="nano", steps=steps, micro_batch=size).peak_bytes
        for steps, size in ((264, 1), (264, 2), (520, 2), (520, 4), (1032, 4))
    ]
    assert peaks == sorted(set(peaks))


def test_advice_names_what_to_change_and_what_it_then_needs(train_config):
    model = build_config("small", num_codebooks=9, dropout=0.1)
    config = change_config(train_config, {"windows_per_update": 8, "micro_batch": 8})
    words = say_what_needs_less(MemoryShape(model, config, 1032))
    smaller = config.model_copy(update={"micro_batch": 4})
    halved = estimate_memory(MemoryShape(model, smaller, 1032)).peak_bytes
    assert f"train.micro_batch 8 -> 4 ({format_bytes(halved)})" in words
    assert "train.compute.recompute: true (" in words
    assert "train.compute.precision: bf16 (" in words
    assert "\n" not in words


def test_advice_never_names_a_micro_batch_that_the_config_refuses(train_config):
    model = build_config("nano", num_codebooks=9, dropout=0.1)
    config = change_config(train_config, {"windows_per_update": 9, "micro_batch": 9})
    words = say_what_needs_less(MemoryShape(model, config, 1032))
    assert "train.micro_batch 9 -> 1 (" in words
    small = change_config(
        train_config,
        {"micro_batch": 1, "compute": {"recompute": True, "precision": "bf16"}},
    )
    assert "smaller train.size" in say_what_needs_less(MemoryShape(model, small, 1032))


def exhaust_cpu():
    torch.empty(2**60)


def exhaust_numpy():
    np.empty(2**58)


def exhaust_gpu():
    raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 20.00 GiB.")


def exhaust_cublas():
    raise RuntimeError("CUDA error: CUBLAS_STATUS_ALLOC_FAILED when calling `cublasCreate(handle)`")


def exhaust_mapping():
    raise OSError(errno.ENOMEM, "Cannot allocate memory")


EXHAUSTIONS = [exhaust_cpu, exhaust_numpy, exhaust_gpu, exhaust_cublas, exhaust_mapping]


@pytest.mark.parametrize("exhaust", EXHAUSTIONS)
def test_every_way_of_running_out_is_one_line_of_advice(exhaust):
    with (
        pytest.raises(OutOfMemoryError, match=r"^update 7 ran out of memory: eat less; ") as caught,
        memory_guard(lambda: "update 7", lambda: "eat less"),
    ):
        exhaust()
    assert "\n" not in str(caught.value)
    assert caught.value.__cause__ is not None


@pytest.mark.parametrize(
    "error", [RuntimeError("mat1 and mat2 shapes"), OSError(errno.ENOSPC, "full"), KeyError("x")]
)
def test_other_errors_pass_as_they_are(error):
    with pytest.raises(type(error)) as caught, memory_guard(lambda: "", lambda: ""):
        raise error
    assert caught.value is error


@pytest.mark.parametrize(
    ("place", "exhaust"),
    [("forward", exhaust_cpu), ("backward", exhaust_gpu), ("step", exhaust_numpy)],
)
def test_running_out_anywhere_in_an_update_leaves_the_checkpoint(
    build_trainer, tmp_path, exhaust, place
):
    fails = build_trainer(tmp_path)
    _exhaust_at(fails, place, 8, exhaust)
    with pytest.raises(OutOfMemoryError, match=r"^update 8.* ran out of memory: about .* needed"):
        fails.run()
    found = latest_checkpoint(tmp_path / "checkpoints")
    assert found.checkpoint.update == 6
    assert found.warnings == ()


def test_a_run_that_ran_out_of_memory_resumes_to_the_bit(build_trainer, tmp_path):
    straight, fails = build_trainer(), build_trainer(tmp_path)
    straight.run()
    _exhaust_at(fails, "backward", 8, exhaust_cpu)
    with pytest.raises(OutOfMemoryError):
        fails.run()
    resumed = build_trainer(tmp_path)
    resumed.resume()
    assert resumed.update == 6
    resumed.run()
    for one, other in zip(
        straight.state.model.parameters(), resumed.state.model.parameters(), strict=True
    ):
        assert torch.equal(one, other)


def test_available_memory_is_known_on_linux_or_not_at_all():
    free = available_bytes(torch.device("cpu"))
    assert free is None or 0 < free < 2**50


def _exhaust_at(trainer, place, update, exhaust):
    model = trainer.state.model

    def fail(*_):
        if trainer.update + 1 == update:
            exhaust()

    if place == "forward":
        model.head.register_forward_pre_hook(fail)
    elif place == "backward":
        model.head.weight.register_hook(fail)
    else:
        trainer.state.optimizer.optimizers[0].register_step_pre_hook(fail)


def _model(size):
    from melodac.models.language_model import LanguageModel

    return LanguageModel(build_config(size, num_codebooks=9, dropout=0.1))
