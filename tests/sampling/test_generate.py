"""Laws of generation: equal to the loop without a cache, exact in length, faithful to seeds."""

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from pydantic import ValidationError

from melodac.errors import SamplingError
from melodac.sampling.generate import generate, lay_out
from melodac.sampling.logits import SamplingSettings
from melodac.tokens.delay import apply_delay, build_pattern, cell_exists, is_code
from melodac.tokens.vocabulary import PAD
from tests.reference import generate as reference

PLAIN = SamplingSettings(temperature=1.0, top_k=0, top_p=1.0)
GREEDY = SamplingSettings(temperature=0.0, top_k=0, top_p=1.0)
NARROW = SamplingSettings(temperature=0.8, top_k=50, top_p=0.9)
PATTERNS = ["musicgen", "parallel", "compressed", "reverse", "middle_out", "flat", [0, 6, 1]]


def pattern_of(spec):
    return build_pattern(spec, num_codebooks=3)


def some_codes(batch_size, num_frames, seed=0):
    generator = torch.Generator().manual_seed(seed)
    return torch.randint(0, 1024, (batch_size, 3, num_frames), generator=generator)


@pytest.mark.parametrize("ends", [False, True])
@pytest.mark.parametrize("prefix_frames", [0, 1, 4])
@pytest.mark.parametrize("spec", PATTERNS, ids=str)
def test_generation_equals_the_loop_without_a_cache(singer, spec, prefix_frames, ends):
    request = {
        "num_frames": 6,
        "seeds": [3, 4],
        "settings": PLAIN,
        "prefix": some_codes(2, prefix_frames),
        "ends": ends,
    }
    singer.eval()
    with torch.no_grad():
        expected = reference.generate(singer, pattern_of(spec), **request)
    assert torch.equal(generate(singer, pattern_of(spec), **request), expected)


@pytest.mark.parametrize("chosen", [GREEDY, NARROW], ids=["greedy", "narrow"])
def test_every_setting_equals_the_loop_without_a_cache(singer, chosen):
    request = {"num_frames": 8, "seeds": [3, 4], "settings": chosen}
    singer.eval()
    with torch.no_grad():
        expected = reference.generate(
            singer, pattern_of("musicgen"), prefix=some_codes(2, 2), ends=False, **request
        )
    result = generate(singer, pattern_of("musicgen"), prefix=some_codes(2, 2), **request)
    assert torch.equal(result, expected)


@settings(max_examples=25, deadline=None)
@given(
    spec=st.one_of(st.sampled_from(PATTERNS), st.lists(st.integers(0, 9), min_size=3, max_size=3)),
    prefix_frames=st.integers(0, 5),
    new_frames=st.integers(1, 6),
    ends=st.booleans(),
)
def test_the_result_is_exact_in_length_codes_and_prefix(
    singer, spec, prefix_frames, new_frames, ends
):
    prefix = some_codes(2, prefix_frames)
    result = generate(
        singer,
        pattern_of(spec),
        num_frames=prefix_frames + new_frames,
        seeds=[0, 1],
        settings=PLAIN,
        prefix=prefix,
        ends=ends,
    )
    assert result.shape == (2, 3, prefix_frames + new_frames)
    assert is_code(result).all()
    assert torch.equal(result[..., :prefix_frames], prefix)


@pytest.mark.parametrize("spec", ["musicgen", "flat"])
def test_an_item_does_not_depend_on_its_batch_mates(singer, spec):
    prefix = some_codes(4, 2)
    request = {"num_frames": 12, "settings": PLAIN}
    together = generate(singer, pattern_of(spec), seeds=[9, 8, 7, 6], prefix=prefix, **request)
    for item, seed in enumerate([9, 8, 7, 6]):
        alone = generate(
            singer, pattern_of(spec), seeds=[seed], prefix=prefix[item : item + 1], **request
        )
        assert torch.equal(together[item : item + 1], alone)


def test_one_seed_gives_one_result_and_another_another(singer):
    request = {"num_frames": 12, "settings": PLAIN}
    first = generate(singer, pattern_of("musicgen"), seeds=[5, 5, 6], **request)
    second = generate(singer, pattern_of("musicgen"), seeds=[5, 5, 6], **request)
    assert torch.equal(first, second)
    assert torch.equal(first[0], first[1])
    assert not torch.equal(first[0], first[2])


def test_the_global_generator_is_left_alone(singer):
    before = torch.get_rng_state()
    generate(singer, pattern_of("musicgen"), num_frames=4, seeds=[1], settings=PLAIN)
    assert torch.equal(before, torch.get_rng_state())


def test_the_prefix_steers_what_follows(singer):
    request = {"num_frames": 8, "seeds": [1], "settings": GREEDY}
    first = generate(singer, pattern_of("musicgen"), prefix=some_codes(1, 4, seed=1), **request)
    second = generate(singer, pattern_of("musicgen"), prefix=some_codes(1, 4, seed=2), **request)
    assert not torch.equal(first[..., 4:], second[..., 4:])


@pytest.mark.parametrize("spec", PATTERNS, ids=str)
def test_an_ending_track_looks_as_in_training(spec):
    """Past the end of a track training reads PAD: so do the given cells when `ends` is set."""
    codes = some_codes(2, 6)
    layout = lay_out(codes[..., :4], pattern_of(spec), num_frames=6, ends=True)
    truth = apply_delay(codes, pattern_of(spec))
    assert torch.equal(torch.where(layout.is_sampled, truth, layout.sequence), truth)


@pytest.mark.parametrize("spec", PATTERNS, ids=str)
def test_music_that_goes_on_looks_as_in_training(spec):
    """A window carries real frames beyond its own: so every cell past the end is sampled."""
    pattern = pattern_of(spec)
    window = some_codes(2, 6 + pattern.max_delay)
    layout = lay_out(window[..., :4], pattern, num_frames=6, ends=False)
    truth = apply_delay(window, pattern)[..., : pattern.num_steps(6)]
    assert torch.equal(torch.where(layout.is_sampled, truth, layout.sequence), truth)
    assert layout.is_sampled[cell_exists(pattern, 6).T].sum() == 3 * 2


def test_a_flat_pattern_samples_one_codebook_a_step():
    layout = lay_out(some_codes(1, 0), pattern_of("flat"), num_frames=5, ends=False)
    assert (layout.is_sampled.sum(0) == 1).all()
    assert (layout.sequence == PAD).all()


def test_progress_counts_the_steps_beyond_the_prefix(singer):
    calls = []
    generate(
        singer,
        pattern_of("musicgen"),
        num_frames=6,
        seeds=[1],
        settings=PLAIN,
        prefix=some_codes(1, 4),
        on_step=lambda done, total: calls.append((done, total)),
    )
    assert calls == [(done, 4) for done in range(1, 5)]


@pytest.mark.parametrize("was_training", [True, False])
def test_the_model_keeps_its_mode_and_dropout_stays_out(singer, was_training):
    request = {"num_frames": 6, "seeds": [1], "settings": GREEDY}
    singer.train(was_training)
    first = generate(singer, pattern_of("musicgen"), **request)
    second = generate(singer, pattern_of("musicgen"), **request)
    assert torch.equal(first, second)
    assert singer.training == was_training


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"seeds": []}, r"need one seed per item, at least one, .* got \[\]"),
        ({"seeds": [-1]}, r"each from 0 to 2\*\*63 - 1: got \[-1\]"),
        ({"num_frames": 0}, r"must exceed it: got 0 frames for a prefix of 0"),
        ({"prefix": some_codes(1, 6)}, r"must exceed it: got 6 frames for a prefix of 6"),
        ({"prefix": some_codes(2, 3)}, r"1 items \(one per seed\) of 3 codebooks: got 2 of 3"),
        ({"prefix": some_codes(1, 3).fill_(PAD)}, r"got values from 1025 to 1025; cut it where"),
        ({"prefix": some_codes(1, 3).fill_(-1)}, r"codes from 0 to 1023 only: got values from -1"),
    ],
)
def test_a_request_that_does_not_fit_is_refused(singer, change, message):
    request = {"num_frames": 6, "seeds": [1], "settings": PLAIN}
    with pytest.raises(SamplingError, match=message):
        generate(singer, pattern_of("musicgen"), **(request | change))


def test_a_pattern_of_another_width_is_refused(singer):
    pattern = build_pattern("musicgen", num_codebooks=4)
    with pytest.raises(SamplingError, match=r"'musicgen' has 4 codebooks, the model 3"):
        generate(singer, pattern, num_frames=6, seeds=[1], settings=PLAIN)


@pytest.mark.parametrize("change", [{"temperature": -1.0}, {"top_k": -1}, {"top_p": 0.0}])
def test_settings_out_of_range_are_refused(change):
    with pytest.raises(ValidationError, match=next(iter(change))):
        SamplingSettings(**(PLAIN.model_dump() | change))
