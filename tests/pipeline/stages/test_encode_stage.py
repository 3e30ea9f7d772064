"""Laws of the encode stage: only what is new is encoded, and nothing shows it in the store."""

import logging
import re

import numpy as np
import pytest
import torch

from melodac.audio.files.read import read_audio
from melodac.errors import AudioError, UnreadableAudioError
from melodac.tokens.store.reader import open_store
from pipeline import paths
from pipeline.params import load_params
from pipeline.stages import encode
from tests.pipeline.encode_workplace import EncodeWorkplace, build_codec, track_id
from tests.tokens.store.stores import files_of

LENGTHS = [4000, 9000, 35_000, 20_001, 8 * 4096, 100]


@pytest.fixture
def make_workplace(tmp_path, monkeypatch, caplog):
    """A workplace in which the stage runs in this process, with a codec of hop 8."""
    monkeypatch.setattr(encode, "load_codec", lambda *args, **options: build_codec())
    caplog.set_level(logging.INFO)

    def make(name, lengths=LENGTHS, **options):
        place = EncodeWorkplace(tmp_path / name, **options)
        for number, length in enumerate(lengths):
            place.add(track_id(number), length)

        def run():
            place.write_table()
            monkeypatch.chdir(place.folder)
            caplog.clear()
            place.outcome = encode.run(load_params(paths.PARAMS))
            return said(caplog.text)

        place.run = run
        return place

    return make


def said(text):
    tracks = re.search(r"(\d+) of (\d+) tracks encoded, (\d+) from the cache", text)
    shards = re.search(r"(\d+) shards, (\d+) of them written anew", text)
    return [int(number) for number in tracks.groups()], [int(number) for number in shards.groups()]


def test_a_second_run_encodes_nothing_and_gives_the_same_bytes(make_workplace):
    place = make_workplace("one")
    tracks, (num_shards, num_written) = place.run()
    before, metrics = files_of(place.store), place.outcome.metrics
    assert tracks == [6, 6, 0]
    assert num_written == num_shards > 1
    assert place.run() == ([0, 6, 6], [num_shards, 0])
    assert (files_of(place.store), place.outcome.metrics) == (before, metrics)


def test_a_track_more_or_less_costs_that_track_alone(make_workplace):
    place = make_workplace("one")
    place.run()
    place.add(track_id(77), 5000)
    tracks, (_, num_written) = place.run()
    assert tracks == [1, 7, 6]
    assert 1 <= num_written <= 2  # its shard, or the two it was parted into
    fresh = make_workplace("fresh")
    fresh.add(track_id(77), 5000)
    fresh.run()
    assert files_of(place.store) == files_of(fresh.store)
    place.remove(track_id(2))
    tracks, (_, num_written) = place.run()
    assert tracks == [0, 6, 6]
    assert num_written <= 1


def test_the_store_holds_the_codes_of_the_codec(make_workplace):
    place = make_workplace("one")
    place.run()
    store = open_store(place.store)
    for name, row in place.rows.items():
        audio, _ = read_audio(place.audio(name), 10.0)
        expected = build_codec().encode(torch.from_numpy(audio))[0].numpy()
        assert np.array_equal(store.codes(name), expected)
        assert min(len(np.unique(codes)) for codes in expected) > 1 or row.num_samples < 1000
        assert store.num_frames(name) == -(-row.num_samples // 8)
    assert place.outcome.metrics["codes"] == place.outcome.metrics["frames"] * 3
    assert np.array_equal(store.vectors, build_codec().code_vectors().numpy())


@pytest.mark.parametrize(
    ("stereo", "channels"),
    [
        ("left_right", ("left", "right")),
        ("mid_side", ("mid", "side")),
        ("both", ("left", "right", "mid", "side")),
    ],
)
def test_stereo_is_encoded_signal_by_signal(make_workplace, stereo, channels):
    place = make_workplace("stereo", LENGTHS[:2], num_channels=2, stereo=stereo)
    place.run()
    store = open_store(place.store)
    assert (store.header.channels, store.header.codebooks) == (channels, (3,) * len(channels))
    for name in place.rows:
        left, right = read_audio(place.audio(name), 10.0)[0]
        signals = {"left": left, "right": right}
        signals |= {"mid": (left + right) / 2, "side": (left - right) / 2}
        for channel in channels:
            expected = build_codec().encode(torch.from_numpy(signals[channel][None]))[0].numpy()
            assert np.array_equal(store.codes(name)[store.header.columns(channel)], expected)


def test_signals_encoded_before_are_not_encoded_for_both(make_workplace, monkeypatch):
    place = make_workplace("stereo", LENGTHS[:2], num_channels=2, stereo="left_right")
    place.run()
    place.change_params(encode={"stereo": "both"})
    num_before = len(list((place.scratch / "codes").rglob("*/*")))
    place.run()
    assert num_before == 4
    assert len(list((place.scratch / "codes").rglob("*/*"))) == 8
    assert open_store(place.store).header.num_channels == 4


def test_the_number_of_workers_changes_no_byte(make_workplace):
    stores = []
    for workers in (1, 2, 5):
        place = make_workplace(f"workers{workers}")
        place.change_params(runtime={"workers": workers})
        place.run()
        stores.append(files_of(place.store))
    assert stores[0] == stores[1] == stores[2]


def test_tracks_of_equal_audio_are_encoded_once(make_workplace):
    place = make_workplace("twins", LENGTHS[:1])
    twin = "f" * 16
    place.audio(twin).write_bytes(place.audio(track_id(0)).read_bytes())
    place.rows[twin] = place.rows[track_id(0)].model_copy(update={"id": twin})
    tracks, _ = place.run()
    assert tracks == [1, 2, 1]
    store = open_store(place.store)
    assert np.array_equal(store.codes(twin), store.codes(track_id(0)))


@pytest.mark.parametrize("damage", ["header", "codes", "gone"])
def test_a_damaged_cache_is_encoded_again(make_workplace, damage):
    place = make_workplace("one")
    place.run()
    before = files_of(place.store)
    entry = min((place.scratch / "codes").rglob("*/*"))
    content = bytearray(entry.read_bytes())
    content[10 if damage == "header" else -3] ^= 1
    entry.write_bytes(content)
    if damage == "gone":
        entry.unlink()
    for shard in (place.scratch / "shards").iterdir():
        shard.unlink()
    place.run()
    assert files_of(place.store) == before
    assert place.run()[0] == [0, 6, 6]


def test_damaged_audio_is_named_and_its_neighbours_are_kept(make_workplace):
    place = make_workplace("one")
    name = track_id(5)
    content = bytearray(place.audio(name).read_bytes())
    content[-1] ^= 1
    place.audio(name).write_bytes(content)
    with pytest.raises(UnreadableAudioError, match=rf"{name}.flac is damaged: .*force normalize"):
        place.run()
    place.audio(name).unlink()
    with pytest.raises(UnreadableAudioError, match=rf"{name}.flac is missing: run"):
        place.run()
    assert not place.store.exists()
    place.add(name, LENGTHS[5])
    assert 1 <= place.run()[0][0] < 6


def test_mono_and_stereo_do_not_go_into_one_store(make_workplace):
    place = make_workplace("mixed", LENGTHS[:1])
    place.num_channels = 2
    place.add(track_id(50), 4000)
    with pytest.raises(AudioError, match=r"tracks of \[1, 2\] channels, a store holds one kind"):
        place.run()


def test_much_sound_is_encoded_by_a_compiled_codec_to_the_same_bytes(make_workplace, monkeypatch):
    plain, compiled = make_workplace("plain", LENGTHS[:2]), make_workplace("much", LENGTHS[:2])
    plain.run()
    asked = []

    def load(*args, **options):
        asked.append(options.get("compiled", False))
        return build_codec()

    monkeypatch.setattr(encode, "load_codec", load)
    monkeypatch.setattr(encode, "can_compile", lambda: True)
    monkeypatch.setattr(encode, "PAYS_FROM_S", sum(LENGTHS[:2]) / 44_100 - 0.01)
    compiled.run()
    compiled.run()  # nothing is left to encode
    assert asked == [False, True, False]
    assert files_of(compiled.store) == files_of(plain.store)
