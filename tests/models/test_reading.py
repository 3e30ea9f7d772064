"""Laws of a model that reads texts: what is read acts, what is not given cannot, and null is null."""

import pytest
import torch
from torch.testing import assert_close

from melodac.errors import CacheOverflowError, ModelError
from melodac.models.attention import attend_to_seen
from melodac.models.cache import KeyValueCache
from melodac.models.condition import PADDING, Condition, Memory, encode_texts
from melodac.tokens.vocabulary import BOS
from tests.reference import attention as reference

# float32 rounding of sums in another order; logits of these models reach about 0.5
TOLERANCE = {"rtol": 1e-5, "atol": 2e-6}
SEQUENCE = torch.randint(0, 1026, (3, 3, 20), generator=torch.Generator().manual_seed(0))
TEXTS = ["folk, fiddle", None, "slow piano in the rain"]


@pytest.fixture
def loud_model(reading_model):
    """Every part has a say: an untrained model is a uniform guess whatever it reads."""
    with torch.no_grad():
        for weight in reading_model.parameters():
            weight.mul_(3)
    return reading_model


def read(model, *texts, sequence=SEQUENCE):
    with torch.inference_mode():
        return model(sequence[: len(texts)], encode_texts(texts, 80))


def test_the_text_acts_at_every_step(loud_model):
    one, other = read(loud_model, "folk"), read(loud_model, "piano")
    assert (one != other).flatten(3).any(-1).all()


def test_the_order_of_the_bytes_acts(loud_model):
    assert not torch.equal(read(loud_model, "ab ab ab"), read(loud_model, "ba ba ba"))


def test_every_byte_is_read(loud_model):
    text = "folk, fiddle, slow"
    plain = read(loud_model, text)
    for place in range(len(text)):
        changed = text[:place] + "#" + text[place + 1 :]
        assert not torch.equal(read(loud_model, changed), plain)


def test_padding_is_not_read(loud_model):
    short = encode_texts(["folk"], 80)
    wide = Condition(torch.nn.functional.pad(short.text, (0, 16), value=PADDING))
    assert_close(loud_model(SEQUENCE[:1], wide), loud_model(SEQUENCE[:1], short), **TOLERANCE)


@pytest.mark.parametrize("others", [("a", "b"), ("folk", "x" * 80), ("ä" * 40, None)], ids=str)
def test_an_item_without_a_text_does_not_know_the_texts_of_others(loud_model, others):
    expected = read(loud_model, None, None, None)[1]
    assert torch.equal(read(loud_model, others[0], None, others[1])[1], expected)


def test_all_ways_to_say_nothing_are_one(loud_model):
    condition = encode_texts(TEXTS, 80)
    ways = [
        loud_model(SEQUENCE),
        loud_model(SEQUENCE, condition.dropped()),
        loud_model(SEQUENCE, encode_texts([None] * 3, 80)),
        loud_model(SEQUENCE, encode_texts([""] * 3, 80)),
    ]
    for way in ways[1:]:
        assert torch.equal(way, ways[0])


def test_null_reads_the_learned_vector_and_nothing_else(loud_model):
    loud_model.zero_grad()
    loud_model(SEQUENCE, encode_texts(TEXTS, 80))[1].square().sum().backward()
    assert loud_model.text_encoder.null.grad.count_nonzero()
    assert not loud_model.text_encoder.byte_table.weight.grad.count_nonzero()


def test_a_text_is_read_without_the_null_vector(loud_model):
    loud_model.zero_grad()
    loud_model(SEQUENCE, encode_texts(TEXTS, 80))[[0, 2]].square().sum().backward()
    assert not loud_model.text_encoder.null.grad.count_nonzero()
    used = loud_model.text_encoder.byte_table.weight.grad.flatten(1).any(dim=1).nonzero().flatten()
    assert used.tolist() == sorted(set("".join(text for text in TEXTS if text).encode()))


def test_a_text_opens_no_way_to_the_future(loud_model):
    condition = encode_texts(TEXTS, 80)
    before = loud_model(SEQUENCE, condition)
    for step in range(20):
        changed = SEQUENCE.clone()
        changed[:, 1, step] = (changed[:, 1, step] + 1) % 1024
        moved = (loud_model(changed, condition) != before).flatten(3).any(-1)
        assert not moved[:, :, : step + 1].any()
        assert moved[:, :, step + 1 :].all()


def test_an_item_does_not_depend_on_its_batch_mates(loud_model):
    together = read(loud_model, *TEXTS)
    for item, text in enumerate(TEXTS):
        alone = read(loud_model, text, sequence=SEQUENCE[item : item + 1])
        # other batch sizes and widths sum in another order
        assert_close(together[item : item + 1], alone, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("num_kv_heads", [1, 2, 4])
def test_seen_keys_are_attended_as_in_the_loop(num_kv_heads):
    torch.manual_seed(0)
    query = torch.randn(2, 4, 7, 8)
    key, value = torch.randn(2, 2, num_kv_heads, 5, 8)
    seen = torch.tensor([[True, False, False, False, False], [False, True, True, False, True]])
    expected = reference.attend_to_seen(query, key, value, seen)
    assert_close(attend_to_seen(query, key, value, seen), expected, rtol=1e-5, atol=1e-6)


def step_through(model, sequence, cache, start):
    B, K, S = sequence.shape
    logits = []
    for step in range(start, S):
        previous = sequence[..., step - 1] if step else torch.full((B, K), BOS)
        logits.append(model.step(previous, cache))
    return torch.stack(logits, dim=2)


@pytest.mark.parametrize("known", [0, 1, 7, 19])
@torch.inference_mode()
def test_steps_to_a_text_equal_the_full_forward_pass(reading_config, reading_model, known):
    condition = encode_texts(TEXTS, 80)
    memory = reading_model.read(condition, 3)
    cache = KeyValueCache(reading_config, batch_size=3, capacity=20, memory=memory)
    if known:
        reading_model.prefill(SEQUENCE[..., :known], cache)
    stepped = step_through(reading_model, SEQUENCE, cache, known)
    assert_close(stepped, reading_model(SEQUENCE, condition)[:, :, known:], **TOLERANCE)
    with pytest.raises(CacheOverflowError, match="holds 20 of 20 steps"):
        reading_model.step(SEQUENCE[..., -1], cache)


@torch.inference_mode()
def test_a_cache_without_a_text_plays_to_nothing(reading_config, reading_model):
    cache = KeyValueCache(reading_config, batch_size=3, capacity=20)
    stepped = step_through(reading_model, SEQUENCE, cache, 0)
    assert_close(stepped, reading_model(SEQUENCE), **TOLERANCE)


@torch.inference_mode()
def test_texts_are_encoded_once_a_generation(reading_config, reading_model):
    calls = []
    for block in reading_model.blocks:
        block.cross_attention.key_value.register_forward_hook(lambda *_: calls.append(1))
    memory = reading_model.read(encode_texts(TEXTS, 80), 3)
    cache = KeyValueCache(reading_config, batch_size=3, capacity=20, memory=memory)
    reading_model.prefill(SEQUENCE[..., :5], cache)
    step_through(reading_model, SEQUENCE, cache, 5)
    assert len(calls) == reading_config.num_layers


@pytest.mark.parametrize(
    ("condition", "message"),
    [
        (encode_texts(["a"] * 2, 80), r"3 texts of at most 80 bytes, one an item: got 2 of 64"),
        (
            encode_texts(["a" * 81] * 3, 90),
            r"3 texts of at most 80 bytes, one an item: got 3 of 90",
        ),
    ],
)
def test_a_condition_that_does_not_fit_is_refused(reading_model, condition, message):
    with pytest.raises(ModelError, match=message):
        reading_model(SEQUENCE, condition)


def test_a_model_without_texts_refuses_a_condition(tiny_model):
    with pytest.raises(
        ModelError, match="reads no text, a condition was given: pass None or train"
    ):
        tiny_model(SEQUENCE, encode_texts(TEXTS, 80))


def test_a_block_that_reads_needs_something_to_read(reading_model):
    rotary = KeyValueCache(reading_model.config, batch_size=1, capacity=4).claim(4)
    with pytest.raises(ModelError, match="was given none: pass a memory"):
        reading_model.blocks[0](torch.zeros(1, 4, 32), rotary)


@pytest.mark.parametrize("dtype", [torch.float64, torch.bfloat16])
def test_one_type_runs_through_a_model_that_reads(reading_model, dtype):
    model = reading_model.to(dtype)
    types = set()

    def collect(_module, _inputs, output):
        types.add(output.states.dtype if isinstance(output, Memory) else output.dtype)

    for module in model.modules():
        module.register_forward_hook(collect)
    logits = model(SEQUENCE, encode_texts(TEXTS, 80))
    logits.sum().backward()
    assert types == {dtype} == {weight.grad.dtype for weight in model.parameters()}


def test_null_is_exact_in_half_precision_too(reading_model):
    model = reading_model.to(torch.bfloat16)
    assert torch.equal(read(model, *TEXTS)[1], read(model, None, None, None)[1])


def test_autocast_reads_texts_without_a_warning(reading_model):
    with torch.autocast("cpu", dtype=torch.bfloat16):
        logits = reading_model(SEQUENCE, encode_texts(TEXTS, 80))
    assert_close(
        logits.float(), reading_model(SEQUENCE, encode_texts(TEXTS, 80)), rtol=0, atol=0.02
    )


def test_a_model_that_reads_traces_without_a_break(no_shape_checks, reading_model):
    condition = encode_texts(TEXTS, 80)
    traced = torch.compile(reading_model, fullgraph=True, backend="eager")
    assert_close(traced(SEQUENCE, condition), reading_model(SEQUENCE, condition), rtol=0, atol=1e-6)


def test_the_state_is_parameters_only(reading_model):
    names = {name for name, _ in reading_model.named_parameters()}
    assert set(reading_model.state_dict()) == names
