"""Laws of texts as bytes: nothing lost, nothing cut, one null condition."""

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from melodac.errors import ModelError
from melodac.models.condition import PADDING, Condition, encode_texts, no_texts

TEXTS = st.lists(st.none() | st.text(st.characters(codec="utf-8"), max_size=60), min_size=1)


@given(TEXTS)
def test_every_text_comes_back_from_its_bytes(texts):
    condition = encode_texts(texts, max_bytes=240)
    for row, text in zip(condition.text.tolist(), texts, strict=True):
        data = bytes(cell for cell in row if cell != PADDING)
        assert data.decode("utf-8") == (text or "")
        assert row == list(data) + [PADDING] * (len(row) - len(data))


@given(TEXTS)
def test_null_is_who_has_no_text(texts):
    condition = encode_texts(texts, max_bytes=240)
    assert condition.is_null.tolist() == [not text for text in texts]


@pytest.mark.parametrize("text", ["x" * 13, "ä" * 7], ids=["letters", "two bytes each"])
def test_a_text_that_does_not_fit_is_refused_whole(text):
    num_bytes = len(text.encode())
    with pytest.raises(
        ModelError, match=f"a text has {num_bytes} bytes, the model reads 12: short"
    ):
        encode_texts(["fine", text], max_bytes=12)


def test_a_text_for_a_model_that_reads_none_is_refused():
    with pytest.raises(ModelError, match=r"reads no text: train one with train\.condition"):
        encode_texts(["piano"], max_bytes=0)


@given(st.integers(0, 200), st.integers(200, 300))
def test_few_widths_occur_and_none_is_beyond_the_model(length, max_bytes):
    width = encode_texts(["x" * length, None], max_bytes).text.shape[1]
    assert max(1, length) <= width <= max_bytes
    assert width in {1, 64, 128, 192, 256, max_bytes}


def test_a_dropped_batch_is_null_and_of_the_same_shape():
    condition = encode_texts(["folk", None, "piano"], 80)
    dropped = condition.dropped()
    assert dropped.text.shape == condition.text.shape
    assert dropped.is_null.all()
    assert no_texts(3).is_null.all()
    assert condition.is_null.tolist() == [False, True, False]


def test_items_are_taken_and_moved_with_their_text():
    condition = encode_texts(["folk", None, "piano"], 80)
    assert torch.equal(condition.take(slice(1, 3)).text, condition.text[1:])
    moved = condition.to("meta")
    assert isinstance(moved, Condition)
    assert moved.text.device.type == "meta"
