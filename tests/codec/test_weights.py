"""Weights files are not trusted: attacks, damage and misfits are refused with one clear error."""

import json
import os
import pickle
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file

from melodac.codec.architecture import build_model
from melodac.codec.load import load_codec_folder
from melodac.codec.weights import (
    CONFIG_FILE,
    DECODER_FILE,
    QUANTIZER_FILE,
    read_official_weights,
    read_weights_folder,
    write_weights_folder,
)
from melodac.errors import CodecWeightsError
from melodac.files import hash_file
from tests.codec.conftest import SPECTRAL, build_spectral_model, compose

TINY_KWARGS = {
    "encoder_dim": 4,
    "encoder_rates": [2, 4],
    "latent_dim": 12,
    "decoder_dim": 16,
    "decoder_rates": [4, 2],
    "n_codebooks": 3,
    "codebook_size": 32,
    "codebook_dim": 4,
    "quantizer_dropout": 0.5,
    "sample_rate": 44_100,
}


class MarkerPayload:
    """Creates a file when unpickled."""

    def __init__(self, marker: Path) -> None:
        self.marker = marker

    def __reduce__(self):
        return os.mkdir, (str(self.marker),)


@pytest.fixture
def official(tmp_path, tiny_architecture):
    """Write an official-style file, with changes."""

    def write(kwargs: dict | None = None, drop: int = 0, extra: dict | None = None) -> Path:
        state = build_model(tiny_architecture).state_dict()
        state = dict(list(state.items())[drop:])
        content = {"state_dict": state, "metadata": {"kwargs": TINY_KWARGS | (kwargs or {})}}
        path = tmp_path / "weights.pth"
        torch.save(content | (extra or {}), path)
        return path

    return write


def test_an_official_file_loads_all_its_tensors(official, tiny_architecture):
    path = official()
    saved = torch.load(path, weights_only=True)["state_dict"]
    model, architecture = read_official_weights(path, hash_file(path))
    assert architecture == tiny_architecture
    for name, tensor in model.state_dict().items():
        assert torch.equal(tensor, saved[name])


def test_a_missing_latent_dim_is_that_of_dac(official, tiny_architecture):
    kwargs = {"latent_dim": None}
    path = official(kwargs)
    with pytest.raises(CodecWeightsError, match="does not fit"):  # 16, the file holds 12
        read_official_weights(path, hash_file(path))


def test_another_hash_is_refused(official):
    with pytest.raises(CodecWeightsError, match="is pinned"):
        read_official_weights(official(), "0" * 64)


def test_missing_tensors_are_refused(official):
    path = official(drop=5)
    with pytest.raises(CodecWeightsError, match="does not fit"):
        read_official_weights(path, hash_file(path))


@pytest.mark.parametrize(
    "kwargs",
    [
        {"encoder_dim": 10**9},
        {"encoder_dim": "4"},
        {"encoder_rates": [2] * 50},
        {"encoder_rates": [3, 4]},
        {"codebook_size": 0},
        {"sample_rate": None},
        {"weights_url": "http://example.org"},
    ],
)
def test_arguments_out_of_bounds_are_refused_before_anything_is_built(official, kwargs):
    path = official(kwargs)
    with pytest.raises(CodecWeightsError, match="melodac does not build"):
        read_official_weights(path, hash_file(path))


@pytest.mark.parametrize("keep", [0.0, 0.3, 0.99])
def test_a_truncated_file_is_refused_even_with_its_own_hash(official, keep):
    path = official()
    content = path.read_bytes()
    path.write_bytes(content[: int(len(content) * keep)])
    with pytest.raises(CodecWeightsError):
        read_official_weights(path, hash_file(path))


def test_a_pickled_payload_is_not_executed(tmp_path):
    marker, path = tmp_path / "marker", tmp_path / "weights.pth"
    path.write_bytes(pickle.dumps({"state_dict": MarkerPayload(marker)}, protocol=2))
    with pytest.raises(CodecWeightsError, match="was not loaded"):
        read_official_weights(path, hash_file(path))
    assert not marker.exists()


def test_a_payload_inside_a_torch_file_is_not_executed(official, tmp_path):
    marker = tmp_path / "marker"
    path = official(extra={"history": MarkerPayload(marker)})
    with pytest.raises(CodecWeightsError, match="was not loaded"):
        read_official_weights(path, hash_file(path))
    assert not marker.exists()


def test_a_torch_package_is_not_executed(tmp_path):
    marker, path = tmp_path / "marker", tmp_path / "weights.pth"
    code = f"import os\nos.mkdir({str(marker)!r})\nclass DAC: pass\n"
    with torch.package.PackageExporter(str(path)) as exporter:
        exporter.save_source_string("payload", code)
        exporter.save_pickle("DAC", "DAC.pth", {"a": 1})
    with pytest.raises(CodecWeightsError):
        read_official_weights(path, hash_file(path))
    assert not marker.exists()


@pytest.mark.parametrize("content", [[1, 2], {"state_dict": {}}, {"metadata": {"kwargs": 3}}])
def test_files_of_another_form_are_refused(tmp_path, content):
    path = tmp_path / "weights.pth"
    torch.save(content, path)
    with pytest.raises(CodecWeightsError):
        read_official_weights(path, hash_file(path))


@pytest.fixture
def folder(tmp_path):
    write_weights_folder(tmp_path, build_spectral_model(), SPECTRAL, name="tiny", training={})
    return tmp_path


def repin(folder: Path, key: str, file: str) -> None:
    """Let the config pin what a file holds now."""
    config = json.loads((folder / CONFIG_FILE).read_text())
    config[key] = hash_file(folder / file)
    (folder / CONFIG_FILE).write_text(json.dumps(config))


def test_a_written_folder_reads_back(folder):
    model, config = read_weights_folder(folder)
    assert config.architecture == SPECTRAL
    assert config.sha256 == hash_file(folder / QUANTIZER_FILE)
    assert config.decoder_sha256 == hash_file(folder / DECODER_FILE)
    assert config.format_version == 2
    expected = build_spectral_model()
    for name, tensor in expected.quantizer.state_dict().items():
        assert torch.equal(model.quantizer.state_dict()[name], tensor), name
    for name, tensor in expected.decoder.state_dict().items():
        read = model.decoder.state_dict()[name]
        assert read.dtype == torch.float32
        assert torch.equal(read, tensor.half().float()), name


def test_a_written_folder_codes_as_the_model_did(folder, spectral):
    codes = spectral.encode(compose(0, 20_000)[None])
    assert torch.equal(
        load_codec_folder(folder, name="tiny").encode(compose(0, 20_000)[None]), codes
    )


def test_the_quantizer_identifies_codes_whatever_the_decoder(folder, tmp_path):
    model, config = read_weights_folder(folder)
    with torch.no_grad():
        model.decoder.outline.bias.add_(1.0)
    other = write_weights_folder(tmp_path / "b", model, SPECTRAL, name="b", training={})
    assert other.sha256 == config.sha256
    assert other.decoder_sha256 != config.decoder_sha256
    model.quantizer.vectors[-1, -1, -1] += 1e-3
    third = write_weights_folder(tmp_path / "c", model, SPECTRAL, name="c", training={})
    assert third.sha256 != config.sha256


@pytest.mark.parametrize("position", [0.0, 0.5, 0.999])
@pytest.mark.parametrize("file", [QUANTIZER_FILE, DECODER_FILE])
def test_a_flipped_bit_is_noticed(folder, file, position):
    content = bytearray((folder / file).read_bytes())
    content[int(len(content) * position)] ^= 1
    (folder / file).write_bytes(content)
    with pytest.raises(CodecWeightsError, match="is pinned"):
        read_weights_folder(folder)


@pytest.mark.parametrize("name", [CONFIG_FILE, QUANTIZER_FILE, DECODER_FILE])
def test_a_missing_file_is_named(folder, name):
    (folder / name).unlink()
    with pytest.raises(CodecWeightsError, match=name):
        read_weights_folder(folder)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"script": "x"}, "script"),
        ({"format_version": 3}, "format_version"),
        ({"format_version": 1}, "format_version"),
    ],
)
def test_a_config_of_another_form_is_refused(folder, changes, message):
    path = folder / CONFIG_FILE
    path.write_text(json.dumps(json.loads(path.read_text()) | changes))
    with pytest.raises(CodecWeightsError, match=message):
        read_weights_folder(folder)


@pytest.mark.parametrize(
    ("key", "file"), [("sha256", QUANTIZER_FILE), ("decoder_sha256", DECODER_FILE)]
)
def test_bytes_that_are_no_safetensors_are_refused(folder, key, file):
    (folder / file).write_bytes(b"junk")
    repin(folder, key, file)
    with pytest.raises(CodecWeightsError, match="not a safetensors file"):
        read_weights_folder(folder)


def test_tensors_of_another_shape_are_refused(folder):
    tensors = load_file(folder / QUANTIZER_FILE)
    save_file({**tensors, "vectors": tensors["vectors"][:, :5].clone()}, folder / QUANTIZER_FILE)
    repin(folder, "sha256", QUANTIZER_FILE)
    with pytest.raises(CodecWeightsError, match="does not fit"):
        read_weights_folder(folder)
