"""Laws of verify and repair: damage is named, and repairing it gives back the very bytes."""

import shutil

import pytest

from melodac.errors import CodecError, StoreCorruptError, UnreadableAudioError
from melodac.tokens.store.reader import open_store
from pipeline import paths
from pipeline.commands import repair as repairing
from pipeline.commands.repair import repair, verify
from pipeline.params import load_params
from pipeline.records import write_normalized
from pipeline.source.handover import HANDED_ON
from pipeline.stages import encode
from tests.pipeline.encode_workplace import EncodeWorkplace, build_codec, track_id
from tests.tokens.store.stores import files_of

LENGTHS = [4000, 9000, 35_000, 20_001, 8 * 4096, 100]


@pytest.fixture
def place(tmp_path, monkeypatch):
    """A finished store of tracks, one of them longer than a shard."""
    for module in (encode, repairing):
        monkeypatch.setattr(module, "load_codec", lambda *args, **options: build_codec())
    place = EncodeWorkplace(tmp_path / "place")
    for number, length in enumerate(LENGTHS):
        place.add(track_id(number), length)
    place.write_table()
    monkeypatch.chdir(place.folder)
    encode.run(load_params(paths.PARAMS))
    place.whole = files_of(place.store)
    return place


def store_damage():
    return [line for line in verify()[1] if line.startswith("token store")]


def shards_of(place, name):
    """Files that hold a frame of a track."""
    found = []
    for shard in sorted((place.store / "codes/c").iterdir(), key=lambda folder: int(folder.name)):
        content = (shard / "0").read_bytes()
        (shard / "0").unlink()
        (line,) = store_damage()
        if name in line:
            found.append(shard / "0")
        (shard / "0").write_bytes(content)
    return found


def flip(shard):
    content = bytearray(shard.read_bytes())
    content[len(content) // 2] ^= 16
    shard.write_bytes(content)


def cut(shard):
    shard.write_bytes(shard.read_bytes()[:-5])


def swap(shard):
    other = next(s for s in shard.parents[1].rglob("0") if s.is_file() and s != shard)
    content = other.read_bytes()
    other.write_bytes(shard.read_bytes())
    shard.write_bytes(content)


def link(shard):
    shard.rename(shard.parents[4] / "elsewhere")
    shard.symlink_to(shard.parents[4] / "elsewhere")


def forget(place):
    """Everything a repair could fall back on."""
    shutil.rmtree(place.scratch)


@pytest.mark.parametrize("damage", [flip, cut, swap, link, lambda shard: shard.unlink()])
def test_damage_is_named_and_repaired_to_the_very_bytes(place, damage):
    damage(place.store / "codes/c/1/0")
    (line, *more) = store_damage()
    assert "codes/c/" in line
    assert "(holds " in line
    forget(place)
    done = repair(load_params(paths.PARAMS))
    assert files_of(place.store) == place.whole
    assert not any(file.is_symlink() for file in place.store.rglob("*"))
    assert store_damage() == []
    assert done[-1].endswith("is whole: 6 tracks")
    assert f"{1 + len(more)} shards written anew" in done[-2]


def test_exactly_the_tracks_of_the_damaged_shards_are_encoded(place):
    long = track_id(4)
    assert len(shards_of(place, track_id(2))) == 2
    shards = shards_of(place, long)
    held = [name for name in place.rows if set(shards_of(place, name)) & set(shards)]
    flip(shards[0])
    forget(place)
    for name in place.rows:
        if name not in held:
            place.audio(name).unlink()
    done = repair(load_params(paths.PARAMS))
    assert f"1 shards written anew, {len(held)} of their {len(held)} tracks encoded" in done[-2]
    assert files_of(place.store) == place.whole


def test_codes_of_the_cache_are_not_encoded_again(place):
    flip(place.store / "codes/c/0/0")
    shutil.rmtree(place.folder / paths.NORMALIZED_AUDIO)
    done = repair(load_params(paths.PARAMS))
    assert "0 of their" in done[-2]
    assert files_of(place.store) == place.whole


def test_a_file_that_is_not_the_stores_is_removed(place):
    (place.store / "codes" / "notes.txt").write_text("x")
    assert "notes.txt is not in the manifest" in store_damage()[0]
    repair(load_params(paths.PARAMS))
    assert files_of(place.store) == place.whole


def test_a_whole_store_is_left_alone(place):
    assert "whole, nothing to repair" in repair(load_params(paths.PARAMS))[0]


@pytest.mark.parametrize("name", ["manifest.json", "tracks.json", "codes/zarr.json"])
@pytest.mark.parametrize("damage", [cut, lambda file: file.unlink()])
def test_without_knowing_what_it_held_all_of_it_is_written_anew(place, name, damage):
    damage(place.store / name)
    assert name in store_damage()[0]
    done = repair(load_params(paths.PARAMS))
    assert "written anew from all 6 tracks" in done[-2]
    assert files_of(place.store) == place.whole


def test_a_lost_store_is_written_anew(place):
    shutil.rmtree(place.store)
    repair(load_params(paths.PARAMS))
    assert files_of(place.store) == place.whole


@pytest.mark.parametrize(
    ("harm", "message"),
    [
        (lambda place, name: place.audio(name).unlink(), r"{}.flac is missing: .*normalize"),
        (lambda place, name: flip(place.audio(name)), r"{}.flac is damaged: .*normalize"),
        (
            lambda place, name: (place.folder / paths.NORMALIZED_TABLE).unlink(),
            r"normalized.parquet is missing, so track .* cannot be encoded: .*normalize",
        ),
        (
            lambda place, name: (place.remove(name), place.write_table()),
            r"1 damaged tracks are not in .*, the first is {}: .*normalize",
        ),
    ],
)
def test_audio_that_is_gone_is_named_and_the_store_left_as_it_is(place, harm, message):
    name = track_id(2)
    flip(shards_of(place, name)[0])
    forget(place)
    before = files_of(place.store)
    harm(place, name)
    with pytest.raises(UnreadableAudioError, match=message.format(name)):
        repair(load_params(paths.PARAMS))
    assert files_of(place.store) == before
    assert [entry.name for entry in place.store.parent.iterdir()] == ["tokens"]


def test_another_codec_cannot_repair(place, monkeypatch):
    flip(place.store / "codes/c/0/0")
    codec = build_codec()
    codec.weights_sha256 = "1" * 64
    monkeypatch.setattr(repairing, "load_codec", lambda *args, **options: codec)
    with pytest.raises(CodecError, match=r"encoded by codec 'tiny' \(0{12}\).*set it back"):
        repair(load_params(paths.PARAMS))


def test_other_codes_than_were_stored_are_refused(place):
    name = track_id(2)
    flip(shards_of(place, name)[0])
    place.audio(name).write_bytes(place.audio(track_id(4)).read_bytes())
    place.rows[name] = place.rows[track_id(4)].model_copy(update={"id": name})
    place.write_table()
    with pytest.raises(StoreCorruptError, match="now give other codes"):
        repair(load_params(paths.PARAMS))


def test_verify_names_damaged_and_missing_audio(place):
    whole, damaged = verify()
    assert [line.split(":")[0] for line in whole] == ["normalised audio", "token store"]
    assert damaged[0].startswith("checkpoints: ")
    flip(place.audio(track_id(0)))
    place.audio(track_id(1)).unlink()
    damaged = verify()[1]
    assert any(f"{track_id(0)}.flac has other bytes than were written" in d for d in damaged)
    assert any(f"{track_id(1)}.flac is missing" in d for d in damaged)
    shutil.rmtree(paths.NORMALIZED)
    assert not any("normalised" in line for lines in verify() for line in lines)


def test_verify_asks_an_import_for_no_audio(place):
    shutil.rmtree(paths.NORMALIZED)
    HANDED_ON.mkdir(parents=True)
    write_normalized(paths.NORMALIZED_TABLE, [])
    assert not any("normalised" in line for lines in verify() for line in lines)


def test_the_last_shard_of_a_repaired_store_opens(place):
    flip(max((place.store / "codes/c").rglob("0")))
    repair(load_params(paths.PARAMS))
    assert open_store(place.store).track_ids == tuple(sorted(place.rows))
