"""Laws of the whole model: causal, batch-independent, one type throughout, unmoved."""

import json
from pathlib import Path

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch.nn import functional
from torch.testing import assert_close

from melodac.models.config import LanguageModelConfig
from melodac.models.language_model import LanguageModel, shift_right
from melodac.tokens.vocabulary import BOS, PAD

GOLDEN = Path(__file__).with_name("golden_loss.json")


def test_no_step_of_the_trunk_sees_the_future(tiny_model):
    embedded = torch.randn(2, 12, 32, requires_grad=True)
    hidden = tiny_model.trunk(embedded)
    for step in range(12):
        # one channel: the sum over channels of a normalised vector barely moves
        (gradient,) = torch.autograd.grad(hidden[:, step, 0].sum(), embedded, retain_graph=True)
        assert gradient[:, step + 1 :].count_nonzero() == 0
        assert all(gradient[:, past].count_nonzero() for past in range(step + 1))


def test_logits_of_a_step_see_earlier_codes_only(tiny_model):
    torch.manual_seed(0)
    sequence = torch.randint(0, 1024, (2, 3, 12))
    before = tiny_model(sequence)
    for step in range(12):
        changed = sequence.clone()
        changed[:, 1, step] = (changed[:, 1, step] + 1) % 1024
        moved = (tiny_model(changed) != before).flatten(3).any(-1)
        assert not moved[:, :, : step + 1].any()
        assert moved[:, :, step + 1 :].all()


def test_step_0_sees_only_bos(tiny_model):
    first = tiny_model(torch.randint(0, 1024, (1, 3, 5)))[:, :, 0]
    second = tiny_model(torch.randint(0, 1024, (1, 3, 5)))[:, :, 0]
    assert torch.equal(first, second)


def test_the_shift_is_by_one_step():
    sequence = torch.randint(0, 1024, (2, 3, 5))
    shifted = shift_right(sequence)
    assert (shifted[..., 0] == BOS).all()
    assert torch.equal(shifted[..., 1:], sequence[..., :-1])


def test_a_code_is_embedded_by_its_own_codebook(tiny_model):
    cells = torch.tensor([[[7], [1023], [PAD]]])
    rows = tiny_model.embedding.weight[[7, 1026 + 1023, 2 * 1026 + PAD]]
    assert_close(tiny_model.embed(cells)[0, 0], rows.sum(0), rtol=0, atol=1e-6)


def test_an_item_does_not_depend_on_its_batch_mates(tiny_model):
    sequence = torch.randint(0, 1024, (5, 3, 20))
    alone = torch.cat([tiny_model(item.unsqueeze(0)) for item in sequence])
    # other batch sizes sum in another order: float32 rounding, logits are near 0.1
    assert_close(tiny_model(sequence), alone, rtol=0, atol=1e-6)


def test_codebook_logits_are_a_slice_of_all(tiny_model):
    hidden = torch.randn(2, 6, 32)
    for codebook in range(3):
        assert_close(
            tiny_model.codebook_logits(hidden, codebook),
            tiny_model.logits(hidden)[:, codebook],
            rtol=0,
            atol=1e-6,
        )


def test_logits_lie_step_by_step(tiny_model):
    assert tiny_model(torch.randint(0, 1024, (2, 3, 5))).transpose(1, 2).is_contiguous()


@pytest.mark.parametrize("dtype", [torch.float64, torch.bfloat16])
def test_one_type_runs_through_the_model(tiny_model, dtype):
    model = tiny_model.to(dtype)
    types = set()
    for module in model.modules():
        module.register_forward_hook(lambda _module, _inputs, output: types.add(output.dtype))
    logits = model(torch.randint(0, 1024, (2, 3, 5)))
    logits.sum().backward()
    assert (
        types == {logits.dtype} == {weight.grad.dtype for weight in model.parameters()} == {dtype}
    )


def test_dropout_acts_in_training_only(tiny_config):
    model = LanguageModel(tiny_config.model_copy(update={"dropout": 0.5}))
    sequence = torch.randint(0, 1024, (2, 3, 5))
    assert not torch.equal(model(sequence), model(sequence))
    model.eval()
    assert torch.equal(model(sequence), model(sequence))


def test_the_state_is_parameters_only(tiny_model):
    assert set(tiny_model.state_dict()) == {name for name, _ in tiny_model.named_parameters()}


@settings(max_examples=15, deadline=None)
@given(
    num_kv_heads=st.integers(1, 3),
    queries_per_head=st.integers(1, 3),
    half_head=st.integers(1, 4),
    num_codebooks=st.integers(1, 4),
    num_layers=st.integers(1, 3),
    num_steps=st.integers(1, 6),
)
def test_every_valid_shape_runs(
    num_kv_heads, queries_per_head, half_head, num_codebooks, num_layers, num_steps
):
    num_heads, head_dim = num_kv_heads * queries_per_head, 2 * half_head
    config = LanguageModelConfig(
        num_codebooks=num_codebooks,
        dim=num_heads * head_dim,
        num_layers=num_layers,
        num_heads=num_heads,
        num_kv_heads=num_kv_heads,
        head_dim=head_dim,
        ff_dim=8,
        dropout=0.0,
        rope_base=100.0,
    )
    logits = LanguageModel(config)(torch.randint(0, 1026, (2, num_codebooks, num_steps)))
    assert logits.shape == (2, num_codebooks, num_steps, 1024)
    assert logits.isfinite().all()


def test_the_tiny_model_has_not_moved(tiny_model):
    """Losses of a seeded model on seeded codes; the file changes only with the architecture."""
    generator = torch.Generator().manual_seed(0)
    sequence = torch.randint(0, 1024, (4, 3, 32), generator=generator)
    for weight in tiny_model.parameters():
        weight.data *= 4  # away from the uniform guess, so that every part has a say
    with torch.no_grad():
        nats = functional.cross_entropy(
            tiny_model(sequence).flatten(0, 2), sequence.flatten(), reduction="none"
        )
    losses = nats.view(4, 3, 32).mean(dim=(0, 2)).tolist()
    assert losses == pytest.approx(json.loads(GOLDEN.read_text()), rel=1e-5)
