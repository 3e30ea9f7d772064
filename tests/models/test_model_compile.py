"""The model is one graph to torch.compile, forwards and backwards."""

import pytest
import torch
from torch.testing import assert_close


@pytest.mark.slow
@pytest.mark.filterwarnings("default")  # the compiler's own warnings are not ours to fix
def test_the_compiled_model_is_one_graph_with_the_same_gradients(no_shape_checks, tiny_model):
    sequence = torch.randint(0, 1024, (2, 3, 24))

    def gradients(model):
        tiny_model.zero_grad()
        model(sequence).square().mean().backward()
        return [weight.grad.clone() for weight in tiny_model.parameters()]

    compiled = torch.compile(tiny_model, fullgraph=True)
    for ours, theirs in zip(gradients(tiny_model), gradients(compiled), strict=True):
        assert_close(theirs, ours, rtol=1e-4, atol=1e-7)


def test_the_model_traces_without_a_break(no_shape_checks, tiny_model):
    sequence = torch.randint(0, 1024, (2, 3, 24))
    traced = torch.compile(tiny_model, fullgraph=True, backend="eager")
    assert_close(traced(sequence), tiny_model(sequence), rtol=0, atol=1e-6)
