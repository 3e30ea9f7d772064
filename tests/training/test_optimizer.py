"""Laws of the optimizer: who decays, every parameter once, memory by name."""

import pytest
import torch
from torch import nn
from torch.optim import AdamW

from melodac.errors import CheckpointMismatchError, ConfigError
from melodac.training.optimizer import build_optimizer, decayed_names

KINDS = ("adamw", "muon")


@pytest.fixture
def model(build_model):
    return build_model(dropout=0.0)


@pytest.fixture
def build(train_config):
    def build(model, kind="adamw", **changes):
        config = train_config.model_copy(update={"optimizer": kind, **changes})
        return build_optimizer(model, config)

    return build


def take_step(model, optimizer, seed=0):
    generator = torch.Generator().manual_seed(seed)
    sequence = torch.randint(1024, (2, 2, 6), generator=generator)
    model(sequence).square().mean().backward()
    optimizer.step()
    optimizer.zero_grad()


def copies(tensors):
    return {name: value.detach().clone() for name, value in tensors.items()}


def equal(one, other):
    return one.keys() == other.keys() and all(torch.equal(one[name], other[name]) for name in one)


def test_only_matrices_outside_embeddings_decay():
    model = nn.Sequential(nn.Embedding(5, 4), nn.LayerNorm(4), nn.Linear(4, 3))
    assert decayed_names(model) == {"2.weight"}


@pytest.mark.parametrize("kind", KINDS)
def test_without_a_gradient_only_matrices_shrink_and_by_the_rate_times_the_decay(
    model, build, kind
):
    before = copies(model.state_dict())
    optimizer = build(model, kind, weight_decay=0.5)
    optimizer.set_learning_rate(0.1)
    for weight in model.parameters():
        weight.grad = torch.zeros_like(weight)
    optimizer.step()
    for name, weight in model.named_parameters():
        factor = 1 - 0.1 * 0.5 if name in decayed_names(model) else 1.0
        torch.testing.assert_close(weight.detach(), before[name] * factor)


def test_the_first_step_of_adamw_is_the_rate_against_the_sign_of_the_gradient(model, build):
    optimizer, before = build(model, weight_decay=0.0), copies(model.state_dict())
    optimizer.set_learning_rate(1e-3)
    generator = torch.Generator().manual_seed(0)
    for weight in model.parameters():
        weight.grad = torch.randn(weight.shape, generator=generator).sign()
    optimizer.step()
    for name, weight in model.named_parameters():
        expected = before[name] - 1e-3 * weight.grad
        torch.testing.assert_close(weight.detach(), expected, rtol=0, atol=1e-7)


@pytest.mark.parametrize("kind", KINDS)
def test_every_parameter_is_optimised_once(model, build, kind):
    optimizer = build(model, kind)
    grouped = [
        weight
        for part in optimizer.optimizers
        for group in part.param_groups
        for weight in group["params"]
    ]
    assert {id(weight) for weight in grouped} == {id(weight) for weight in model.parameters()}
    assert len(grouped) == len(list(model.parameters()))


def test_what_is_not_trained_is_not_optimised(model, build):
    model.head.weight.requires_grad_(requires_grad=False)
    assert not any("head.weight" in name for name in build(model).tensors())


@pytest.mark.parametrize("kind", KINDS)
def test_the_rate_of_an_update_reaches_every_group(model, build, kind):
    still, moved = build(model, kind), copies(model.state_dict())
    still.set_learning_rate(0.0)
    take_step(model, still)
    assert equal(copies(model.state_dict()), moved)
    still.set_learning_rate(1e-2)
    take_step(model, still)
    assert not any(
        torch.equal(weight, moved[name])
        for name, weight in model.named_parameters()
        if name != "embedding.weight"
    )


def test_memory_laid_out_at_once_changes_nothing(model, build, train_config):
    start = copies(model.state_dict())
    optimizer = build(model, weight_decay=0.0)
    for seed in range(4):
        take_step(model, optimizer, seed)
    found = copies(model.state_dict())
    model.load_state_dict(start)
    plain = AdamW(
        model.parameters(),
        lr=train_config.learning_rate,
        betas=(0.9, 0.95),
        weight_decay=0.0,
        fused=True,
    )
    for seed in range(4):
        take_step(model, plain, seed)
    assert equal(copies(model.state_dict()), found)


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("steps_before", [0, 3])
def test_loaded_memory_continues_the_same_path(model, build, kind, steps_before):
    optimizer = build(model, kind)
    for seed in range(steps_before):
        take_step(model, optimizer, seed)
    weights, memory = copies(model.state_dict()), copies(optimizer.tensors())
    for seed in range(5, 8):
        take_step(model, optimizer, seed)
    expected = copies(model.state_dict()), copies(optimizer.tensors())
    model.load_state_dict(weights)
    other = build(model, kind)
    other.load_tensors(memory)
    for seed in range(5, 8):
        take_step(model, other, seed)
    assert equal(copies(model.state_dict()), expected[0])
    assert equal(copies(other.tensors()), expected[1])


def test_memory_is_as_named(model, build):
    names = {name for name, _ in model.named_parameters()}
    kinds = ("exp_avg", "exp_avg_sq", "step")
    assert set(build(model).tensors()) == {f"{kind}/{name}" for kind in kinds for name in names}
    by_muon = build(model, "muon").tensors()
    assert "momentum_buffer/blocks.0.attention.output.weight" in by_muon
    assert "exp_avg/blocks.0.attention.output.weight" not in by_muon
    assert "exp_avg/head.weight" in by_muon


@pytest.mark.parametrize(
    "damage",
    [
        lambda memory: memory.update({"exp_avg/other.weight": torch.zeros(1)}),
        lambda memory: memory.pop("step/head.weight"),
        lambda memory: memory.update({"exp_avg/head.weight": torch.zeros(3)}),
        lambda memory: memory.clear(),
    ],
    ids=["one too many", "one missing", "another shape", "none"],
)
def test_memory_that_is_not_whole_is_refused_and_changes_nothing(model, build, damage):
    optimizer = build(model)
    take_step(model, optimizer)
    memory = copies(optimizer.tensors())
    damage(memory)
    other = build(model)
    before = copies(other.tensors())
    with pytest.raises(CheckpointMismatchError, match="does not fit this model"):
        other.load_tensors(memory)
    assert equal(other.tensors(), before)


def test_memory_of_another_optimizer_is_refused(model, build):
    with pytest.raises(CheckpointMismatchError, match="the optimizer it was saved with"):
        build(model, "muon").load_tensors(build(model).tensors())


@pytest.fixture
def one_process():
    """A group of one, so that a model can be sharded without another process."""
    from torch import distributed

    distributed.init_process_group("gloo", store=distributed.HashStore(), rank=0, world_size=1)
    yield distributed.init_device_mesh("cpu", (1,))
    distributed.destroy_process_group()


def shard(model, mesh):
    from torch.distributed.fsdp import fully_shard

    for block in model.blocks:
        fully_shard(block, mesh=mesh)
    return fully_shard(model, mesh=mesh)


@pytest.mark.filterwarnings("ignore:FSDP2-wrapped module")  # logits are a view, which nobody writes
def test_adamw_steps_and_resumes_where_parameters_are_sharded(build_model, build, one_process):
    plain, sharded = build_model(dropout=0.0), shard(build_model(dropout=0.0), one_process)
    first, second = build(plain), build(sharded)
    for seed in range(3):
        take_step(plain, first, seed)
        take_step(sharded, second, seed)
    whole = {name: weight.full_tensor() for name, weight in sharded.state_dict().items()}
    assert equal(copies(plain.state_dict()), copies(whole))
    third = build(sharded)
    third.load_tensors(copies(first.tensors()))
    take_step(plain, first, 9)
    take_step(sharded, third, 9)
    whole = {name: weight.full_tensor() for name, weight in sharded.state_dict().items()}
    assert equal(copies(plain.state_dict()), copies(whole))


def test_muon_over_sharded_parameters_is_refused(build_model, build, one_process):
    with pytest.raises(ConfigError, match="use sharding ddp or optimizer adamw"):
        build(shard(build_model(), one_process), "muon")
