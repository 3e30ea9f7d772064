# ruff: noqa: T201  its tables are printed
"""The encode stage killed at random moments, and many tracks of which one is new.

The real stage, as DVC starts it, with the bundled codec. A kill is drawn from a seed that is
printed; the finished store must be the one of an undisturbed run, byte for byte, and no track that
was done before a kill may be encoded again.
"""

import random
import re
import shutil
import time

import pytest

from tests.pipeline.encode_workplace import EncodeWorkplace, track_id
from tests.tokens.store.stores import files_of

pytestmark = pytest.mark.slow
KILLS = 20
SEED = 20_240_607
LENGTHS = [44_100 * (1 + number % 4) for number in range(14)]


@pytest.fixture(scope="module")
def undisturbed(tmp_path_factory):
    """A finished workplace, and the seconds from the first encoded track to the end."""
    place = EncodeWorkplace(tmp_path_factory.mktemp("kills") / "undisturbed")
    for number, length in enumerate(LENGTHS):
        place.add(track_id(number), length)
    place.write_table()
    place.work_s = min(run_and_time(place) for _ in range(2))
    return place


def run_and_time(place):
    shutil.rmtree(place.scratch, ignore_errors=True)
    shutil.rmtree(place.store, ignore_errors=True)
    stage = place.start()
    wait_for_work(place, stage)
    started_s = time.monotonic()
    said = stage.communicate()[1]
    assert stage.returncode == 0, said
    return time.monotonic() - started_s


def wait_for_work(place, stage):
    """Until the stage holds its folder, which is when it starts to encode."""
    while not (place.scratch / "partial").exists():
        assert stage.poll() is None, stage.stderr.read()
        time.sleep(0.002)


def done_tracks(place):
    return len(list((place.scratch / "codes").rglob("*/*")))


def leftovers(place):
    hidden = [path.name for path in (place.store.parent).iterdir() if path.name != "tokens"]
    return hidden + [path.name for path in (place.scratch / "partial").iterdir()]


def kill_and_finish(place, delay_s):
    """Kill one run, finish another; what was done at the kill, and what the finishing run said."""
    shutil.rmtree(place.scratch, ignore_errors=True)
    shutil.rmtree(place.store, ignore_errors=True)
    stage = place.start()
    wait_for_work(place, stage)
    time.sleep(delay_s)
    stage.kill()
    stage.communicate()
    done, had_store = done_tracks(place), place.store.exists()
    said = place.encode()
    encoded, total, cached = (
        int(number)
        for number in re.search(r"(\d+) of (\d+) tracks encoded, (\d+) from", said).groups()
    )
    assert (encoded + cached, total) == (len(LENGTHS), len(LENGTHS))
    return done, cached, had_store


def test_a_killed_run_ends_with_the_same_store_and_loses_no_track(undisturbed):
    chance = random.Random(SEED)
    expected = files_of(undisturbed.store)
    print(f"\nseed {SEED}, {undisturbed.work_s:.2f} s of work in {len(LENGTHS)} tracks")
    print("kill  after s  tracks done  found again  same store  leftovers")
    kept = 0
    for kill in range(KILLS):
        delay_s = chance.uniform(0, undisturbed.work_s)
        done, cached, had_store = kill_and_finish(undisturbed, delay_s)
        is_same = files_of(undisturbed.store) == expected
        left = leftovers(undisturbed)
        print(f"{kill:4}  {delay_s:7.2f}  {done:11}  {cached:11}  {is_same!s:10}  {left or 'none'}")
        assert is_same, f"seed {SEED}, kill {kill}"
        assert cached == done, f"seed {SEED}, kill {kill}: work was lost"
        assert not left
        kept += not had_store and 0 < done < len(LENGTHS)
    assert kept >= KILLS // 4, "the kills did not fall into the work"


def test_of_a_thousand_tracks_and_one_only_that_one_is_encoded(tmp_path):
    place = EncodeWorkplace(tmp_path / "thousand")
    for number in range(1000):
        place.add(track_id(number), 22_050 + 13 * number % 1000)
    place.write_table()
    times_s, reports = [], []
    for step in ("first", "again", "one more", "one less"):
        if step == "one more":
            place.add(track_id(5000), 30_000)
        if step == "one less":
            place.remove(track_id(321))
        place.write_table()
        started_s = time.monotonic()
        said = place.encode()
        times_s.append(time.monotonic() - started_s)
        tracks = re.search(r"(\d+) of (\d+) tracks encoded, (\d+) from the cache", said)
        shards = re.search(r"(\d+) shards, (\d+) of them written anew", said)
        stage_s = float(re.search(r"done in ([\d.]+) s", said).group(1))
        reports.append([int(n) for n in (*tracks.groups(), *shards.groups())])
        print(f"\n{step}: {tracks.group()}; {shards.group()}; {stage_s} s", end="")
        if step == "again":
            before = files_of(place.store)
        if step == "one more":
            changed = changed_shards(before, files_of(place.store))
            print(f"; {changed} shards with other bytes", end="")
            assert changed <= 2
    assert reports[0][:3] == [1000, 1000, 0]
    assert reports[1][:3] == [0, 1000, 1000]
    assert reports[2][:3] == [1, 1001, 1000]
    assert reports[3][:3] == [0, 1000, 1000]
    num_shards = reports[0][3]
    assert num_shards > 10
    assert reports[1][4] == 0
    assert 1 <= reports[2][4] <= 2
    assert reports[3][4] <= 1
    assert times_s[2] < times_s[0] / 2


def changed_shards(before, after):
    old = {content for name, content in before.items() if name.startswith("codes/c/")}
    return sum(content not in old for name, content in after.items() if name.startswith("codes/c/"))
