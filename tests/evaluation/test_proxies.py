import numpy as np
import pytest

from melodac.errors import EvaluationError
from melodac.evaluation.bootstrap import Bootstrap
from melodac.evaluation.proxies import (
    SHORTEST_S,
    ClipSet,
    Proxy,
    describe_clip,
    measure_distance,
    measure_margin,
)
from tests.evaluation.sounds import RATE_HZ, band, drone, noise, shuffle_frames, tone

BOOTSTRAP = Bootstrap(samples=300, seed=0)
NUM_CLIPS = 6


def describe(audio):
    return describe_clip(audio, rate_hz=RATE_HZ)


def describe_all(name, sounds):
    return ClipSet(
        tuple(describe(audio) for audio in sounds), tuple(f"{name}{n}" for n in range(NUM_CLIPS))
    )


@pytest.fixture(scope="module")
def sets():
    bands = [
        band(bpm=bpm, seed=seed) for seed, bpm in enumerate(range(90, 90 + 10 * NUM_CLIPS, 10))
    ]
    others = [
        band(bpm=bpm, seed=50 + seed) for seed, bpm in enumerate(range(90, 90 + 10 * NUM_CLIPS, 10))
    ]
    return {
        "truth": describe_all("truth", bands),
        "other": describe_all("other", others),
        "shuffled": describe_all("shuffled", [shuffle_frames(b, n) for n, b in enumerate(bands)]),
        "noise": describe_all("noise", [noise(seed=seed) for seed in range(NUM_CLIPS)]),
    }


@pytest.mark.parametrize("proxy", Proxy)
def test_the_truth_is_at_no_distance_from_itself(sets, proxy):
    value, low, high = measure_distance(proxy, sets["truth"], sets["truth"], BOOTSTRAP)
    assert value == pytest.approx(0, abs=1e-9)
    assert (low, high) == (pytest.approx(0, abs=1e-9), pytest.approx(0, abs=1e-9))


@pytest.mark.parametrize("broken", ["shuffled", "noise"])
@pytest.mark.parametrize("proxy", Proxy)
def test_other_music_is_nearer_than_broken_music(sets, proxy, broken):
    other = measure_distance(proxy, sets["other"], sets["truth"], BOOTSTRAP)
    worse = measure_distance(proxy, sets[broken], sets["truth"], BOOTSTRAP)
    assert other.value < worse.value
    if broken == "shuffled" or proxy is not Proxy.ONSET_RATE:
        assert other.high < worse.low


def test_noise_is_farther_than_shuffled_frames_in_spectrum_and_pitch(sets):
    for proxy in (Proxy.LOG_MEL, Proxy.CHROMA):
        shuffled, white = (
            measure_distance(proxy, sets[name], sets["truth"], BOOTSTRAP)
            for name in ("shuffled", "noise")
        )
        assert shuffled.high < white.low


def test_a_distance_is_the_same_every_time(sets):
    first, second = (
        measure_distance(Proxy.HOLD, sets["other"], sets["truth"], BOOTSTRAP) for _ in range(2)
    )
    assert first == second


def numbers(values, units=None):
    return ClipSet(
        tuple({Proxy.HOLD: np.array([value])} for value in values),
        tuple(units or (f"{id(values)}-{n}" for n in range(len(values)))),
    )


def test_the_distance_of_one_number_is_the_formula_s():
    first, second = [1.0, 2.0, 4.0], [0.0, 5.0]
    between = np.mean([abs(a - b) for a in first for b in second])
    within = np.mean([
        abs(a - b) for i, a in enumerate(first) for j, b in enumerate(first) if i != j
    ])
    value = measure_distance(Proxy.HOLD, numbers(first), numbers(second), BOOTSTRAP).value
    assert value == pytest.approx(2 * between - within - 5.0)


def test_the_interval_covers_the_true_distance_as_often_as_it_says():
    """Of normal numbers one apart: 2 E|X - Y| - 4 / sqrt(pi), with E|X - Y| of N(1, 2)."""
    mean = 2 / np.sqrt(np.pi) * np.exp(-1 / 4) + (2 * 0.7602499 - 1)  # Phi(1 / sqrt 2)
    true = 2 * mean - 4 / np.sqrt(np.pi)
    generator, covered = np.random.default_rng(0), 0
    for _ in range(200):
        first, second = generator.normal(0, 1, 24), generator.normal(1, 1, 24)
        _, low, high = measure_distance(
            Proxy.HOLD, numbers(first.tolist()), numbers(second.tolist()), BOOTSTRAP
        )
        covered += low <= true <= high
    assert covered >= 0.85 * 200


def test_a_margin_sees_what_two_intervals_cannot():
    """Both sets are compared with the same few clips, so their distances rise and fall together."""
    generator = np.random.default_rng(0)
    units = [f"recording {n}" for n in range(12)]
    truth = generator.normal(0, 1, 12)
    near, far = (numbers((truth + shift).tolist(), units) for shift in (0.9, 1.2))
    real = numbers(truth.tolist(), units)
    first, second = (measure_distance(Proxy.HOLD, part, real, BOOTSTRAP) for part in (near, far))
    margin = measure_margin(Proxy.HOLD, near, real, BOOTSTRAP, others=far)
    assert first.high > second.low
    assert margin.low > 0
    assert margin.value == pytest.approx(second.value - first.value)


def test_a_margin_between_equal_kinds_lies_above_zero_as_seldom_as_it_says():
    generator, above = np.random.default_rng(0), 0
    for _ in range(200):
        first, second, truth = (numbers(generator.normal(size=24).tolist()) for _ in range(3))
        above += measure_margin(Proxy.HOLD, first, truth, BOOTSTRAP, others=second).low > 0
    assert above <= 0.05 * 200


def test_equal_distributions_are_at_zero_on_average_also_with_few_clips():
    generator = np.random.default_rng(0)
    found = [
        measure_distance(
            Proxy.HOLD,
            numbers(generator.normal(size=4).tolist()),
            numbers(generator.normal(size=4).tolist()),
            Bootstrap(samples=100, seed=0),
        ).value
        for _ in range(400)
    ]
    assert abs(np.mean(found)) < 3 * np.std(found) / np.sqrt(len(found))


def test_clips_of_one_recording_are_no_evidence_of_each_other():
    """A round trip is as far from its own originals as from other clips of their kind."""
    values, units = [1.0, 1.1, 9.0, 9.1], ["a", "a", "b", "b"]
    copied = measure_distance(Proxy.HOLD, numbers(values, units), numbers(values, units), BOOTSTRAP)
    assert copied.value == pytest.approx(0)
    doubled = measure_distance(
        Proxy.HOLD, numbers(values, units), numbers([1.0, 9.0], ["a", "b"]), BOOTSTRAP
    )
    assert abs(doubled.value) < 0.2


def test_clips_of_a_single_recording_give_no_distance():
    one = numbers([1.0, 2.0], ["a", "a"])
    with pytest.raises(EvaluationError, match="got 2 clips of 1"):
        measure_distance(Proxy.HOLD, one, numbers([1.0, 2.0]), BOOTSTRAP)


def test_a_number_that_is_not_finite_is_refused_and_never_zero():
    with pytest.raises(EvaluationError, match="proxy hold of 2 clips is not finite"):
        measure_distance(Proxy.HOLD, numbers([np.nan, 1.0]), numbers([1.0, 2.0]), BOOTSTRAP)


def test_onsets_tempo_and_tones_are_those_of_the_music():
    found = describe(band(bpm=120, seconds=6.0))
    assert found[Proxy.ONSET_RATE][0] == pytest.approx(4.0, abs=1.0)  # a kick and a hat a beat
    assert found[Proxy.TEMPO][0] > 0.5
    assert found[Proxy.TONAL_SHARE][0] > 0.7
    assert 0.2 < found[Proxy.HOLD][0] < 1.5


def test_a_drone_has_one_long_note_and_no_onset():
    found = describe(drone())
    assert found[Proxy.ONSET_RATE][0] == 0
    assert found[Proxy.TEMPO][0] == pytest.approx(0, abs=0.1)
    assert found[Proxy.HOLD][0] > 3.0


def test_another_key_is_the_same_chroma():
    low, high = (describe(tone(seconds=2.0, hz=hz))[Proxy.CHROMA] for hz in (440.0, 523.25))
    np.testing.assert_allclose(low, high, atol=0.03)


def test_silence_is_described_and_is_nothing():
    found = describe(np.zeros((1, 2 * RATE_HZ), np.float32))
    assert all(np.isfinite(values).all() for values in found.values())
    assert [
        found[p][0] for p in (Proxy.ONSET_RATE, Proxy.TEMPO, Proxy.TONAL_SHARE, Proxy.HOLD)
    ] == [0] * 4


def test_a_clip_too_short_for_a_beat_is_refused():
    with pytest.raises(EvaluationError, match=r"1\.00 s: needs at least 1\.25 s"):
        describe(tone(seconds=1.0))
    describe(tone(seconds=SHORTEST_S))
