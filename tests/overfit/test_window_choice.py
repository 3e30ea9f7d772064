"""Laws of the gate's windows: they hold music, and what is scored follows from what came before."""

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from melodac.errors import ConfigError, TrainingError
from melodac.overfit.window_choice import choose_windows
from melodac.tokens.array import array_of_tracks
from melodac.tokens.delay import apply_delay, build_pattern, cell_frames
from melodac.training.config import OverfitConfig
from melodac.training.data import TrainingData

CONFIG = OverfitConfig(
    action="stop",
    windows=2,
    window_frames=32,
    prefix_frames=4,
    updates=100,
    stop_loss=0.05,
    min_accuracy=0.99,
    seed=0,
)
PATTERNS = ["musicgen", "parallel", "reverse", "flat", (2, 0, 1)]
SILENCE = np.full((200, 3), 7, dtype=np.uint16)


def music(frames, seed=0, num_codes=1024):
    return np.random.default_rng(seed).integers(0, num_codes, (frames, 3)).astype(np.uint16)


def data_of(*tracks, tags=()):
    array = array_of_tracks([(f"t{n}", codes) for n, codes in enumerate(tracks)])
    return TrainingData(array, array, 32, train_tags=tags)


def choose(data, delay="musicgen", **changes):
    return choose_windows(data, build_pattern(delay, 3), CONFIG.model_copy(update=changes))


def is_told_apart(one, other, pattern, prefix_frames):
    """Whether a function of the past alone can be right in every scored cell of both windows."""
    first, second = (
        apply_delay(torch.tensor(w.T[None].astype(np.int64)), pattern)[0] for w in (one, other)
    )
    frames = cell_frames(pattern, len(one)).T
    is_scored = (frames >= prefix_frames) & (frames < len(one))
    for step in range(first.shape[-1]):
        if not torch.equal(first[:, :step], second[:, :step]):
            return True
        if bool(((first != second) & is_scored)[:, step].any()):
            return False
    return True


@settings(max_examples=50)
@given(
    st.lists(st.tuples(st.integers(0, 24), st.integers(48, 100)), min_size=1, max_size=4),
    st.sampled_from(PATTERNS),
    st.integers(1, 3),
    st.integers(1, 20),
    st.integers(0, 10**6),
)
def test_what_is_scored_follows_from_what_came_before(tracks, delay, windows, prefix, seed):
    """Any silences, any pattern: else a model that knows both by heart must fail."""
    codes = [music(frames, seed + n) for n, (_, frames) in enumerate(tracks)]
    for track, (silence, _) in zip(codes, tracks, strict=True):
        track[:silence] = 7
    found = choose(data_of(*codes), delay, windows=windows, prefix_frames=prefix, seed=seed)
    given = found.config
    assert given.prefix_frames <= max(prefix, given.window_frames // 2)
    array = found.data.train
    for one in range(given.windows):
        for other in range(one):
            assert is_told_apart(
                array.codes(one),
                array.codes(other),
                build_pattern(delay, 3),
                given.prefix_frames,
            )


@pytest.mark.parametrize("delay", PATTERNS)
def test_the_prefix_grows_until_it_tells_the_windows_apart(delay):
    one, other = music(32), music(32, seed=1)
    other[:6] = one[:6]
    found = choose(data_of(one, other), delay)
    # under a delay, most of what is given comes too late to be seen before the first choice
    assert found.config.prefix_frames == (8 if delay in {"parallel", "flat"} else 16)
    assert found.notes == (
        f"free runs are given {found.config.prefix_frames} frames instead of 4: fewer do not tell "
        "the windows apart",
    )


def test_a_prefix_that_is_enough_stays_as_it_is():
    found = choose(data_of(music(32), music(32, seed=1)))
    assert found.config == CONFIG
    assert found.notes == ()


@pytest.mark.parametrize("seed", range(5))
def test_silence_is_not_memorised_where_there_is_music(seed):
    found = choose(data_of(SILENCE, music(64), SILENCE, music(64, seed=1), SILENCE), seed=seed)
    assert {name.split("+")[0] for name in found.data.train.track_ids} == {"t1", "t3"}


def test_a_collection_of_silence_is_refused_in_so_many_words():
    with pytest.raises(
        TrainingError, match=r"finds no music to memorise: none of 6 windows of 32"
    ) as e:
        choose(data_of(SILENCE))
    assert "holds more than 1 distinct frames, at least 4 are asked for" in str(e.value)
    assert "silence or standing tones" in str(e.value)
    assert "set overfit.action to off" in str(e.value)


def test_a_slowly_moving_sound_is_taken_where_there_is_nothing_else():
    slow = np.repeat(music(16), 5, axis=0)
    assert choose(data_of(slow), windows=1).config.windows == 1
    found = choose(data_of(slow, music(32, seed=1)), windows=1)
    assert found.data.train.track_ids == ("t1+0",)


def test_windows_that_are_alike_altogether_are_one_window():
    loop = music(32)
    found = choose(data_of(loop, loop, np.concatenate([loop, loop])))
    assert found.config.windows == 1
    assert found.notes == (
        "of 2 windows 1 can be memorised: no more hold music and differ in their first 4 frames",
    )


def test_one_shots_shorter_than_a_window_are_enough():
    found = choose(data_of(music(20), music(24, seed=1), music(9, seed=2)))
    assert found.config.window_frames == 20
    assert found.data.window_frames == 20
    assert found.data.train.lengths.tolist() == [20, 20]
    assert found.notes[0].startswith("windows have 20 frames instead of 32")


def test_one_short_track_is_cut_into_as_many_windows_as_asked_for():
    found = choose(data_of(music(50)))
    assert found.config.window_frames == 25
    assert sorted(found.data.train.track_ids) == ["t0+0", "t0+25"]


def test_too_little_music_for_all_windows_is_enough_for_one():
    found = choose(data_of(music(31)))
    assert (found.config.windows, found.config.window_frames) == (1, 16)
    assert len(found.notes) == 2


def test_too_little_music_is_refused():
    with pytest.raises(ConfigError, match=r"at least 16 frames, the longest has 15: raise index"):
        choose(data_of(music(15), music(9)))


def test_windows_keep_the_tags_of_their_tracks():
    tags = (("piano",), ("drums",), ("voice", "choir"))
    found = choose(data_of(music(32), music(10, seed=1), music(33, seed=2), tags=tags))
    by_track = dict(zip(("t0", "t1", "t2"), tags, strict=True))
    names = [name.split("+")[0] for name in found.data.train.track_ids]
    assert found.data.train_tags == tuple(by_track[name] for name in names)


def test_the_seed_draws_the_windows_and_nothing_else_does():
    data = data_of(*(music(320, seed=n) for n in range(6)))
    names = [choose(data, seed=seed).data.train.track_ids for seed in range(8)]
    assert names == [choose(data, seed=seed).data.train.track_ids for seed in range(8)]
    assert len(set(names)) > 4


@given(st.integers(0, 1000))
def test_no_track_gives_a_second_window_before_every_track_gave_one(seed):
    data = data_of(music(320), music(33, seed=1), music(64, seed=2))
    found = choose(data, windows=3, seed=seed)
    assert {name.split("+")[0] for name in found.data.train.track_ids} == {"t0", "t1", "t2"}
