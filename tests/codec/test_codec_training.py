"""Codec training: whole groups held out, exact resume, an export that the loader takes."""

import json

import numpy as np
import pytest
import soundfile
import torch

from melodac.codec.load import load_codec_folder
from melodac.codec.training.clips import CropSource, is_held_out, load_clips
from melodac.codec.training.config import CodecTrainingConfig
from melodac.codec.training.export import begin, export_codec, read_folder
from melodac.codec.training.measure import measure_codec
from melodac.codec.training.schedule import encoder_share, learning_rate
from melodac.codec.training.state import load_state, read_saved_codec, save_state
from melodac.codec.training.trainer import CodecTrainer
from melodac.errors import CheckpointMismatchError, ConfigError

CONFIG = CodecTrainingConfig(
    batch_size=2,
    crop=4096,
    plain_updates=3,
    settle_updates=1,
    initial_batches=4,
    revive_every=2,
    warmup_updates=2,
    compiled=False,
    weights={"complex_spectrum": 0.5},
)


@pytest.fixture
def music(tmp_path):
    """A folder of short files in groups of two."""
    folder = tmp_path / "music"
    folder.mkdir()
    generator = np.random.default_rng(0)
    rows = ["file_name,group"]
    for index in range(40):
        name = f"{index:02}.wav"
        soundfile.write(folder / name, 0.1 * generator.standard_normal(6000), 44_100)
        rows.append(f"{name},group {index // 2}")
    (folder / "metadata.csv").write_text("\n".join(rows))
    return folder


@pytest.fixture
def export(tmp_path, tiny_architecture):
    def write(trainer, folder):
        save_state(tmp_path / "to_export.pt", trainer.state, tiny_architecture)
        saved = read_saved_codec(tmp_path / "to_export.pt")
        return export_codec(saved, folder, name="tiny", sources="noise")

    return write


@pytest.fixture
def make_trainer(music, tiny_architecture):
    def make(**changes) -> CodecTrainer:
        config = CONFIG.model_copy(update=changes)
        clips = load_clips(music, 44_100)
        return CodecTrainer(config, tiny_architecture, CropSource([clips], config))

    return make


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


def test_crops_never_come_from_held_out_recordings(tmp_path):
    for index in range(30):
        samples = np.full(5000, 0.5)
        if is_held_out(f"{index}.wav"):
            samples[::2] *= -1
        soundfile.write(tmp_path / f"{index}.wav", samples, 44_100, subtype="FLOAT")
    config = CONFIG.model_copy(update={"mix_probability": 0.0, "batch_size": 50})
    crops = CropSource([load_clips(tmp_path, 44_100)], config)
    generator = torch.Generator().manual_seed(0)
    steps = crops.draw(generator)[:, 0].diff(dim=-1).abs().amax(1)
    assert steps.max() < 1e-3  # held-out files alternate, the others are constant


def test_silence_and_clips_shorter_than_a_crop_are_drawn(tmp_path):
    soundfile.write(tmp_path / "b.wav", np.zeros(100), 44_100)
    crops = CropSource([load_clips(tmp_path, 44_100)], CONFIG)
    assert crops.draw(torch.Generator().manual_seed(0)).shape == (2, 1, 4096)


def test_a_folder_without_audio_is_refused(tmp_path):
    with pytest.raises(ConfigError, match="no audio"):
        load_clips(tmp_path, 44_100)


def test_resumed_training_equals_uninterrupted_training(make_trainer, tmp_path, tiny_architecture):
    straight = make_trainer()
    for _ in range(8):
        straight.update()
    halted = make_trainer()
    for _ in range(5):
        halted.update()
    save_state(tmp_path / "state.pt", halted.state, tiny_architecture)
    resumed = make_trainer()
    load_state(tmp_path / "state.pt", resumed.state, tiny_architecture)
    for _ in range(3):
        resumed.update()
    pairs = zip(straight.state.averages, resumed.state.averages, strict=True)
    assert all(torch.equal(ours, theirs) for ours, theirs in pairs)
    weights = straight.state.model.state_dict()
    for name, tensor in resumed.state.model.state_dict().items():
        assert torch.equal(tensor, weights[name]), name


def test_a_state_of_another_shape_is_refused(make_trainer, tmp_path, tiny_architecture):
    trainer = make_trainer()
    save_state(tmp_path / "state.pt", trainer.state, tiny_architecture)
    other = tiny_architecture.model_copy(update={"codebook_size": 16})
    with pytest.raises(CheckpointMismatchError, match="another state folder"):
        load_state(tmp_path / "state.pt", trainer.state, other)


def test_training_lowers_the_loss(make_trainer):
    trainer = make_trainer(plain_updates=1000, learning_rate=2e-3)
    terms = [trainer.update()["mel"] for _ in range(25)]
    assert sum(terms[-5:]) < 0.8 * sum(terms[:5])


def test_the_export_loads_and_is_measured(make_trainer, export, tmp_path, music):
    trainer = make_trainer()
    for _ in range(4):
        trainer.update()
    folder = tmp_path / "weights"
    export(trainer, folder)
    codec = load_codec_folder(folder, name="tiny")
    assert json.loads((folder / "config.json").read_text())["training"]["updates"] == 4
    clips = [clip for clip in load_clips(music, 44_100) if clip.held_out]
    files, books = measure_codec(codec, clips)
    assert [report.name for report in files] == [clip.name for clip in clips]
    assert all(report.mel_distance > 0 for report in files)
    assert all(1 <= book.perplexity <= 32 for book in books)


def test_training_goes_on_from_an_export(make_trainer, export, tmp_path, tiny_architecture):
    trainer = make_trainer()
    for _ in range(4):
        trainer.update()
    export(trainer, tmp_path / "weights")
    second = make_trainer()
    begin(second.state, read_folder(tmp_path / "weights"), tiny_architecture, second.config)
    assert second.state.update == 4
    for average, weight in zip(
        trainer.state.averages, second.state.model.parameters(), strict=True
    ):
        assert torch.equal(weight, average.half().float())
    second.update()


def test_an_export_of_another_shape_is_refused(make_trainer, export, tmp_path, tiny_architecture):
    trainer = make_trainer()
    export(trainer, tmp_path / "weights")
    other = tiny_architecture.model_copy(update={"sample_rate": 22_050})
    with pytest.raises(CheckpointMismatchError, match="start afresh"):
        begin(trainer.state, read_folder(tmp_path / "weights"), other, trainer.config)


def test_the_learning_rate_warms_up_holds_and_decays():
    config = CodecTrainingConfig(
        learning_rate=1.0,
        warmup_updates=10,
        decay_from=100,
        decay_updates=50,
        final_learning_rate=0.1,
    )
    rates = [learning_rate(config, update) for update in (0, 4, 9, 10, 99, 125, 150, 10_000)]
    assert rates == pytest.approx([0.1, 0.5, 1.0, 1.0, 1.0, 0.55, 0.1, 0.1])


def test_the_encoder_rests_while_the_codebooks_settle(make_trainer):
    trainer = make_trainer(settle_updates=2)
    shares = [encoder_share(trainer.config, update) for update in range(7)]
    assert shares == [1.0, 1.0, 1.0, 0.0, 0.0, 0.3, 0.3]
    for _ in range(4):
        trainer.update()
    before = [parameter.clone() for parameter in trainer.parts.encoder.parameters()]
    trainer.update()
    assert all(map(torch.equal, before, trainer.parts.encoder.parameters()))
    trainer.update()
    assert not all(map(torch.equal, before, trainer.parts.encoder.parameters()))
