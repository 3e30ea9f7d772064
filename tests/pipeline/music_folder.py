"""Small folders of music, and the params to run stages on them; for tests of stages."""

from pathlib import Path

import numpy as np

from melodac.audio.files.write import write_flac
from pipeline.params import load_params
from tests.audio.sounds import write_wav

ROOT = Path(__file__).resolve().parents[2]
RATE_HZ = 22_050


def tone(seed, duration_s=1.2, *, channels=1, level=0.3, rate_hz=RATE_HZ):
    """A chord over a little noise, another for each seed."""
    rng = np.random.default_rng(seed)
    time_s = np.arange(int(duration_s * rate_hz)) / rate_hz
    notes = np.sin(2 * np.pi * rng.uniform(100, 800, (channels, 3, 1)) * time_s).sum(axis=1)
    sound = notes / 3 + 0.01 * rng.standard_normal(notes.shape)
    return (level * sound).astype(np.float32)


def write_track(path, seed, duration_s=1.2, *, rate_hz=RATE_HZ, **more):
    writer = write_flac if path.suffix == ".flac" else write_wav
    writer(path, tone(seed, duration_s, rate_hz=rate_hz, **more), rate_hz, "PCM_16")


def params_for(source, *, workers=1, **sections):
    """The repository's params for another source, changed as `section={"key": value}`."""
    params = load_params(ROOT / "params.yaml")
    sections.setdefault("ingest", {}).update(source=str(source))
    sections.setdefault("runtime", {}).update(workers=workers)
    if "window_frames" in sections.get("index", {}):
        sections.setdefault("train", {}).setdefault("context", ())
    changed = {
        name: getattr(params, name).model_copy(update=keys) for name, keys in sections.items()
    }
    return params.model_copy(update=changed)


def fingerprint_folder(root):
    """Every path below a folder with its bytes and times."""
    return {
        str(path.relative_to(root)): (
            path.read_bytes() if path.is_file() else b"",
            path.lstat().st_mtime_ns,
        )
        for path in sorted(root.rglob("*"))
    }
