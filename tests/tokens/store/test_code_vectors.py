"""A store says what its codes sound like, exactly and provably, or that nobody knows."""

import numpy as np
import pytest
from safetensors.numpy import save_file

from melodac.errors import StoreCorruptError, TokenError
from melodac.token_files.store_writer import write_store
from melodac.tokens.store.manifest import whole_folder
from melodac.tokens.store.reader import open_store
from tests.tokens.store.stores import files_of, make_header, make_sources

NAME = "vectors.safetensors"


def draw(num_codebooks=3, num_codes=1024, width=8, seed=0):
    generator = np.random.default_rng(seed)
    return generator.standard_normal((num_codebooks, num_codes, width)).astype(np.float32)


def write(path, vectors, num_channels=1):
    sources = make_sources([40, 9], num_channels)
    write_store(path, make_header(num_channels), sources, frames_per_shard=16, vectors=vectors)
    return path


@pytest.mark.parametrize("num_channels", [1, 2, 4])
def test_vectors_come_back_bit_for_bit_and_serve_every_channel(tmp_path, num_channels):
    store = open_store(write(tmp_path / "store", draw(), num_channels))
    assert store.vectors.dtype == np.float32
    assert np.array_equal(store.vectors, draw())


def test_a_store_without_vectors_is_what_it_was(tmp_path):
    without = write(tmp_path / "without", None)
    assert open_store(without).vectors is None
    files, more = files_of(without), files_of(write(tmp_path / "with", draw()))
    assert more.pop(NAME)
    assert files.pop("manifest.json") != more.pop("manifest.json")
    assert files == more


def test_the_same_vectors_are_the_same_bytes_and_others_another_store(tmp_path):
    first, again, other = (
        open_store(write(tmp_path / name, draw(seed=seed)))
        for name, seed in (("first", 0), ("again", 0), ("other", 1))
    )
    assert first.fingerprint == again.fingerprint != other.fingerprint


def test_more_codebooks_than_the_codes_have_are_kept(tmp_path):
    assert len(open_store(write(tmp_path / "store", draw(num_codebooks=9))).vectors) == 9


@pytest.mark.parametrize(
    ("vectors", "message"),
    [
        (draw(num_codebooks=2), "2 codebooks of 1024 vectors for at least 3 codebooks of 1024"),
        (draw(num_codes=512), "3 codebooks of 512 vectors for at least 3 codebooks of 1024"),
        (draw(width=0), r"got float32 \(3, 1024, 0\)"),
        (np.where(draw() > 3, np.inf, draw()).astype(np.float32), "numbers are not finite"),
    ],
)
def test_vectors_that_do_not_fit_the_codes_are_refused(tmp_path, vectors, message):
    with pytest.raises(TokenError, match=message):
        write(tmp_path / "store", vectors)
    assert not (tmp_path / "store").exists()


@pytest.mark.parametrize("kept", [0.0, 0.5, 0.999])
def test_damage_is_found(tmp_path, kept):
    file = write(tmp_path / "store", draw()) / NAME
    content = file.read_bytes()
    file.write_bytes(content[: int(len(content) * kept)])
    with pytest.raises(StoreCorruptError, match=f"{NAME} has .* bytes instead of {len(content)}"):
        open_store(tmp_path / "store")


def test_a_missing_file_is_found(tmp_path):
    (write(tmp_path / "store", draw()) / NAME).unlink()
    with pytest.raises(StoreCorruptError, match=f"{NAME} is missing"):
        open_store(tmp_path / "store")


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"no tensors", "cannot be read"),
        ({"other": draw()}, r"holds \['other'\], expected 'code_vectors' alone"),
        ({"code_vectors": draw(num_codebooks=2)}, "2 codebooks of 1024 vectors for at least 3"),
        (
            {"code_vectors": draw()[0]},
            r"expected float32 codebooks x codes x dimensions, got float",
        ),
        ({"code_vectors": draw().astype(np.float64)}, "got float64"),
    ],
)
def test_a_foreign_file_is_refused_even_with_a_manifest_that_agrees(tmp_path, content, message):
    source = write(tmp_path / "store", draw())
    files = files_of(source)
    with whole_folder(tmp_path / "foreign", 2) as folder:
        for name in files.keys() - {"manifest.json", NAME}:
            (folder / name).parent.mkdir(parents=True, exist_ok=True)
            (folder / name).write_bytes(files[name])
        if isinstance(content, bytes):
            (folder / NAME).write_bytes(content)
        else:
            save_file(content, folder / NAME)
    with pytest.raises(StoreCorruptError, match=message):
        open_store(tmp_path / "foreign")
