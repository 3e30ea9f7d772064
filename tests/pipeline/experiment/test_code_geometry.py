"""What codes sound like on its way from the codec through store and checkpoint to the model."""

import logging
from dataclasses import replace

import numpy as np
import pytest
import torch

from melodac.codec.load import BUNDLED_FOLDER, load_codec
from melodac.models.code_tables import standardise
from melodac.tokens.store.reader import open_store
from pipeline.commands.import_codes import find_codec, import_codes
from pipeline.experiment.dataset import read_dataset
from pipeline.experiment.model import build_model, build_train_pattern, load_trained
from pipeline.params import load_params
from pipeline.stages import index, train
from tests.pipeline.music_folder import ROOT, params_for
from tests.pipeline.token_workplace import lay_out, make_header

CODEBOOKS = {
    "concatenated": [0, 1, 0, 1],
    "interleaved": [0, 0, 1, 1],
    "mid_side": [0, 1, 0],
}
SHORT = {
    "updates": 2, "warmup_updates": 1, "windows_per_update": 2, "micro_batch": 2,
    "validate_every": 2, "checkpoint_every": 2, "size": "nano",
}  # fmt: skip
INDEX = {"window_frames": 32, "min_track_frames": 32}


@pytest.fixture(autouse=True)
def checkout(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)


def draw_vectors(num_codebooks=2, width=6):
    generator = np.random.default_rng(0)
    return generator.standard_normal((num_codebooks, 1024, width)).astype(np.float32)


def train_params(**changes):
    return load_params(ROOT / "params.yaml").train.model_copy(update=changes)


def read(channels=("mono",), codebooks=None, *, layout="concatenated", vectors=None):
    lay_out(make_header(channels, codebooks), vectors=vectors)
    index.run(params_for("music", index=INDEX))
    return read_dataset(layout)


@pytest.mark.parametrize("layout", CODEBOOKS)
def test_each_column_of_stereo_has_the_vectors_of_its_codebook(layout):
    channels = ("mid", "side") if layout == "mid_side" else ("left", "right")
    counts = (2, 1) if layout == "mid_side" else (2, 2)
    vectors = draw_vectors()
    dataset = read(channels, counts, layout=layout, vectors=vectors)
    assert np.array_equal(dataset.vectors, vectors[CODEBOOKS[layout]])
    model = build_model(
        train_params(layout=layout),
        build_train_pattern(train_params(), dataset),
        dataset,
        dropout=0.0,
        seed=0,
    )
    expected, _ = standardise(torch.from_numpy(vectors))
    for column, codebook in enumerate(CODEBOOKS[layout]):
        assert torch.equal(model.geometry.vectors[column], expected[codebook])


@pytest.mark.parametrize("delay", ["musicgen", "parallel", "flat"])
def test_train_leaves_a_checkpoint_that_needs_no_codec(delay):
    lay_out(make_header(), vectors=draw_vectors())
    params = params_for(
        "music",
        index=INDEX,
        train=SHORT | {"delay": delay},
        runtime={"wandb": "off", "device": "cpu", "threads": 1},
    )
    index.run(params)
    train.run(params)
    trained = load_trained(torch.device("cpu"))
    expected, _ = standardise(torch.from_numpy(draw_vectors()))
    assert trained.model.config.embedding == "codec"
    assert torch.equal(trained.model.geometry.vectors, expected)
    assert trained.checkpoint.config["vectors_sha256"]


def test_the_model_knows_which_codes_the_training_music_has():
    dataset = read(vectors=draw_vectors())
    model = build_model(
        train_params(), build_train_pattern(train_params(), dataset), dataset, dropout=0.0, seed=0
    )
    tracks = dataset.split("train")
    played = np.concatenate([tracks.codes(track) for track in range(len(tracks.track_ids))])
    for column, unheard in enumerate(model.geometry.unheard.view(2, 1024).numpy()):
        assert set(np.flatnonzero(~unheard)) == set(played[:, column])


def test_unknown_codes_get_one_table_and_the_log_says_so(caplog):
    dataset = read()
    pattern = build_train_pattern(train_params(), dataset)
    with caplog.at_level(logging.WARNING):
        model = build_model(train_params(), pattern, dataset, dropout=0.0, seed=0)
    assert model.config.embedding == "tied"
    (line,) = [r.message for r in caplog.records if r.name == "pipeline.experiment.model"]
    assert "the token store does not say what its codes sound like" in line


def test_learned_tables_ignore_the_vectors(caplog):
    dataset = read(vectors=draw_vectors())
    pattern = build_train_pattern(train_params(), dataset)
    params = train_params(embedding="learned")
    models = [
        build_model(params, pattern, known, dropout=0.0, seed=0)
        for known in (dataset, replace(dataset, store_vectors=None))
    ]
    assert models[0].config.embedding == "learned"
    assert models[0].state_dict().keys() == models[1].state_dict().keys()
    assert all(map(torch.equal, models[0].parameters(), models[1].parameters()))
    assert not [r for r in caplog.records if r.name == "pipeline.experiment.model"]


def write_codes(folder):
    folder.mkdir()
    generator = np.random.default_rng(0)
    np.save(folder / "one.npy", generator.integers(0, 1024, (64, 9)).astype(np.uint16))
    return folder


@pytest.mark.parametrize("codec", ["bundled", str(BUNDLED_FOLDER)])
def test_an_import_from_a_codec_that_is_here_brings_its_vectors(tmp_path, codec):
    import_codes(write_codes(tmp_path / "codes"), tmp_path / "imported", codec)
    store = open_store(tmp_path / "imported" / "tokens")
    bundled = load_codec("bundled")
    assert np.array_equal(store.vectors, bundled.code_vectors().numpy())
    assert store.header.weights_sha256 == bundled.weights_sha256
    assert store.header.codec == "bundled"


@pytest.mark.parametrize("codec", ["44khz", "another"])
def test_an_import_from_a_codec_that_is_not_here_says_so(tmp_path, monkeypatch, caplog, codec):
    monkeypatch.setattr("pipeline.commands.import_codes.has_official_weights", lambda: False)
    with caplog.at_level(logging.WARNING):
        import_codes(write_codes(tmp_path / "codes"), tmp_path / "imported", codec)
    assert open_store(tmp_path / "imported" / "tokens").vectors is None
    assert f"the weights of codec '{codec}' are not on this machine" in caplog.text
    assert find_codec(codec) is None
