"""Music for codec training: whole groups held out, one level, crops from memory or by seeking."""

import numpy as np
import pytest
import soundfile
import torch

from melodac.audio.level.loudness import measure_loudness
from melodac.codec_training import clips as clips_module
from melodac.codec_training.clips import Clip, CropSource, FlacFile, is_held_out, load_clips
from melodac.errors import AudioError, ConfigError

LENGTH = 4096
"""Samples of a crop."""


def test_groups_are_never_parted(music):
    by_group: dict[int, set[bool]] = {}
    for clip in load_clips(music, 44_100):
        by_group.setdefault(int(clip.name[:2]) // 2, set()).add(clip.held_out)
    assert all(len(sides) == 1 for sides in by_group.values())
    assert {True, False} == set.union(*by_group.values())


def test_about_a_tenth_of_all_groups_is_held_out():
    assert 800 < sum(is_held_out(f"group {index}") for index in range(10_000)) < 1200


def test_a_long_recording_gives_its_end(tmp_path):
    soundfile.write(tmp_path / "long.wav", 0.1 * np.ones(50 * 44_100), 44_100)
    start, end = load_clips(tmp_path, 44_100)
    assert (start.held_out, end.held_out) == (False, True)
    assert len(end.samples) == 12 * 44_100
    assert len(start.samples) == 38 * 44_100


def test_a_split_column_says_what_is_held_out_and_parts_nothing(tmp_path):
    rows = ["file_name,group,split"]
    for index, split in enumerate(["train", "validation", "test", "train", ""]):
        samples = 0.1 * np.ones(50 * 44_100 if index == 3 else 5000)
        soundfile.write(tmp_path / f"{index}.wav", samples, 44_100)
        rows.append(f"{index}.wav,{split},{split}")
    (tmp_path / "metadata.csv").write_text("\n".join(rows))
    clips = load_clips(tmp_path, 44_100)
    found = {clip.name: clip.held_out for clip in clips}
    assert len(clips) == 5  # a long one whose row says `train` gives no end
    assert [found[f"{index}.wav"] for index in range(4)] == [False, True, True, False]
    assert found["4.wav"] == is_held_out("4.wav")  # a row that says nothing: by hash


def test_crops_never_come_from_held_out_recordings(tmp_path, training_config):
    for index in range(30):
        samples = np.full(5000, 0.5)
        if is_held_out(f"{index}.wav"):
            samples[::2] *= -1
        soundfile.write(tmp_path / f"{index}.wav", samples, 44_100, subtype="FLOAT")
    config = training_config.model_copy(
        update={"mix_probability": 0.0, "noise_probability": 0.0, "batch_size": 50}
    )
    crops = CropSource([load_clips(tmp_path, 44_100)], config, LENGTH)
    generator = torch.Generator().manual_seed(0)
    steps = crops.draw(generator).diff(dim=-1).abs().amax(1)
    assert steps.max() < 1e-3  # held-out files alternate, the others are constant


def test_silence_and_clips_shorter_than_a_crop_are_drawn(tmp_path, training_config):
    soundfile.write(tmp_path / "b.wav", np.zeros(100), 44_100)
    crops = CropSource([load_clips(tmp_path, 44_100)], training_config, LENGTH)
    assert crops.draw(torch.Generator().manual_seed(0)).shape == (2, LENGTH)


def test_a_share_of_crops_is_noise_of_the_level_of_music(training_config):
    music = Clip("music", np.zeros(2 * LENGTH, np.float32), held_out=False)
    config = training_config.model_copy(
        update={
            "mix_probability": 0.0,
            "noise_probability": 0.25,
            "batch_size": 200,
            "loudness_jitter_db": (0.0, 0.0),
        }
    )
    crops = CropSource([[music]], config, LENGTH).draw(torch.Generator().manual_seed(0))
    noise = crops[crops.abs().amax(1) > 0]
    assert 30 <= len(noise) <= 70
    assert (noise.square().mean(1).sqrt() - 10 ** (-16 / 20)).abs().max() < 0.02
    power = torch.fft.rfft(noise).abs().square()
    falls_db = 10 * (power[:, 4:36].mean(1) / power[:, -512:].mean(1)).log10()
    assert falls_db.min() < 10  # white
    assert falls_db.max() > 25  # brown


def test_a_folder_without_audio_is_refused(tmp_path):
    with pytest.raises(ConfigError, match="no audio"):
        load_clips(tmp_path, 44_100)


@pytest.mark.parametrize("level", [0.001, 0.05])
def test_recordings_are_brought_to_one_loudness(tmp_path, level):
    samples = level * np.random.default_rng(0).uniform(-1, 1, 44_100)
    soundfile.write(tmp_path / "a.wav", samples, 44_100, subtype="FLOAT")
    (clip,) = load_clips(tmp_path, 44_100)
    assert measure_loudness(clip.read(0, 44_100), 44_100) == pytest.approx(-16, abs=0.1)


def test_a_click_is_lifted_to_its_peak_and_not_beyond(tmp_path):
    click = np.zeros(44_100)
    click[20_000] = 0.01
    soundfile.write(tmp_path / "a.wav", click, 44_100, subtype="FLOAT")
    (clip,) = load_clips(tmp_path, 44_100)
    assert np.abs(clip.samples).max() == pytest.approx(0.99)


def test_a_folder_too_large_for_memory_is_refused_with_the_way_out(tmp_path, monkeypatch):
    monkeypatch.setattr(clips_module, "MAX_IN_MEMORY_S", 1.5)
    for name in ("a.wav", "b.wav"):
        soundfile.write(tmp_path / name, np.zeros(44_100), 44_100)
    with pytest.raises(ConfigError, match="ingest and normalise"):
        load_clips(tmp_path, 44_100)


@pytest.fixture
def stereo_file(tmp_path):
    samples = np.random.default_rng(0).uniform(-0.5, 0.5, (30_000, 2))
    soundfile.write(tmp_path / "a.flac", samples, 44_100, subtype="PCM_24")
    return FlacFile(tmp_path / "a.flac", "a", 30_000, held_out=False, gain_db=-6.0)


@pytest.mark.parametrize(("start", "stop"), [(0, 30_000), (0, 1), (4095, 8193), (29_999, 30_000)])
def test_seeking_reads_what_decoding_everything_gives(stereo_file, start, stop):
    whole, _ = soundfile.read(stereo_file.path, dtype="float32", always_2d=True)
    expected = whole.T * np.float32(10 ** (-6 / 20))
    np.testing.assert_array_equal(stereo_file.read(start, stop), expected[:, start:stop])


def test_a_file_shorter_than_its_table_says_is_refused(stereo_file):
    with pytest.raises(AudioError, match="normalise it again"):
        stereo_file.read(29_000, 30_001)


def test_crops_of_stereo_are_channels_and_their_mean(training_config):
    class Stereo:
        name, held_out, num_samples = "constant", False, 50_000

        def read(self, start: int, stop: int) -> np.ndarray:
            return np.repeat(np.float32([[0.1], [0.5]]), stop - start, axis=1)

    config = training_config.model_copy(
        update={
            "mix_probability": 0.0,
            "noise_probability": 0.0,
            "batch_size": 60,
            "loudness_jitter_db": (0.0, 0.0),
        }
    )
    crops = CropSource([[Stereo()]], config, LENGTH).draw(torch.Generator().manual_seed(0))
    levels = {round(float(value), 3) for value in crops.abs().mean(1)}
    assert levels == {0.1, 0.3, 0.5}


def test_crops_are_the_same_from_memory_and_from_disk(tmp_path, training_config):
    samples = np.random.default_rng(0).uniform(-0.5, 0.5, 30_000)
    soundfile.write(tmp_path / "a.flac", samples, 44_100, subtype="PCM_24")
    on_disk = FlacFile(tmp_path / "a.flac", "a", 30_000, held_out=False, gain_db=0.0)
    in_memory = Clip("a", on_disk.read(0, 30_000)[0], held_out=False)
    one, other = (
        CropSource([[clip]], training_config, LENGTH).draw(torch.Generator().manual_seed(1))
        for clip in (on_disk, in_memory)
    )
    assert torch.equal(one, other)


@pytest.mark.parametrize("held_out", [[], [[True]], [[False], [True, True]]])
def test_a_source_without_music_to_train_on_is_refused(training_config, held_out):
    sources = [[Clip("", np.zeros(9, np.float32), held_out=one) for one in row] for row in held_out]
    with pytest.raises(ConfigError, match="nothing to train on"):
        CropSource(sources, training_config, LENGTH)
