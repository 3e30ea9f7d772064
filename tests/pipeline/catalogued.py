"""A catalogue of a folder of music without running ingest, for tests of the stages after it."""

import soundfile

from melodac.files import hash_file
from pipeline import paths
from pipeline.records import TrackRecord, write_catalogue


def catalogue(folder):
    """Write the catalogue of every file in a folder."""
    files = sorted(path for path in folder.rglob("*") if path.is_file())
    write_catalogue(paths.CATALOGUE, [_to_track(folder, path) for path in files])


def _to_track(folder, path):
    info = soundfile.info(path)
    # what these stages do not read is empty
    texts = {
        name: "" for name, field in TrackRecord.model_fields.items() if field.annotation is str
    }
    known = {
        "id": hash_file(path)[:16],
        "path": path.relative_to(folder).as_posix(),
        "group": path.stem,
        "split": "train",
        "duration_s": info.frames / info.samplerate,
        "sample_rate_hz": info.samplerate,
        "num_channels": info.channels,
        "loudness_lufs": -20.0,
        "peak_dbfs": -1.0,
        "tags": {},
        "tag_sources": {},
    }
    return TrackRecord(**{**texts, **known})
