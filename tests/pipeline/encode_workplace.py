"""A folder in which the real encode stage runs on normalised audio that is made here."""

import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import soundfile
import torch
from ruamel.yaml import YAML

from melodac.files import hash_file
from pipeline import paths
from pipeline.records import NormalizedRecord, write_normalized
from tests.codec.conftest import build_tiny

ROOT = Path(__file__).resolve().parents[2]
RATE_HZ = 44_100


def build_codec():
    """The tiny codec of hop 8, without the biases that drown quiet sound in one and the same code."""
    codec = build_tiny()
    with torch.inference_mode():
        for name, parameter in codec.model.named_parameters():
            if "bias" in name:
                parameter.zero_()
    return codec


def make_flac(path, num_samples, seed, num_channels=1):
    """Noise that swells, so that no two codes in a row need be alike."""
    generator = np.random.default_rng(seed)
    time_s = np.arange(num_samples) / RATE_HZ
    tone = np.sin(2 * np.pi * (110 * (1 + seed % 7)) * time_s)[:, None]
    noise = generator.standard_normal((num_samples, num_channels)) * 0.1
    path.parent.mkdir(parents=True, exist_ok=True)
    soundfile.write(path, 0.3 * tone + noise, RATE_HZ, subtype="PCM_24")


class EncodeWorkplace:
    """Run `python pipeline/run.py encode` here as DVC would."""

    def __init__(self, folder, *, num_channels=1, **encode):
        self.folder = folder
        self.num_channels = num_channels
        self.rows = {}
        folder.mkdir(parents=True, exist_ok=True)
        (folder / "dvc.yaml").write_bytes((ROOT / "dvc.yaml").read_bytes())
        (folder / "params.yaml").write_bytes((ROOT / "params.yaml").read_bytes())
        self.change_params(
            encode={"frames_per_shard": 4096, **encode},
            runtime={"workers": 2, "device": "cpu", "wandb": "off"},
        )

    def change_params(self, **sections):
        yaml = YAML()
        params = yaml.load((self.folder / "params.yaml").read_text())
        for section, values in sections.items():
            params[section].update(values)
        with (self.folder / "params.yaml").open("w") as file:
            yaml.dump(params, file)

    @property
    def store(self):
        return self.folder / paths.TOKENS

    @property
    def scratch(self):
        return self.folder / ".scratch" / "encode"

    def audio(self, track_id):
        return self.folder / paths.NORMALIZED_AUDIO / f"{track_id}.flac"

    def add(self, track_id, num_samples):
        """Put a track where the normalize stage would."""
        path = self.audio(track_id)
        make_flac(path, num_samples, int(track_id, 16) % 2**32, self.num_channels)
        self.rows[track_id] = NormalizedRecord(
            id=track_id,
            sha256=hash_file(path),
            num_samples=num_samples,
            num_channels=self.num_channels,
            start_sample=0,
            gain_db=0.0,
            loudness_before_lufs=-16.0,
            loudness_after_lufs=-16.0,
            peak_dbtp=-3.0,
            is_gain_capped=False,
        )

    def remove(self, track_id):
        del self.rows[track_id]
        self.audio(track_id).unlink()

    def write_table(self):
        write_normalized(self.folder / paths.NORMALIZED_TABLE, list(self.rows.values()))

    def start(self, stage="encode"):
        return subprocess.Popen(
            [sys.executable, str(ROOT / "pipeline" / "run.py"), stage],
            cwd=self.folder,
            env={**os.environ, "MELODAC_PREFECT": "off", "OMP_WAIT_POLICY": "PASSIVE"},
            stderr=subprocess.PIPE,
            text=True,
            stdin=subprocess.DEVNULL,
        )

    def encode(self):
        """Run the stage to its end and return what it said."""
        stage = self.start()
        said = stage.communicate()[1]
        assert stage.returncode == 0, said
        return said


def track_id(number):
    return f"{number * 0x9E3779B97F4A7C15 % 2**64:016x}"
