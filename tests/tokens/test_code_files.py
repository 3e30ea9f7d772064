"""Laws of files of codes: what was written is read, and a hostile file neither runs nor grows."""

import io
import pickle
import zipfile

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from melodac.errors import TokenError
from melodac.token_files.code_files import encode_npq, make_npq, read_code_file, write_code_file


@given(suffix=st.sampled_from(["npy", "pt"]), num_frames=st.integers(1, 9), seed=st.integers(0, 99))
def test_read_is_what_was_written(tmp_path_factory, suffix, num_frames, seed):
    codes = np.random.default_rng(seed).integers(0, 1024, (9, num_frames), dtype=np.uint16)
    path = tmp_path_factory.mktemp("codes") / f"a.{suffix}"
    write_code_file(path, codes)
    assert np.array_equal(read_code_file(path), codes)


@pytest.mark.parametrize("dtype", [torch.int16, torch.int64, torch.int32])
def test_tensors_of_any_whole_numbers_are_read(tmp_path, dtype):
    torch.save(torch.tensor([[1, 2], [3, 4], [5, 6]], dtype=dtype), tmp_path / "a.pt")
    assert read_code_file(tmp_path / "a.pt").tolist() == [[1, 3, 5], [2, 4, 6]]


class Marker:
    """A payload that would leave a file behind if it were executed."""

    def __init__(self, path):
        self.path = path

    def __reduce__(self):
        return (open, (str(self.path), "w"))


def save_pt(value, path):
    torch.save(value, path)


def save_npy(value, path):
    np.save(path, np.array([[value]], dtype=object), allow_pickle=True)


def save_raw_pickle(value, path):
    path.write_bytes(pickle.dumps(value))


@pytest.mark.parametrize(
    ("name", "save"),
    [("a.pt", save_pt), ("a.npy", save_npy), ("a.pt", save_raw_pickle), ("a.npy", save_raw_pickle)],
)
def test_a_pickle_is_never_executed(tmp_path, name, save):
    save(Marker(tmp_path / "marker"), tmp_path / name)
    with pytest.raises(TokenError):
        read_code_file(tmp_path / name)
    assert not (tmp_path / "marker").exists()
    if save is save_raw_pickle:  # the payload does work where a pickle is trusted
        pickle.loads((tmp_path / name).read_bytes()).close()
        assert (tmp_path / "marker").exists()


def repack(path, compression):
    """The same archive with its entries compressed."""
    packed = io.BytesIO()
    with zipfile.ZipFile(path) as old, zipfile.ZipFile(packed, "w", compression) as new:
        for entry in old.namelist():
            new.writestr(entry, old.read(entry))
    path.write_bytes(packed.getvalue())


def test_an_archive_that_unpacks_to_more_than_itself_is_refused(tmp_path):
    torch.save(torch.zeros(100_000, 9, dtype=torch.int16), tmp_path / "a.pt")
    repack(tmp_path / "a.pt", zipfile.ZIP_DEFLATED)
    assert (tmp_path / "a.pt").stat().st_size < 20_000
    with pytest.raises(TokenError, match="packs nothing"):
        read_code_file(tmp_path / "a.pt")


def test_a_tensor_over_one_number_is_refused(tmp_path):
    torch.save(torch.zeros(1, dtype=torch.int16).expand(10**12, 9), tmp_path / "a.pt")
    with pytest.raises(TokenError, match="over less memory than that"):
        read_code_file(tmp_path / "a.pt")


def npy(shape, dtype="<i2", payload=b""):
    file = io.BytesIO()
    np.lib.format.write_array_header_1_0(
        file, {"descr": dtype, "fortran_order": False, "shape": shape}
    )
    return file.getvalue() + payload


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (npy((2**40, 9)), "no array of numbers"),
        (npy((2, 9), payload=b"\0" * 37), "1 bytes follow its array"),
        (npy((2, 9), payload=b"\0" * 35), "no array of numbers"),
        (npy((9,), payload=b"\0" * 18), r"int16 of shape \(9,\)"),
        (npy((2, 1), "<f4", b"\0" * 8), "float32 of shape"),
        (npy((1, 1), payload=b"\xff\xff"), "numbers from -1 to -1"),
        (npy((1, 1), payload=b"\0\4"), "numbers from 1024 to 1024.*take out special tokens"),
        (b"\x93NUMPY\x01\x00", "no array of numbers"),
        (b"", "no array of numbers"),
    ],
)
def test_arrays_that_are_no_codes_are_refused(tmp_path, content, message):
    (tmp_path / "a.npy").write_bytes(content)
    with pytest.raises(TokenError, match=message):
        read_code_file(tmp_path / "a.npy")


@pytest.mark.parametrize(
    ("value", "message"),
    [
        ({"codes": torch.zeros(2, 2)}, "holds a dict"),
        (torch.zeros(2, 2), "numbers of torch.float32"),
        (torch.zeros(2, 2, dtype=torch.bool), "numbers of torch.bool"),
        (torch.eye(3, dtype=torch.int16).to_sparse(), "holds a Tensor"),
        (torch.zeros(0, 9, dtype=torch.int16), "expected whole numbers"),
    ],
)
def test_tensors_that_are_no_codes_are_refused(tmp_path, value, message):
    torch.save(value, tmp_path / "a.pt")
    with pytest.raises(TokenError, match=message):
        read_code_file(tmp_path / "a.pt")


@given(cut=st.integers(0, 1000))
def test_a_tensor_file_cut_anywhere_is_refused(tmp_path_factory, cut):
    path = tmp_path_factory.mktemp("codes") / "a.pt"
    torch.save(torch.zeros(4, 9, dtype=torch.int16), path)
    path.write_bytes(path.read_bytes()[: min(cut, path.stat().st_size - 1)])
    with pytest.raises(TokenError):
        read_code_file(path)


@pytest.mark.filterwarnings("ignore:Detected pickle protocol")
@pytest.mark.parametrize("suffix", ["npy", "pt", "npq"])
def test_a_damaged_file_is_read_or_refused_and_nothing_else(tmp_path, suffix):
    path = tmp_path / f"a.{suffix}"
    codes = np.random.default_rng(0).integers(0, 1024, (9, 20), dtype=np.uint16)
    if suffix == "npq":
        path.write_bytes(encode_npq(make_npq(codes, num_side=0, rate_hz=86.0, codebook_size=1024)))
    else:
        write_code_file(path, codes)
    whole = path.read_bytes()
    generator = np.random.default_rng(1)
    num_refused = 0
    for _ in range(400):
        damaged = bytearray(whole)
        for place in generator.integers(0, len(whole), generator.integers(1, 4)):
            damaged[place] = generator.integers(0, 256)
        path.write_bytes(damaged)
        try:
            read_code_file(path)
        except TokenError:
            num_refused += 1
    assert num_refused > 100


def test_links_and_folders_are_refused(tmp_path):
    write_code_file(tmp_path / "real.npy", np.zeros((9, 4), np.uint16))
    (tmp_path / "link.npy").symlink_to(tmp_path / "real.npy")
    (tmp_path / "folder.npy").mkdir()
    for name in ("link.npy", "folder.npy"):
        with pytest.raises(TokenError, match="a link or no regular file"):
            read_code_file(tmp_path / name)
