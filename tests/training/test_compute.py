"""Laws of the switches: the model stays as it is, fp16 overflow is told from a sick run."""

import copy
import math

import pytest
import torch

from melodac.errors import CheckpointMismatchError, ConfigError
from melodac.models.block import Block
from melodac.training import compute as compute_module
from melodac.training.compute import Compute, LossScale, check_float32
from melodac.training.config import ComputeConfig
from melodac.training.seeding import seeded

CPU = torch.device("cpu")


def build(**changes):
    plain = {"precision": "fp32", "tf32": False, "compile": False, "recompute": False}
    return Compute(ComputeConfig(**(plain | changes)), CPU)


def gradients(model, compute, sequence):
    model.train()
    model.zero_grad()
    forward = compute.prepare(model)
    with seeded(0, "dropout"):
        logits = forward(sequence)
        loss = logits.float().logsumexp(-1).square().mean()
        compute.backward(loss)
    compute.unscale(model)
    return loss.detach(), [weight.grad.clone() for weight in model.parameters()]


@pytest.fixture
def sequence():
    return torch.randint(0, 1024, (2, 2, 12), generator=torch.Generator().manual_seed(1))


@pytest.mark.parametrize("precision", ["fp32", "bf16", "fp16"])
def test_recomputing_changes_no_bit_of_any_gradient(build_model, sequence, precision):
    model = build_model(dropout=0.3)
    loss, plain = gradients(model, build(precision=precision), sequence)
    again, recomputed = gradients(model, build(precision=precision, recompute=True), sequence)
    assert torch.equal(loss, again)
    assert all(torch.equal(a, b) for a, b in zip(plain, recomputed, strict=True))


def test_recomputing_keeps_the_input_of_a_block_and_no_more(build_model, sequence):
    def kept(compute):
        model, numbers = build_model().train(), []
        weights = {weight.untyped_storage().data_ptr() for weight in model.parameters()}

        def note(tensor):
            if tensor.untyped_storage().data_ptr() not in weights:
                numbers.append(tensor.numel())
            return tensor

        with torch.autograd.graph.saved_tensors_hooks(note, lambda tensor: tensor):
            compute.prepare(model)(sequence)
        return sum(numbers)

    assert kept(build(recompute=True)) < kept(build()) / 2


def test_a_switched_model_keeps_its_names_copies_and_forward(build_model, sequence):
    model = build_model(dropout=0.0)
    names, expected = list(model.state_dict()), model(sequence)
    forward = build(recompute=True).prepare(model)
    forward(sequence)
    assert list(model.state_dict()) == names
    assert not any("forward" in vars(block) for block in model.blocks)
    twin = copy.deepcopy(model)
    with torch.no_grad():
        model.head.weight.zero_()
    assert torch.equal(twin(sequence), expected)


def test_blocks_are_as_before_when_a_pass_fails(build_model):
    model = build_model()
    with pytest.raises(RuntimeError, match="not in the valid range"):
        build(recompute=True).prepare(model)(torch.full((1, 2, 4), 10**6))
    assert not any("forward" in vars(block) for block in model.blocks)


def test_a_model_without_blocks_cannot_be_switched():
    with pytest.raises(ConfigError, match="Linear has no block"):
        build(recompute=True).prepare(torch.nn.Linear(2, 2))


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16, torch.float64])
def test_weights_of_another_type_are_refused_before_an_optimizer_is_made(build_model, dtype):
    model = build_model()
    model.embedding.to(dtype)
    with pytest.raises(ConfigError, match=r"embedding\.weight is .*float.*, every weight must be"):
        check_float32(model)
    with pytest.raises(ConfigError, match=r"embedding\.weight"):
        build().prepare(model)


@pytest.mark.parametrize("precision", ["bf16", "fp16"])
def test_weights_and_their_gradients_stay_float32_at_any_precision(
    build_model, sequence, precision
):
    model = build_model()
    compute = build(precision=precision)
    assert compute.prepare(model)(sequence).dtype == compute_module._TYPES[precision]
    _, found = gradients(model, compute, sequence)
    assert {gradient.dtype for gradient in found} == {torch.float32}
    assert {weight.dtype for weight in model.parameters()} == {torch.float32}


def test_tf32_ends_with_the_run_even_if_it_fails():
    flags = torch.backends.cuda.matmul
    before = flags.fp32_precision

    def fail():
        with build(tf32=True).active():
            assert flags.fp32_precision == "tf32"
            raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        fail()
    assert flags.fp32_precision == before
    with build().active():
        assert flags.fp32_precision == before


@pytest.mark.parametrize("period", [0, 3, 7])
def test_the_loss_scale_moves_as_that_of_torch(monkeypatch, period):
    monkeypatch.setattr(LossScale, "GROWTH_UPDATES", 5)
    theirs = torch.amp.GradScaler("cpu", growth_interval=5)
    ours, weight = LossScale(), torch.zeros(1, requires_grad=True)
    optimizer = torch.optim.SGD([weight])
    theirs.scale(torch.ones(()))
    for update in range(40):
        is_overflow = bool(period) and update % period == 0
        weight.grad = torch.tensor([math.inf if is_overflow else 1.0])
        theirs.unscale_(optimizer)
        theirs.step(optimizer)
        theirs.update()
        ours.overflowed() if is_overflow else ours.held()
        assert ours.scale == max(1.0, theirs.get_scale())


def test_overflow_halves_the_scale_and_a_sick_loss_does_not():
    compute = build(precision="fp16")
    assert compute.lowers_scale(3.0, math.inf)
    assert compute.loss_scale == 32768.0
    assert not compute.lowers_scale(math.nan, math.nan)
    assert not compute.lowers_scale(3.0, 1.0)
    assert compute.loss_scale == 32768.0


def test_a_gradient_that_is_never_finite_is_no_overflow_for_ever():
    compute = build(precision="fp16")
    assert [compute.lowers_scale(3.0, math.nan) for _ in range(20)] == [True] * 16 + [False] * 4
    assert compute.loss_scale == 1.0


@pytest.mark.parametrize("precision", ["fp32", "bf16"])
def test_without_fp16_nothing_is_scaled(precision):
    compute = build(precision=precision)
    assert compute.loss_scale is None
    assert not compute.lowers_scale(3.0, math.inf)
    assert compute.state() == {}


def test_scaling_and_unscaling_rounds_nothing(build_model):
    model, compute = build_model(), build(precision="fp16")
    weight = model.head.weight
    compute.backward((weight * weight.detach()).sum())
    assert torch.equal(weight.grad, weight.detach() * 65536.0)
    compute.unscale(model)
    assert torch.equal(weight.grad, weight.detach())


def test_the_scale_survives_a_stop_and_nothing_less_is_taken():
    compute = build(precision="fp16")
    compute.lowers_scale(1.0, math.inf)
    compute.step(torch.optim.SGD([torch.zeros(1)]))
    resumed = build(precision="fp16")
    resumed.restore(compute.state())
    assert resumed.state() == compute.state() == {"scale": 32768.0, "updates_without_overflow": 1}
    with pytest.raises(CheckpointMismatchError, match="loss scale has \\['scale'\\]"):
        resumed.restore({"scale": 1.0})
    with pytest.raises(CheckpointMismatchError, match="precision fp32"):
        build().restore(compute.state())


def test_compiling_without_a_compiler_is_refused_at_once(monkeypatch):
    monkeypatch.setenv("CXX", "no-such-compiler")
    with pytest.raises(ConfigError, match=r"needs a C\+\+ compiler"):
        build(compile=True)


def test_every_block_is_switched_and_the_wrapper_is_none_of_its_business(build_model):
    model = build_model()
    wrapped = torch.nn.Sequential(model)
    found = [block for block, _ in build(recompute=True)._switched_blocks(wrapped)]
    assert found == [module for module in model.modules() if isinstance(module, Block)]
