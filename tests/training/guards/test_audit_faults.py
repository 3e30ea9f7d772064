"""Each way in which a model can start wrong is named by the audit, with the module it is in."""

import math

import pytest
import torch
from torch import nn
from torch.nn import functional

from melodac.models import attention as attention_module
from melodac.models.layers import RMSNorm
from melodac.tokens.delay import build_pattern
from melodac.training.guards.start import audit_start
from tests.training.guards.audited import audit, build, part


def problems(model, delay="musicgen"):
    return "\n".join(audit(model, delay).problems)


def test_attention_without_its_scale_is_named(monkeypatch):
    def attend(query, key, value):
        return functional.scaled_dot_product_attention(
            query, key, value, is_causal=True, enable_gqa=True, scale=1.0
        )

    monkeypatch.setattr(attention_module, "attend", attend)
    found = problems(build())
    assert "blocks.0.attention scales its logits by 1, the standard for heads of width 32" in found
    assert "blocks.3.attention has attention logits of standard deviation 5." in found


def test_queries_and_keys_without_a_norm_are_named():
    model = build()
    with torch.no_grad():
        for block in model.blocks:
            block.attention.query_key_norm.weight.fill_(3.0)
    found = problems(model)
    assert "blocks.0.attention has attention logits of standard deviation" in found
    assert " has an attention logit of size " in found


def fan_rule(*shape):
    """What torch's rule for convolutions makes of a kernel of (inputs, heads, head width)."""
    kernel = torch.empty(shape)
    nn.init.xavier_uniform_(kernel)
    return kernel.flatten(1).T


def test_the_fan_rule_of_convolutions_is_named():
    # the deviation that an earlier system had at width 2048, where 0.022 was meant
    torch.manual_seed(0)
    assert float(fan_rule(2048, 16, 128).std()) == pytest.approx(0.00275, rel=0.01)
    model = build()
    with torch.no_grad():
        for block in model.blocks:
            block.attention.query_key_value.weight.copy_(fan_rule(192, 10, 32))
            block.feedforward.gate_up.weight.copy_(fan_rule(192, 2, 512))
    found = problems(model)
    assert "blocks.0.attention.query_key_value.weight has standard deviation 0.0176, the " in found
    assert "initialisation table says 0.0722" in found
    assert "blocks.0.feedforward is nearly dead: it adds 0.00" in found


@pytest.mark.parametrize("sublayer", ["attention.output", "feedforward.down"])
def test_a_sublayer_that_adds_nothing_is_named(sublayer):
    model = build()
    nn.init.zeros_(model.get_submodule(f"blocks.2.{sublayer}").weight)
    found = problems(model)
    name = sublayer.partition(".")[0]
    assert f"blocks.2.{name} is nearly dead: it adds 0 times the size of the stream" in found
    assert f"the gradient of blocks.2.{name}" in found


def test_a_feedforward_that_is_ninety_times_too_large_is_named():
    model = build()
    with torch.no_grad():
        model.blocks[1].feedforward.gate_up.weight *= 90
    found = problems(model)
    assert "blocks.1.feedforward drowns its stream" in found
    assert "blocks.1.feedforward.gate_up.weight has standard deviation 6.5" in found


def test_a_table_of_another_type_is_named():
    model = build()
    model.embedding.bfloat16()
    (found,) = audit(model).problems
    assert found.startswith("parameters must all be float32, 1 bfloat16 are among them")
    assert "embedding.weight" in found


def test_a_model_of_another_type_throughout_is_named():
    assert "parameters must all be float32, 31 float64" in problems(build().double())


def test_a_frozen_parameter_is_named():
    model = build()
    model.blocks[0].feedforward.down.weight.requires_grad_(False)
    assert problems(model) == (
        "blocks.0.feedforward.down.weight is frozen: every parameter is trained, set requires_grad"
    )


def test_a_parameter_that_nothing_uses_is_named():
    model = build()
    model.blocks[0].spare_norm = RMSNorm(4)
    found = problems(model)
    assert "the model has 2361924 parameters, its config stands for 2361920" in found
    model = build()
    spare = model.blocks[0].feedforward.down.weight
    model.blocks[0].feedforward.forward = lambda x: x.detach() * 0.5
    assert "blocks.0.feedforward.down.weight receives no gradient" in problems(model), spare


def test_a_parameter_outside_the_table_is_named():
    model = build()
    weight = model.head_norm.weight
    del model.head_norm.weight
    model.head_norm.other = weight
    model.head_norm.forward = lambda x: functional.rms_norm(x, weight.shape, weight)
    assert "parameter 'head_norm.other' fits 0 lines of the initialisation table" in problems(model)


class BatchNormed(nn.Module):
    def __init__(self, dim):
        super().__init__()
        self.norm = nn.BatchNorm1d(dim, affine=False)
        self.weight = nn.Parameter(torch.ones(dim))

    def forward(self, x):
        return self.norm(x.transpose(1, 2)).transpose(1, 2) * self.weight


def test_batch_statistics_are_named():
    model = build()
    model.head_norm = BatchNormed(192)
    found = problems(model)
    assert "head_norm.norm is a BatchNorm1d, whose output depends on the batch" in found
    assert "an item's logits change by" in found


def test_any_mixing_of_items_is_named():
    model = build()
    norm = model.head_norm
    norm.register_forward_hook(lambda _module, _inputs, output: output - output.mean(dim=0))
    assert "an item's logits change by" in problems(model)


def test_a_head_that_starts_with_opinions_is_named():
    model = build()
    with torch.no_grad():
        model.head.weight *= 10
    found = problems(model)
    assert f"a uniform guess has {math.log(1024):.3f}: make the head smaller at the start" in found


def test_one_codebook_that_starts_with_opinions_is_named():
    model = build()
    with torch.no_grad():
        model.head.weight[:1024] *= 20
    found = problems(model)
    assert "codebook 0 has a first loss of" in found
    assert "codebook 1 has a first loss of" not in found


def test_the_head_of_a_codebook_that_is_cut_off_is_named():
    model = build()

    def cut(_module, _inputs, output):
        return torch.cat([output[..., :1024].detach(), output[..., 1024:]], dim=-1)

    model.head.register_forward_hook(cut)
    assert problems(model) == (
        "the head of codebook 0 receives no gradient: its logits are not what its rows compute, "
        "or none of its cells is counted"
    )


def test_embedding_rows_that_are_cut_off_are_named():
    model = build()
    model.embedding.weight.register_hook(lambda grad: grad * (torch.arange(len(grad)) % 2)[:, None])
    assert " embedding rows that were read receive no gradient, the first is row" in problems(model)


def test_a_text_that_no_gradient_reaches_is_named():
    model = build(reads_text=True)
    encoder = model.text_encoder
    encoder.register_forward_hook(
        lambda _module, _inputs, memory: memory._replace(states=memory.states.detach())
    )
    found = problems(model)
    assert "text_encoder.byte_table.weight receives no gradient" in found
    assert "text_encoder.null receives no gradient" in found
    assert "cross_attention" not in found


def test_cross_attention_that_no_gradient_reaches_is_named():
    model = build(reads_text=True)
    for block in model.blocks:
        block.cross_attention.register_forward_hook(lambda _m, _inputs, output: output.detach())
    found = problems(model)
    assert "blocks.0.cross_attention.query.weight receives no gradient" in found


def test_a_pattern_of_another_width_is_named():
    pattern = build_pattern("musicgen", 4)
    (found,) = audit_start(build(), [part(pattern)], pattern).problems
    assert found == (
        "the model has 2 codebooks, delay 'musicgen' has 4: build the model from the pattern"
    )


def test_a_head_of_another_size_is_named():
    model = build()
    model.head = nn.Linear(192, 100, bias=False)
    assert (
        "head.weight has shape (100, 192), 2 codebooks at width 192 need (2048, 192)"
        in problems(model)
    )
