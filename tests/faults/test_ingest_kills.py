"""Ingest that is killed at any moment goes on with what it knows, and ends with the same bytes."""

import os
import random
import signal
import subprocess
import sys
import time

import pytest

from pipeline import paths
from tests.pipeline.music_folder import ROOT, write_track

PROGRAM = """
import sys
sys.path[:0] = [{root!r}, {src!r}]
if __name__ == "__main__":
    from pathlib import Path

    from pipeline.logs import set_up_logging
    from pipeline.params import load_params
    from pipeline.stages import ingest

    params = load_params(Path({root!r}) / "params.yaml")
    keys = {{"source": {music!r}, "min_validation_s": 0.0}}
    set_up_logging()
    ingest.run(
        params.model_copy(
            update={{
                "ingest": params.ingest.model_copy(update=keys),
                "runtime": params.runtime.model_copy(update={{"workers": 2}}),
            }}
        )
    )
"""
OUTPUTS = (paths.CATALOGUE, paths.INGEST_GROUPS, paths.INGEST_REPORT)
NUM_TRACKS = 40
NUM_KILLS = 4


def start(folder, music):
    folder.mkdir(exist_ok=True)
    program = folder / "program.py"
    program.write_text(PROGRAM.format(root=str(ROOT), src=str(ROOT / "src"), music=str(music)))
    environment = {name: value for name, value in os.environ.items() if name != "DVC_ROOT"}
    return subprocess.Popen(
        [sys.executable, str(program)],
        cwd=folder,
        env=environment,
        stderr=subprocess.PIPE,
        text=True,
        start_new_session=True,
    )


def read_outputs(folder):
    return [(folder / path).read_bytes() for path in OUTPUTS]


@pytest.mark.slow
def test_killed_at_random_moments_it_ends_as_if_never_disturbed(tmp_path):
    music = tmp_path / "music"
    music.mkdir()
    for seed in range(NUM_TRACKS):
        write_track(music / f"{seed}.flac", seed, 4.0)
    whole = start(tmp_path / "undisturbed", music)
    began = time.monotonic()
    assert "0 of 40 audio files were known" in whole.communicate(timeout=120)[1]
    needed_s = time.monotonic() - began
    moments = random.Random(0)
    for _ in range(NUM_KILLS):
        victim = start(tmp_path / "killed", music)
        time.sleep(moments.uniform(0.3, 1.0) * needed_s)
        os.killpg(victim.pid, signal.SIGKILL)
        victim.communicate(timeout=60)
    last = start(tmp_path / "killed", music)
    log = last.communicate(timeout=120)[1]
    assert last.returncode == 0, log
    assert ": 0 of 40 audio files were known" not in log
    assert read_outputs(tmp_path / "killed") == read_outputs(tmp_path / "undisturbed")
