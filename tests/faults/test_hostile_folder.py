"""A folder of everything that goes wrong: each file one true verdict, the same for any workers."""

import csv
import hashlib
import threading
import time

import psutil
import pytest

from pipeline import paths
from pipeline.records import read_catalogue
from pipeline.stages import ingest
from tests.faults import damaged, entries, sound_formats
from tests.pipeline.music_folder import params_for

CASES = [*sound_formats.PLAIN, *sound_formats.ODD, *damaged.ALL, *entries.ALL]
LIMITS = {"min_duration_s": 1.0, "max_duration_s": 60.0, "near_duplicate_similarity": 0.0}
MAX_MEMORY_BYTES = 1_000_000_000


@pytest.fixture(scope="module")
def music(tmp_path_factory):
    root = tmp_path_factory.mktemp("hostile") / "music"
    for case in CASES:
        path = root / case.name
        path.parent.mkdir(parents=True, exist_ok=True)
        case.make(path)
    return root


def fingerprint(root):
    """Kind, time and content of everything below a folder."""
    return {
        path.relative_to(root): (
            path.lstat().st_mode,
            path.lstat().st_mtime_ns,
            hashlib.sha256(path.read_bytes()).digest()
            if path.is_file() and not path.is_symlink()
            else b"",
        )
        for path in root.rglob("*")
    }


class MemoryWatch:
    """Largest memory of this process and all below it, while in use."""

    def __enter__(self):
        self.peak_bytes, self._is_over = 0, threading.Event()
        # other tests of this process may hold a lot
        self._before_bytes = _held_bytes()
        self._thread = threading.Thread(target=self._watch)
        self._thread.start()
        return self

    def __exit__(self, *_):
        self._is_over.set()
        self._thread.join()

    def _watch(self):
        while not self._is_over.wait(0.05):
            self.peak_bytes = max(self.peak_bytes, _held_bytes() - self._before_bytes)


def _held_bytes():
    """Of this process and all it started."""
    me = psutil.Process()
    total = me.memory_info().rss
    for child in me.children(recursive=True):
        try:
            total += child.memory_info().rss
        except psutil.NoSuchProcess:
            continue
    return total


def ingest_from_scratch(music, place, workers):
    place.mkdir()
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(place)
        patch.delenv("DVC_ROOT", raising=False)
        started_s = time.monotonic()
        with MemoryWatch() as memory:
            ingest.run(params_for(music, workers=workers, ingest=dict(LIMITS)))
        print(  # noqa: T201  the figures are the point
            f"\n{workers} workers: {time.monotonic() - started_s:.1f} s, "
            f"added at the peak by all processes {memory.peak_bytes / 1e6:.0f} MB"
        )
        with paths.INGEST_REPORT.open(encoding="utf-8", newline="") as file:
            rows = [(row["path"], row["verdict"], row["reason"]) for row in csv.DictReader(file)]
        seconds = {track.path: track.duration_s for track in read_catalogue(paths.CATALOGUE)}
        written = (paths.INGEST_REPORT.read_bytes(), paths.CATALOGUE.read_bytes())
    return rows, seconds, written, memory.peak_bytes


def test_the_folder_is_hostile_enough():
    names = [case.name for case in CASES]
    assert len(set(names)) == len(names)
    assert sum(case.verdict != "accept" for case in CASES) >= 60


@pytest.mark.slow
def test_every_file_of_a_hostile_folder_gets_its_one_true_verdict(music, tmp_path):
    before = fingerprint(music)
    rows, seconds, written, peak_bytes = ingest_from_scratch(music, tmp_path / "one", workers=1)
    verdicts = {path: (verdict, reason) for path, verdict, reason in rows}
    assert len(verdicts) == len(rows)
    assert set(verdicts) == {case.shown or case.name for case in CASES}
    for case in CASES:
        verdict, reason = verdicts[case.shown or case.name]
        assert verdict == case.verdict, (case.name, reason)
        assert reason.startswith(case.reason), case.name
        if verdict == "accept":
            surplus_s = seconds[case.name] - case.duration_s
            assert -1e-9 <= surplus_s <= case.tolerance_s + 1e-9, case.name
    assert peak_bytes < MAX_MEMORY_BYTES
    for place, workers in (("two", 2), ("again", 2)):
        _, _, same, peak_bytes = ingest_from_scratch(music, tmp_path / place, workers)
        assert same == written
        assert peak_bytes < MAX_MEMORY_BYTES
    assert fingerprint(music) == before
