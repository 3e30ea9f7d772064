"""Laws of layouts: a permutation with an exact way back, delays that follow it, clear refusals."""

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from melodac.errors import ConfigError, TokenError
from melodac.tokens.array import array_of_tracks
from melodac.tokens.delay import build_pattern
from melodac.tokens.layout import LAYOUT_NAMES, Layout, choose_layout, mix_channels
from melodac.tokens.store.header import CHANNEL_SETS, StoreHeader


def make_header(channels, codebooks=None):
    return StoreHeader(
        codec="tiny",
        weights_sha256="0" * 64,
        sample_rate_hz=44100,
        hop=512,
        codebook_size=1024,
        channels=channels,
        codebooks=codebooks or (9,) * len(channels),
        target_lufs=-16.0,
    )


STEREO = {
    "concatenated": ("left", "right"),
    "interleaved": ("left", "right"),
    "mid_side": ("mid", "side"),
}


@st.composite
def stores(draw):
    """A header, a layout its channels allow, and the codes of one track."""
    channels = draw(st.sampled_from(CHANNEL_SETS))
    header = make_header(channels, tuple(draw(st.integers(1, 9)) for _ in channels))
    mono = channels == ("mono",)
    names = [name for name in LAYOUT_NAMES if mono or set(STEREO[name]) <= set(channels)]
    generator = np.random.default_rng(draw(st.integers(0, 99)))
    codes = generator.integers(0, 1024, (5, header.num_columns), dtype=np.uint16)
    return header, draw(st.sampled_from(names)), codes


@given(store=stores())
def test_channels_come_back_from_what_a_model_reads(store):
    header, name, codes = store
    layout = choose_layout(name, header)
    read = layout.read(array_of_tracks([("a", codes)]), header)
    back = layout.split_channels(torch.from_numpy(read.codes(0).T.astype(np.int64)))
    assert set(back) == ({"mono"} if header.channels == ("mono",) else set(STEREO[name]))
    for channel, rows in back.items():
        assert np.array_equal(rows.numpy().T, codes[:, header.columns(channel)])


@given(store=stores())
def test_a_layout_survives_its_way_through_a_checkpoint(store):
    header, name, _ = store
    layout = choose_layout(name, header)
    assert Layout.model_validate_json(layout.model_dump_json()) == layout


def test_columns_stand_in_the_order_of_the_name():
    both = make_header(("left", "right", "mid", "side"), (2, 2, 2, 2))
    found = {name: choose_layout(name, both).names() for name in LAYOUT_NAMES}
    assert found == {
        "concatenated": ("left 0", "left 1", "right 0", "right 1"),
        "interleaved": ("left 0", "right 0", "left 1", "right 1"),
        "mid_side": ("mid 0", "mid 1", "side 0", "side 1"),
    }
    assert choose_layout("mid_side", both).positions(both) == [4, 5, 6, 7]
    assert choose_layout("interleaved", both).positions(both) == [0, 2, 1, 3]


def test_mono_has_one_order_and_is_not_copied():
    header = make_header(("mono",))
    array = array_of_tracks([("a", np.zeros((4, 9), dtype=np.uint16))])
    layouts = [choose_layout(name, header) for name in LAYOUT_NAMES]
    assert layouts[0] == layouts[1] == layouts[2]
    assert layouts[0].names() == tuple("012345678")
    assert layouts[0].read(array, header) is array


@pytest.mark.parametrize(
    ("name", "codebooks", "delay", "expected"),
    [
        ("concatenated", (9, 9), "musicgen", (*range(9), *range(9))),
        ("interleaved", (9, 9), "musicgen", tuple(k for k in range(9) for _ in range(2))),
        ("mid_side", (9, 4), "musicgen", (*range(9), *range(4))),
        ("mid_side", (9, 4), "dia", (0, *range(8, 16), 0, 8, 9, 10)),
        ("interleaved", (3, 2), [4, 1, 0], (4, 4, 1, 1, 0)),
        ("concatenated", (2, 2), [9, 8, 7, 6], (9, 8, 7, 6)),
        ("interleaved", (2, 2), [9, 8, 7, 6], (9, 8, 7, 6)),
    ],
)
def test_delays_follow_the_columns(name, codebooks, delay, expected):
    layout = choose_layout(name, make_header(STEREO[name], codebooks))
    pattern = build_pattern(delay, layout.num_codebooks, layout.codebooks)
    assert pattern.delays == expected


@pytest.mark.parametrize(
    ("channels", "name", "message"),
    [
        (
            ("left", "right"),
            "mid_side",
            "the store holds left, right .* set encode.stereo: mid_side or both, or train.layout: "
            "concatenated or interleaved$",
        ),
        (
            ("mid", "side"),
            "interleaved",
            "the store holds mid, side .* set encode.stereo: left_right or both, or train.layout: "
            "mid_side$",
        ),
    ],
)
def test_a_store_without_the_channels_is_refused(channels, name, message):
    with pytest.raises(ConfigError, match=message):
        choose_layout(name, make_header(channels))


def test_a_store_with_fewer_codebooks_than_the_checkpoint_is_refused():
    layout = choose_layout("mid_side", make_header(("mid", "side"), (9, 9)))
    with pytest.raises(ConfigError, match="holds mid, side with 9, 4 codebooks"):
        layout.positions(make_header(("mid", "side"), (9, 4)))


def test_codes_of_another_layout_are_refused():
    layout = choose_layout("concatenated", make_header(("left", "right"), (2, 2)))
    with pytest.raises(TokenError, match="codes of 3 rows, layout concatenated has 4 columns"):
        layout.split_channels(np.zeros((3, 7), dtype=np.uint16))


def test_a_layout_with_a_hole_is_refused():
    columns = [{"channel": "mono", "codebook": 0}, {"channel": "mono", "codebook": 2}]
    with pytest.raises(ValueError, match="channel mono has codebooks"):
        Layout.model_validate({"name": "mono", "columns": tuple(columns)})


@given(seed=st.integers(0, 99))
def test_mid_and_side_mix_back_to_left_and_right(seed):
    left, right = np.random.default_rng(seed).uniform(-1, 1, (2, 64)).astype(np.float32)
    mixed = mix_channels({"mid": (left + right) / 2, "side": (left - right) / 2})
    assert np.allclose(mixed, mix_channels({"left": left, "right": right}), atol=1e-6)
    assert mix_channels({"mono": left}).shape == (1, 64)


def test_sound_of_half_a_stereo_is_refused():
    with pytest.raises(TokenError, match="sound of left is neither mono nor stereo"):
        mix_channels({"left": np.zeros(4, dtype=np.float32)})
