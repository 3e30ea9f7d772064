"""Laws of delay patterns: exact inverse, causality, and which cells hold no frame."""

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from melodac.errors import DelayError
from melodac.tokens.delay import (
    BEFORE,
    HOLE,
    PATTERN_NAMES,
    apply_delay,
    build_pattern,
    cell_exists,
    cell_frames,
    cell_steps,
    is_code,
    undo_delay,
)
from melodac.tokens.vocabulary import BOS, PAD
from tests.reference import delay as reference

NINE = tuple(range(9))
INTERLEAVED = tuple(k for k in range(9) for _ in range(2))
named = st.tuples(
    st.sampled_from(PATTERN_NAMES),
    st.just(9),
    st.sampled_from([NINE, NINE * 2, INTERLEAVED, NINE + NINE[:4]]),
)
listed = st.lists(st.integers(0, 12), min_size=1, max_size=6).map(
    lambda delays: (delays, len(delays))
)
specs = st.one_of(named, listed)
lengths = st.integers(1, 14)


def random_codes(pattern, num_frames, seed=0, batch=2):
    generator = torch.Generator().manual_seed(seed)
    return torch.randint(0, 1024, (batch, pattern.num_codebooks, num_frames), generator=generator)


@pytest.mark.parametrize(
    ("name", "delays"),
    [
        ("musicgen", (0, 1, 2, 3, 4, 5, 6, 7, 8)),
        ("dia", (0, 8, 9, 10, 11, 12, 13, 14, 15)),
        ("compressed", (0, 0, 1, 1, 2, 2, 3, 3, 4)),
        ("parallel", (0, 0, 0, 0, 0, 0, 0, 0, 0)),
        ("reverse", (8, 7, 6, 5, 4, 3, 2, 1, 0)),
        ("middle_out", (4, 3, 2, 1, 0, 1, 2, 3, 4)),
    ],
)
def test_named_delays_are_the_published_ones(name, delays):
    assert build_pattern(name).delays == delays
    assert build_pattern(name, columns=NINE * 2).delays == delays * 2
    assert build_pattern(name, columns=NINE + NINE[:4]).delays == delays + delays[:4]
    interleaved = tuple(delay for delay in delays for _ in range(2))
    assert build_pattern(name, columns=INTERLEAVED).delays == interleaved


def test_a_list_is_kept_in_its_order_and_repeated_per_channel():
    assert build_pattern([5, 0, 2], 3).delays == (5, 0, 2)
    for columns, expected in (
        ((0, 1, 2, 0, 1, 2), (5, 0, 2, 5, 0, 2)),
        ((0, 0, 1, 1, 2, 2), (5, 5, 0, 0, 2, 2)),
        ((0, 1, 2, 0), (5, 0, 2, 5)),
    ):
        assert build_pattern([5, 0, 2], 3, columns).delays == expected
    whole = [5, 0, 2, 1, 1, 9]
    assert build_pattern(whole, 3, (0, 0, 1, 1, 2, 2)).delays == tuple(whole)


@given(spec=specs, num_frames=lengths, seed=st.integers(0, 99))
def test_undo_inverts_apply(spec, num_frames, seed):
    pattern = build_pattern(*spec)
    codes = random_codes(pattern, num_frames, seed)
    assert torch.equal(undo_delay(apply_delay(codes, pattern), pattern), codes)


@given(spec=specs, num_frames=lengths)
def test_apply_matches_the_loop(spec, num_frames):
    pattern = build_pattern(*spec)
    codes = random_codes(pattern, num_frames)
    assert torch.equal(apply_delay(codes, pattern), reference.apply_delay(codes, pattern))


@given(spec=specs, num_frames=lengths, frame=st.integers(0, 13))
def test_a_frame_changes_no_earlier_step(spec, num_frames, frame):
    pattern = build_pattern(*spec)
    frame %= num_frames
    codes = random_codes(pattern, num_frames)
    changed = codes.clone()
    changed[..., frame] = 1023 - codes[..., frame]
    differs = apply_delay(codes, pattern) != apply_delay(changed, pattern)
    first = frame * pattern.num_codebooks if pattern.is_flat else frame
    assert not differs[..., :first].any()
    assert differs.any()


@given(spec=specs, num_frames=lengths)
def test_special_cells_are_as_many_as_the_delays_make(spec, num_frames):
    pattern = build_pattern(*spec)
    sequence = apply_delay(random_codes(pattern, num_frames, batch=1), pattern)
    K = pattern.num_codebooks
    late = 0 if pattern.is_flat else sum(pattern.delays)
    holes = num_frames * K * (K - 1) if pattern.is_flat else K * pattern.max_delay - late
    assert int((sequence == BOS).sum()) == late
    assert int((sequence == PAD).sum()) == holes
    assert int(is_code(sequence).sum()) == num_frames * K


def test_musicgen_has_k_times_k_minus_1_special_cells():
    sequence = apply_delay(
        random_codes(build_pattern("musicgen"), 20, batch=1), build_pattern("musicgen")
    )
    assert int((~is_code(sequence)).sum()) == 9 * 8


@given(spec=specs, num_frames=lengths)
def test_cell_frames_say_what_stands_in_every_cell(spec, num_frames):
    pattern = build_pattern(*spec)
    codes = random_codes(pattern, num_frames, batch=1)
    sequence = apply_delay(codes, pattern)[0]
    frames = cell_frames(pattern, num_frames)
    exists = cell_exists(pattern, num_frames)
    for s in range(pattern.num_steps(num_frames)):
        for k in range(pattern.num_codebooks):
            frame = int(frames[s, k])
            assert bool(exists[s, k]) == (0 <= frame < num_frames)
            if exists[s, k]:
                assert sequence[k, s] == codes[0, k, frame]
            else:
                assert sequence[k, s] == (BOS if frame == BEFORE else PAD)
    assert (frames == HOLE).any() == (pattern.is_flat and pattern.num_codebooks > 1)


@given(spec=specs, num_frames=lengths)
def test_every_frame_stands_in_exactly_one_cell_of_its_codebook(spec, num_frames):
    pattern = build_pattern(*spec)
    frames = cell_frames(pattern, num_frames)
    steps = cell_steps(pattern, num_frames)
    assert int(cell_exists(pattern, num_frames).sum()) == steps.numel()
    for k in range(pattern.num_codebooks):
        assert frames[steps[k], k].tolist() == list(range(num_frames))


@given(spec=specs, num_frames=lengths, more=st.integers(1, 5))
def test_a_longer_window_begins_with_the_same_cells(spec, num_frames, more):
    pattern = build_pattern(*spec)
    short = cell_frames(pattern, num_frames)
    assert torch.equal(cell_frames(pattern, num_frames + more)[: len(short)], short)


def test_integer_width_is_kept():
    pattern = build_pattern("musicgen")
    codes = random_codes(pattern, 4).to(torch.int16)
    assert apply_delay(codes, pattern).dtype == torch.int16


@pytest.mark.parametrize(
    ("spec", "num_codebooks", "columns", "message"),
    [
        ("musicgn", 9, None, "unknown delay 'musicgn'.*musicgen, dia.*9 delays"),
        ("dia", 8, None, "'dia' is defined for 9 codebooks, got 8"),
        ([0, 1, 2], 9, None, "got 3 delays, allowed are 9$"),
        ([0, 1, 2], 2, (0, 1, 0, 1), r"got 3 delays, allowed are 2 \(each channel alike\) or 4"),
        ([0, -1], 2, None, r"whole frames >= 0: got -1 in \[0, -1\]"),
        ([True, 0], 2, None, "whole frames >= 0: got True"),
        ([], 9, None, "got 0 delays"),
        ("musicgen", 0, None, "got 0 codebooks"),
        ("musicgen", 2, (0, 2), r"got 2 codebooks and columns \[0, 2\]"),
        ("musicgen", 2, (), r"got 2 codebooks and columns \[\]"),
    ],
)
def test_a_pattern_that_does_not_fit_is_refused(spec, num_codebooks, columns, message):
    with pytest.raises(DelayError, match=message):
        build_pattern(spec, num_codebooks, columns)


def test_a_tensor_with_other_codebooks_is_refused():
    with pytest.raises(DelayError, match="'parallel' has 9 codebooks, the tensor 4"):
        apply_delay(torch.zeros(1, 4, 3, dtype=torch.long), build_pattern("parallel"))


@pytest.mark.parametrize(("name", "num_steps"), [("musicgen", 8), ("flat", 17), ("flat", 0)])
def test_a_sequence_of_no_whole_frames_is_refused(name, num_steps):
    with pytest.raises(DelayError, match=f"sequence of {num_steps} steps holds no whole number"):
        undo_delay(torch.zeros(1, 9, num_steps, dtype=torch.long), build_pattern(name))
