"""Recordings for training and measuring a codec.

A source is a folder of music, or a folder with the results of `ingest` and `normalize` (`data`),
whose catalogue decides what is held out.
"""

from collections.abc import Iterator, Sequence
from pathlib import Path

from melodac.codec_training.clips import TARGET_LUFS, Clip, FlacFile, Recording, load_clips
from melodac.errors import ConfigError
from pipeline import paths
from pipeline.records import NormalizedRecord, TrackRecord, read_catalogue, read_normalized

_NORMALIZED_HZ = 44_100
MOST_MEASURED = 200
"""Most held-out recordings of one source that are measured, spread evenly over it."""
EXCERPT_S = 30.0
"""Duration of the excerpt from the middle of each recording that is measured."""


def open_source(folder: Path, sample_rate_hz: int) -> list[Recording]:
    """List the recordings of a folder of music or of a catalogue.

    Raises:
        ConfigError: If the catalogue was normalised at another rate.
    """
    if is_catalogue(folder):
        if sample_rate_hz != _NORMALIZED_HZ:
            raise ConfigError(
                f"{folder} is normalised at {_NORMALIZED_HZ} Hz, the codec "
                f"needs {sample_rate_hz} Hz: give the folder of music itself as source"
            )
        return list(_catalogue_files(folder))
    return list(load_clips(folder, sample_rate_hz))


def is_catalogue(folder: Path) -> bool:
    """Check that a folder holds the results of `ingest` and `normalize` for music (not codes)."""
    needed = (paths.CATALOGUE, paths.NORMALIZED_TABLE, paths.NORMALIZED_AUDIO)
    return all(_within(folder, path).exists() for path in needed)


def held_out_clips(recordings: Sequence[Recording], sample_rate_hz: int) -> list[Clip]:
    """Read the excerpts to measure on, mixed down to one channel."""
    held_out = [recording for recording in recordings if recording.held_out]
    step = -(-len(held_out) // MOST_MEASURED) or 1
    return [_excerpt(recording, sample_rate_hz) for recording in held_out[::step]]


def _catalogue_files(folder: Path) -> Iterator[FlacFile]:
    tracks = {track.id: track for track in read_catalogue(_within(folder, paths.CATALOGUE))}
    for row in read_normalized(_within(folder, paths.NORMALIZED_TABLE)):
        if row.id not in tracks:
            raise ConfigError(
                f"{folder}: track {row.id} is normalised but not in the catalogue: run normalize "
                "again"
            )
        yield _flac_file(folder, tracks[row.id], row)


def _flac_file(folder: Path, track: TrackRecord, row: NormalizedRecord) -> FlacFile:
    # a track whose gain was capped could not be raised without clipping: its level stays
    gain_db = 0.0 if row.is_gain_capped else TARGET_LUFS - row.loudness_after_lufs
    return FlacFile(
        path=_within(folder, paths.NORMALIZED_AUDIO) / f"{row.id}.flac",
        name=track.path,
        num_samples=row.num_samples,
        held_out=track.split != "train",
        gain_db=gain_db,
    )


def _within(folder: Path, path: Path) -> Path:
    return folder / path.relative_to(paths.DATA)


def _excerpt(recording: Recording, sample_rate_hz: int) -> Clip:
    length = min(recording.num_samples, round(EXCERPT_S * sample_rate_hz))
    start = (recording.num_samples - length) // 2
    samples = recording.read(start, start + length).mean(0)
    return Clip(recording.name, samples, held_out=True)
