"""A store that was repaired is, to DVC, the one that its stage wrote."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

from tests.pipeline.encode_workplace import ROOT, EncodeWorkplace, track_id
from tests.tokens.store.stores import files_of

pytestmark = pytest.mark.slow
DVC_YAML = f"""
stages:
  encode:
    cmd: {sys.executable} {ROOT / "pipeline" / "run.py"} encode
    deps: [data/normalize]
    outs: [data/encode/tokens]
"""
REPAIR = """
from pipeline.params import load_params
from pipeline.paths import PARAMS
from pipeline.commands.repair import repair
print(*repair(load_params(PARAMS)), sep="\\n")
"""


@pytest.fixture
def place(tmp_path):
    place = EncodeWorkplace(tmp_path / "place")
    for number in range(7):
        place.add(track_id(number), 44_100 * 8)
    place.write_table()
    (place.folder / "dvc.yaml").write_text(DVC_YAML)
    run(place, "dvc", "init", "--no-scm", "-q")
    return place


def run(place, *command):
    done = subprocess.run(
        command,
        cwd=place.folder,
        env={
            **os.environ,
            "PATH": os.pathsep.join([str(Path(sys.executable).parent), os.environ["PATH"]]),
            "PYTHONPATH": os.pathsep.join([str(ROOT), str(ROOT / "src")]),
            "DVC_NO_ANALYTICS": "1",
            "MELODAC_PREFECT": "off",
            "OMP_WAIT_POLICY": "PASSIVE",
        },
        capture_output=True,
        text=True,
        stdin=subprocess.DEVNULL,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout + done.stderr


def test_dvc_sees_damage_and_after_the_repair_nothing(place):
    run(place, "dvc", "repro")
    whole = files_of(place.store)
    assert "up to date" in run(place, "dvc", "status")
    shard = place.store / "codes/c/1/0"
    content = bytearray(shard.read_bytes())
    content[len(content) // 2] ^= 1
    shard.unlink()  # DVC may share the bytes with its cache
    shard.write_bytes(content)
    assert "modified" in run(place, "dvc", "status")
    said = run(place, sys.executable, "-c", REPAIR)
    assert "codes/c/1/0 has other bytes than were written (holds" in said
    assert "1 shards written anew, 0 of their" in said
    assert files_of(place.store) == whole
    assert "up to date" in run(place, "dvc", "status")
    assert "didn't change, skipping" in run(place, "dvc", "repro")


def test_after_a_change_dvc_runs_the_stage_and_one_track_is_encoded(place):
    run(place, "dvc", "repro")
    place.add(track_id(100), 44_100)
    place.write_table()
    assert "1 of 8 tracks encoded, 7 from the cache" in run(place, "dvc", "repro")
