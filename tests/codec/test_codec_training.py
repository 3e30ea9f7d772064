"""Codec training: exact resume, phases in order, an export that the loader takes."""

import json
import logging

import pytest
import torch

from melodac.codec.load import load_codec_folder
from melodac.codec.training.clips import load_clips
from melodac.codec.training.config import AdversarialConfig, CodecTrainingConfig, DiscriminatorShape
from melodac.codec.training.export import begin, read_folder
from melodac.codec.training.measure import measure_codec
from melodac.codec.training.schedule import encoder_share, learning_rate
from melodac.codec.training.state import load_state, read_saved_codec, save_state
from melodac.errors import CheckpointCorruptError, CheckpointMismatchError, ConfigError


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


JUDGED = AdversarialConfig(
    begins_at=4,
    lead_updates=1,
    shape=DiscriminatorShape(periods=(2, 3), windows=(256,), width=0.05),
    drawn=2,
)


def test_resumed_training_with_discriminators_equals_uninterrupted_training(
    make_trainer, tmp_path, tiny_architecture
):
    straight, halted = make_trainer(adversarial=JUDGED), make_trainer(adversarial=JUDGED)
    logged = [straight.update() for _ in range(8)]
    assert [("discriminator" in terms, "feature" in terms) for terms in logged] == [
        *[(False, False)] * 4,
        (True, False),
        *[(True, True)] * 3,
    ]
    for _ in range(6):
        halted.update()
    save_state(tmp_path / "state.pt", halted.state, tiny_architecture)
    resumed = make_trainer(adversarial=JUDGED)
    load_state(tmp_path / "state.pt", resumed.state, tiny_architecture)
    assert [resumed.update() for _ in range(2)] == logged[6:]
    weights = straight.state.adversary.discriminator.state_dict()
    for name, tensor in resumed.state.adversary.discriminator.state_dict().items():
        assert torch.equal(tensor, weights[name]), name


def test_a_state_without_discriminators_begins_them_afresh_and_says_so(
    make_trainer, tmp_path, tiny_architecture, caplog
):
    old = make_trainer()
    old.update()
    save_state(tmp_path / "state.pt", old.state, tiny_architecture)
    content = torch.load(tmp_path / "state.pt", weights_only=True)
    for name in ("adversary", "is_encoder_fixed", "origin"):  # as states were before
        del content[name]
    torch.save(content, tmp_path / "state.pt")
    trainer = make_trainer(adversarial=JUDGED)
    load_state(tmp_path / "state.pt", trainer.state, tiny_architecture)
    assert trainer.state.update == 1
    assert trainer.state.adversary.updates == 0
    assert "they begin afresh" in caplog.text


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({}, "switched off"),
        ({"adversarial": JUDGED.model_copy(update={"shape": DiscriminatorShape(periods=(2,))})},
         "of another shape"),
    ],
)  # fmt: skip
def test_discriminators_that_are_dropped_are_told(
    make_trainer, tmp_path, tiny_architecture, caplog, changes, message
):
    save_state(tmp_path / "s.pt", make_trainer(adversarial=JUDGED).state, tiny_architecture)
    with caplog.at_level(logging.WARNING):
        load_state(tmp_path / "s.pt", make_trainer(**changes).state, tiny_architecture)
    assert message in caplog.text


def test_the_decoder_alone_leaves_every_code_as_it_was(make_trainer, export, tmp_path):
    trainer = make_trainer(decoder_only_from=5, adversarial=JUDGED, learning_rate=1e-2)
    for _ in range(5):
        trainer.update()
    export(trainer, tmp_path / "before")
    for _ in range(4):
        trainer.update()
    export(trainer, tmp_path / "after")
    audio = 0.1 * torch.randn(1, 20_000, generator=torch.Generator().manual_seed(0))
    before, after = (load_codec_folder(tmp_path / name, name=name) for name in ("before", "after"))
    codes = before.encode(audio)
    assert torch.equal(after.encode(audio), codes)
    assert not torch.equal(after.decode(codes), before.decode(codes))


def test_codebooks_by_gradient_learn_from_their_own_loss(make_trainer):
    trainer = make_trainer(codebooks="gradient", plain_updates=0, settle_updates=0)
    before = [stage.codebook.weight.clone() for stage in trainer.parts.quantizer.quantizers]
    terms = trainer.update()
    assert terms["codebook"] == pytest.approx(terms["commitment"])
    after = [stage.codebook.weight for stage in trainer.parts.quantizer.quantizers]
    assert not any(map(torch.equal, before, after))


def test_a_state_whose_codebooks_learned_otherwise_is_refused(
    make_trainer, tmp_path, tiny_architecture
):
    save_state(tmp_path / "state.pt", make_trainer().state, tiny_architecture)
    other = make_trainer(codebooks="gradient")
    with pytest.raises(CheckpointMismatchError, match="codebooks"):
        load_state(tmp_path / "state.pt", other.state, tiny_architecture)


def test_a_save_cut_off_leaves_the_last_state(
    make_trainer, tmp_path, tiny_architecture, monkeypatch
):
    trainer, path = make_trainer(), tmp_path / "state.pt"
    save_state(path, trainer.state, tiny_architecture)
    before = path.read_bytes()
    trainer.update()

    def cut_off(content, file) -> None:
        file.write(b"half a file")
        raise KeyboardInterrupt

    monkeypatch.setattr(torch, "save", cut_off)
    with pytest.raises(KeyboardInterrupt):
        save_state(path, trainer.state, tiny_architecture)
    assert path.read_bytes() == before


@pytest.mark.parametrize("kept", [0, 1, 1000])
def test_a_damaged_state_is_named(make_trainer, tmp_path, tiny_architecture, kept):
    path = tmp_path / "state.pt"
    save_state(path, make_trainer().state, tiny_architecture)
    path.write_bytes(path.read_bytes()[:kept])
    with pytest.raises(CheckpointCorruptError, match="damaged"):
        read_saved_codec(path)


def test_weights_whose_codebooks_would_be_thrown_away_are_refused(
    make_trainer, export, tmp_path, tiny_architecture
):
    trainer = make_trainer()
    export(trainer, tmp_path / "weights")  # after no update
    with pytest.raises(ConfigError, match="plain_updates"):
        begin(trainer.state, read_folder(tmp_path / "weights"), tiny_architecture, trainer.config)


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
