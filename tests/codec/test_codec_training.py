"""Codec training: the quantizer is fitted once, the decoder learns, a stopped run goes on exactly."""

import json
import logging

import pytest
import torch

from melodac.codec.load import load_codec_folder
from melodac.codec.weights import read_weights_folder
from melodac.codec_training.clips import CropSource, load_clips
from melodac.codec_training.config import AdversarialConfig, CodecTrainingConfig, DiscriminatorShape
from melodac.codec_training.measure import measure_codec
from melodac.codec_training.state import (
    begin,
    export_state,
    load_state,
    read_architecture,
    save_state,
)
from melodac.codec_training.trainer import STATE_FILE, CodecTrainer, learning_rate, train_codec
from melodac.errors import CheckpointCorruptError, CheckpointMismatchError, ConfigError
from tests.codec.conftest import SPECTRAL, compose

JUDGED = AdversarialConfig(
    begins_at=3,
    lead_updates=1,
    shape=DiscriminatorShape(periods=(2, 3), windows=(256,), width=0.05),
    drawn=2,
)


@pytest.fixture
def make_fitted(make_trainer):
    def make(**changes) -> CodecTrainer:
        trainer = make_trainer(**changes)
        trainer.fit()
        return trainer

    return make


class Constant(CropSource):
    """Crops that are the same in every update."""

    def __init__(self, batch: torch.Tensor) -> None:
        self._batch = batch

    def draw(self, generator: torch.Generator) -> torch.Tensor:
        return self._batch


def assert_equal_states(ours: CodecTrainer, theirs: CodecTrainer) -> None:
    pairs = zip(ours.state.averages, theirs.state.averages, strict=True)
    assert all(torch.equal(*pair) for pair in pairs)
    weights = ours.state.model.state_dict()
    for name, tensor in theirs.state.model.state_dict().items():
        assert torch.equal(tensor, weights[name]), name


@pytest.mark.parametrize("adversarial", [AdversarialConfig(), JUDGED], ids=["alone", "judged"])
def test_resumed_training_equals_uninterrupted_training(
    make_fitted, make_trainer, tmp_path, adversarial
):
    straight, halted = (make_fitted(adversarial=adversarial) for _ in range(2))
    logged = [straight.update() for _ in range(7)]
    for _ in range(5):
        halted.update()
    save_state(tmp_path / "state.pt", halted.state, SPECTRAL)
    resumed = make_trainer(adversarial=adversarial)
    load_state(tmp_path / "state.pt", resumed.state, SPECTRAL)
    assert [resumed.update() for _ in range(2)] == logged[5:]
    assert_equal_states(straight, resumed)
    if adversarial.begins_at is not None:
        judges = straight.state.adversary.discriminator.state_dict()
        for name, tensor in resumed.state.adversary.discriminator.state_dict().items():
            assert torch.equal(tensor, judges[name]), name


def test_discriminators_learn_alone_before_the_decoder_hears_of_them(make_fitted):
    trainer = make_fitted(adversarial=JUDGED)
    logged = [trainer.update() for _ in range(7)]
    assert [("discriminator" in terms, "feature" in terms) for terms in logged] == [
        *[(False, False)] * 3,
        (True, False),
        *[(True, True)] * 3,
    ]


def test_a_fit_is_repeated_exactly(make_fitted):
    assert_equal_states(make_fitted(), make_fitted())


def test_the_quantizer_is_fitted_once(make_trainer, tmp_path):
    first, second = make_trainer(), make_trainer(seed=1)
    train_codec(first, tmp_path, 0.0)
    train_codec(second, tmp_path, 0.0)
    assert second.state.is_fitted
    assert_equal_states(first, second)


def test_training_leaves_the_codes_and_changes_the_sound(make_fitted, export, tmp_path):
    trainer = make_fitted(adversarial=JUDGED)
    configs = [export(trainer, tmp_path / "before")]
    for _ in range(6):
        trainer.update()
    configs.append(export(trainer, tmp_path / "after"))
    assert configs[0].sha256 == configs[1].sha256
    assert configs[0].decoder_sha256 != configs[1].decoder_sha256
    before, after = (load_codec_folder(tmp_path / name, name=name) for name in ("before", "after"))
    assert before.weights_sha256 == after.weights_sha256
    codes = before.encode(compose(0, 20_000)[None])
    assert torch.equal(after.encode(compose(0, 20_000)[None]), codes)
    assert not torch.equal(after.decode(codes), before.decode(codes))


@pytest.mark.parametrize(("silent_updates", "term"), [(40, "direct"), (0, "mel")])
def test_training_lowers_what_it_is_told_to(make_fitted, silent_updates, term):
    trainer = make_fitted(silent_updates=silent_updates, learning_rate=2e-2, quantizer_dropout=0.0)
    trainer.crops = Constant(trainer.crops.draw(torch.Generator().manual_seed(0)))
    logged = [trainer.update() for _ in range(40)]
    assert all(("mel" in terms) == (term == "mel") for terms in logged)  # silent at first
    values = [terms[term] for terms in logged]
    assert sum(values[-5:]) < 0.8 * sum(values[:5])


def test_training_never_changes_the_quantizer(make_fitted):
    trainer = make_fitted()
    before = {name: x.clone() for name, x in trainer.state.model.quantizer.state_dict().items()}
    for _ in range(3):
        trainer.update()
    for name, tensor in trainer.state.model.quantizer.state_dict().items():
        assert torch.equal(tensor, before[name]), name


def test_a_state_of_another_shape_is_refused(make_trainer, tmp_path):
    trainer = make_trainer()
    save_state(tmp_path / "state.pt", trainer.state, SPECTRAL)
    front_end = SPECTRAL.front_end.model_copy(update={"codebook_size": 16})
    other = SPECTRAL.model_copy(update={"front_end": front_end})
    with pytest.raises(CheckpointMismatchError, match="another state folder"):
        load_state(tmp_path / "state.pt", trainer.state, other)
    assert read_architecture(tmp_path / "state.pt") == SPECTRAL


def test_a_state_without_discriminators_begins_them_afresh_and_says_so(
    make_fitted, make_trainer, tmp_path, caplog
):
    old = make_fitted()
    old.update()
    save_state(tmp_path / "state.pt", old.state, SPECTRAL)
    trainer = make_trainer(adversarial=JUDGED)
    load_state(tmp_path / "state.pt", trainer.state, SPECTRAL)
    assert (trainer.state.update, trainer.state.adversary.updates) == (1, 0)
    assert "they begin afresh" in caplog.text


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({}, "switched off"),
        ({"adversarial": JUDGED.model_copy(update={"shape": DiscriminatorShape(periods=(2,))})},
         "of another shape"),
    ],
)  # fmt: skip
def test_discriminators_that_are_dropped_are_told(make_trainer, tmp_path, caplog, changes, message):
    save_state(tmp_path / "s.pt", make_trainer(adversarial=JUDGED).state, SPECTRAL)
    with caplog.at_level(logging.WARNING):
        load_state(tmp_path / "s.pt", make_trainer(**changes).state, SPECTRAL)
    assert message in caplog.text


def test_a_save_cut_off_leaves_the_last_state(make_fitted, tmp_path, monkeypatch):
    trainer, path = make_fitted(), tmp_path / "state.pt"
    save_state(path, trainer.state, SPECTRAL)
    before = path.read_bytes()
    trainer.update()

    def cut_off(content, path) -> None:
        path.write_bytes(b"half a file")
        raise KeyboardInterrupt

    monkeypatch.setattr(torch, "save", cut_off)
    with pytest.raises(KeyboardInterrupt):
        save_state(path, trainer.state, SPECTRAL)
    assert path.read_bytes() == before


@pytest.mark.parametrize("kept", [0, 1, 1000])
def test_a_damaged_state_is_named(make_trainer, tmp_path, kept):
    path = tmp_path / "state.pt"
    save_state(path, make_trainer().state, SPECTRAL)
    path.write_bytes(path.read_bytes()[:kept])
    with pytest.raises(CheckpointCorruptError, match="damaged"):
        read_architecture(path)


def test_a_codec_that_is_not_fitted_is_not_exported(make_trainer, export, tmp_path):
    with pytest.raises(ConfigError, match="not fitted yet"):
        export(make_trainer(), tmp_path / "weights")
    assert not (tmp_path / "weights").exists()
    with pytest.raises(ConfigError, match="nothing was trained there"):
        export_state(tmp_path / "none.pt", tmp_path / "weights", name="none", sources="none")


def test_the_export_is_the_average_and_is_measured(make_fitted, export, tmp_path, music):
    trainer, folder = make_fitted(), tmp_path / "weights"
    for _ in range(4):
        trainer.update()
    export(trainer, folder)
    weights = list(read_weights_folder(folder)[0].decoder.parameters())
    for average, weight in zip(trainer.state.averages, weights, strict=True):
        assert torch.equal(weight, average.half().float())
    assert json.loads((folder / "config.json").read_text())["training"]["updates"] == 4
    clips = [clip for clip in load_clips(music, 44_100) if clip.held_out]
    files, books = measure_codec(load_codec_folder(folder, name="tiny"), clips)
    assert [report.name for report in files] == [clip.name for clip in clips]
    assert all(report.mel_distance > 0 for report in files)
    assert all(1 <= book.perplexity <= 32 for book in books)


def test_training_goes_on_from_an_export_with_its_codes(
    make_fitted, make_trainer, export, tmp_path
):
    first, second = make_fitted(), make_trainer(seed=1)
    for _ in range(4):
        first.update()
    config = export(first, tmp_path / "weights")
    begin(second.state, *read_weights_folder(tmp_path / "weights"))
    assert (second.state.update, second.state.origin) == (4, config.decoder_sha256)
    train_codec(second, tmp_path / "state", 0.0)  # which does not fit again
    second.update()
    save_state(tmp_path / "state" / STATE_FILE, second.state, SPECTRAL)
    again = export(second, tmp_path / "again")
    assert again.sha256 == config.sha256
    assert again.training["begun_from"] == config.decoder_sha256


def test_the_learning_rate_warms_up_and_falls_to_its_last_value():
    config = CodecTrainingConfig(learning_rate=1.0, updates=10_000, final_rate_share=0.1)
    rates = [learning_rate(config, update) for update in (0, 99, 5000, 10_000, 99_999)]
    assert rates == pytest.approx([0.005, 0.5, 0.55, 0.1, 0.1], rel=1e-2)
