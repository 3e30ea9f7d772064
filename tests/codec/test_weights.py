"""Weights files are not trusted: attacks, damage and misfits are refused with one clear error."""

import hashlib
import json
import os
import pickle
from pathlib import Path

import pytest
import torch

from melodac.codec.architecture import build_model
from melodac.codec.dac import DacCodec
from melodac.codec.weights import (
    CONFIG_FILE,
    WEIGHTS_FILE,
    read_official_weights,
    read_weights_folder,
    write_weights_folder,
)
from melodac.durable import hash_file
from melodac.errors import CodecWeightsError

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
def folder(tmp_path, tiny_architecture):
    torch.manual_seed(0)
    tensors = build_model(tiny_architecture).state_dict()
    write_weights_folder(tmp_path, tensors, tiny_architecture, name="tiny", training={})
    return tmp_path


def test_a_written_folder_reads_back_in_fp32(folder, tiny_architecture):
    torch.manual_seed(0)
    expected = build_model(tiny_architecture).state_dict()
    model, config = read_weights_folder(folder)
    assert config.architecture == tiny_architecture
    assert config.sha256 == hash_file(folder / WEIGHTS_FILE)
    for name, tensor in model.state_dict().items():
        assert tensor.dtype == torch.float32
        assert torch.equal(tensor, expected[name].half().float())


def test_a_codec_of_a_written_folder_is_the_same_each_time(folder):
    audio = 0.1 * torch.randn(1, 2000, generator=torch.Generator().manual_seed(0))
    codes = []
    for _ in range(2):
        model, config = read_weights_folder(folder)
        codec = DacCodec(model, config.architecture, name="tiny", weights_sha256=config.sha256)
        codes.append(codec.encode(audio))
    assert torch.equal(*codes)


@pytest.mark.parametrize("position", [0.0, 0.5, 0.999])
def test_a_flipped_bit_is_noticed(folder, position):
    path = folder / WEIGHTS_FILE
    content = bytearray(path.read_bytes())
    content[int(len(content) * position)] ^= 1
    path.write_bytes(content)
    with pytest.raises(CodecWeightsError, match="is pinned"):
        read_weights_folder(folder)


@pytest.mark.parametrize("name", [CONFIG_FILE, WEIGHTS_FILE])
def test_a_missing_file_is_named(folder, name):
    (folder / name).unlink()
    with pytest.raises(CodecWeightsError, match=name):
        read_weights_folder(folder)


def test_a_config_with_unknown_keys_is_refused(folder):
    path = folder / CONFIG_FILE
    path.write_text(json.dumps(json.loads(path.read_text()) | {"script": "x"}))
    with pytest.raises(CodecWeightsError, match="script"):
        read_weights_folder(folder)


def test_bytes_that_are_no_safetensors_are_refused(folder):
    (folder / WEIGHTS_FILE).write_bytes(b"junk")
    config = json.loads((folder / CONFIG_FILE).read_text())
    config["sha256"] = hashlib.sha256(b"junk").hexdigest()
    (folder / CONFIG_FILE).write_text(json.dumps(config))
    with pytest.raises(CodecWeightsError, match="not a safetensors file"):
        read_weights_folder(folder)
