"""Every switch against plain float32: losses, gradients and whole runs, on CPU and on a GPU."""

import contextlib
import math

import jaxtyping
import pytest
import torch

from melodac.errors import TrainingError
from melodac.models.config import build_config
from melodac.models.language_model import LanguageModel
from melodac.training.compute import Compute
from melodac.training.config import ComputeConfig
from melodac.training.loss import per_codebook_loss
from melodac.training.seeding import seeded

PLAIN = {"precision": "fp32", "tf32": False, "compile": False, "recompute": False}
UPDATES = 20

# relative distance of the whole gradient; measured here: bf16 1.4 %, fp16 0.18 %, compile 9e-7
GRADIENT_BOUNDS = {"bf16": 0.03, "fp16": 0.005, "compile": 1e-5, "tf32": 0.005}
# relative distance of the loss; measured here: bf16 7e-6, fp16 7e-8
LOSS_BOUNDS = {"bf16": 1e-3, "fp16": 1e-4, "compile": 1e-6, "tf32": 1e-4}


@pytest.fixture
def compiler():
    """Dynamo cannot trace the shape checkers; its cache is shared by all, and half a file in it
    is an error."""
    from torch._inductor.utils import fresh_cache

    jaxtyping.config.update("jaxtyping_disable", True)
    with fresh_cache():
        yield
    jaxtyping.config.update("jaxtyping_disable", False)


def change(switch):
    return {"precision": switch} if switch in {"bf16", "fp16"} else {switch: True}


def measure(model, sequence, device, **changes):
    """Loss and gradient of one pass with dropout."""
    compute = Compute(ComputeConfig(**(PLAIN | changes)), torch.device(device))
    forward = compute.prepare(model.train())
    model.zero_grad()
    with compute.active(), seeded(0, "dropout", device=device):
        nats, counts = per_codebook_loss(
            forward(sequence), sequence, torch.ones_like(sequence, dtype=torch.bool)
        )
        loss = nats.sum() / counts.sum()
        compute.backward(loss)
        compute.unscale(model)
    gradient = torch.cat([weight.grad.flatten() for weight in model.parameters()])
    return float(loss.detach()), gradient


def nano(device="cpu", steps=72, dropout=0.1):
    with seeded(0, "initialisation"):
        model = LanguageModel(build_config("nano", num_codebooks=4, dropout=dropout)).to(device)
    generator = torch.Generator().manual_seed(0)
    return model, torch.randint(0, 1024, (2, 4, steps), generator=generator).to(device)


def check(switch, device, **more):
    model, sequence = nano(device)
    loss, gradient = measure(model, sequence, device)
    other_loss, other = measure(model, sequence, device, **change(switch), **more)
    assert other_loss == pytest.approx(loss, rel=LOSS_BOUNDS[switch])
    assert float((other - gradient).norm() / gradient.norm()) < GRADIENT_BOUNDS[switch]
    assert switch == "compile" or not torch.equal(other, gradient)


@pytest.mark.parametrize("switch", ["bf16", "fp16"])
def test_narrow_passes_are_close_to_float32(switch):
    check(switch, "cpu")


@pytest.mark.slow
@pytest.mark.filterwarnings("default")  # the compiler's own warnings are not ours to fix
@pytest.mark.parametrize("more", [{}, {"recompute": True}])
def test_compiled_blocks_equal_eager_ones_with_the_same_dropout(compiler, more):
    check("compile", "cpu", **more)


@pytest.mark.filterwarnings("default")
def test_a_compiler_that_fails_is_one_line_that_says_what_to_do(monkeypatch):
    """Half a file in its cache, left by a process that was killed, was such a failure."""
    from torch._dynamo.exc import TorchDynamoException

    def fail(*_, **__):
        raise TorchDynamoException("ImportError: main.so: file too short\nhundreds of lines")

    monkeypatch.setattr("melodac.training.compute._compiled", lambda _: fail)
    model, sequence = nano()
    forward = Compute(ComputeConfig(**PLAIN | {"compile": True}), torch.device("cpu")).prepare(
        model
    )
    with pytest.raises(
        TrainingError, match=r"failed with 'ImportError: main.so: file too short'"
    ) as caught:
        forward(sequence)
    assert "set train.compute.compile to false" in str(caught.value)
    assert "hundreds" not in str(caught.value)


@pytest.mark.slow
@pytest.mark.filterwarnings("default")
def test_one_compilation_serves_every_block_of_a_shape(compiler):
    from torch._dynamo.utils import counters

    torch._dynamo.reset()
    counters.clear()
    model, sequence = nano()
    compute = Compute(ComputeConfig(**PLAIN | {"compile": True}), torch.device("cpu"))
    forward = compute.prepare(model.train())
    for steps, graphs in ((72, 1), (40, 2), (72, 2)):
        forward(sequence[..., :steps]).sum().backward()
        assert counters["stats"]["unique_graphs"] == graphs


def last_losses(trainer):
    trainer.run()
    return [line["loss"] for line in trainer.updates[-5:]]


# largest relative distance of the last 5 losses; measured: bf16 3.5e-4, fp16 3.7e-4
@pytest.mark.parametrize(
    ("compute", "bound"),
    [
        ({"precision": "bf16"}, 2e-3),
        ({"precision": "fp16"}, 1e-3),
        ({"recompute": True}, 0.0),
        ({"tf32": True}, 0.0),
    ],
)
def test_a_run_of_20_updates_ends_at_the_same_loss(build_trainer, compute, bound):
    plain = last_losses(build_trainer(updates=UPDATES))
    found = last_losses(build_trainer(updates=UPDATES, compute=compute))
    assert found == pytest.approx(plain, rel=bound, abs=0)


def test_overflow_of_fp16_is_skipped_and_never_rolls_back(build_trainer):
    trainer = build_trainer(updates=UPDATES, compute={"precision": "fp16"})
    trainer.gradients.compute._scale.scale = 2.0**28
    trainer.run()
    skipped = [line["update"] for line in trainer.updates if line["is_skipped"]]
    assert len(skipped) > trainer.config.stability.max_skips_in_a_row
    assert skipped[:4] == [1, 2, 3, 4]
    assert {event.name for event in trainer.events} == {"skip"}
    assert all("overflows at loss scale" in event.reason for event in trainer.events)
    assert trainer.gradients.compute.loss_scale == 2.0 ** (28 - len(skipped))
    assert len(skipped) < UPDATES


def test_the_loss_scale_is_resumed_to_the_bit(build_trainer, tmp_path):
    straight = build_trainer(compute={"precision": "fp16"})
    stopped = build_trainer(tmp_path, stop_at=5, compute={"precision": "fp16"})
    for trainer in (straight, stopped):
        trainer.gradients.compute._scale.scale = 2.0**36
        trainer.run()
    resumed = build_trainer(tmp_path, compute={"precision": "fp16"})
    resumed.resume()
    assert resumed.gradients.compute.state() == stopped.gradients.compute.state()
    resumed.run()
    assert resumed.gradients.compute.state() == straight.gradients.compute.state()
    for one, other in zip(
        straight.state.model.parameters(), resumed.state.model.parameters(), strict=True
    ):
        assert torch.equal(one, other)


@pytest.mark.slow
@pytest.mark.filterwarnings("default")
def test_a_compiled_run_ends_at_the_same_loss(build_trainer, compiler):
    plain = last_losses(build_trainer(updates=UPDATES, context=((1, 4), (9, 8))))
    found = last_losses(
        build_trainer(updates=UPDATES, context=((1, 4), (9, 8)), compute={"compile": True})
    )
    assert found == pytest.approx(plain, rel=1e-4)


@pytest.mark.gpu
@pytest.mark.parametrize("switch", ["bf16", "fp16", "tf32"])
def test_narrow_passes_are_close_to_float32_on_a_gpu(switch):
    check(switch, "cuda")


@pytest.mark.gpu
@pytest.mark.filterwarnings("default")
@pytest.mark.parametrize("more", [{}, {"recompute": True}])
def test_compiled_blocks_equal_eager_ones_on_a_gpu(compiler, more):
    check("compile", "cuda", **more)


@pytest.mark.gpu
@pytest.mark.parametrize("precision", ["fp32", "bf16"])
def test_recomputing_is_the_same_on_a_gpu(precision):
    model, sequence = nano("cuda")
    with contextlib.ExitStack() as stack:
        stack.callback(torch.use_deterministic_algorithms, mode=False)
        torch.use_deterministic_algorithms(mode=True, warn_only=True)
        loss, plain = measure(model, sequence, "cuda", precision=precision)
        again, other = measure(model, sequence, "cuda", precision=precision, recompute=True)
    assert again == loss
    assert math.isfinite(loss)
    torch.testing.assert_close(other, plain, rtol=1e-5, atol=1e-7)


@pytest.mark.gpu
def test_fused_adamw_steps_as_the_plain_one_on_a_gpu():
    weights = [torch.linspace(-1, 1, 64, device="cuda").requires_grad_() for _ in range(2)]
    for weight, fused in zip(weights, (True, False), strict=True):
        optimizer = torch.optim.AdamW([weight], lr=1e-2, weight_decay=0.1, fused=fused)
        for update in range(10):
            weight.grad = torch.cos(weight.detach() * update)
            optimizer.step()
    torch.testing.assert_close(weights[0], weights[1], rtol=1e-5, atol=1e-6)
