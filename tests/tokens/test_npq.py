"""Laws of NPQ files: byte for byte there and back, and no header is believed."""

import struct

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from melodac.errors import TokenError
from melodac.token_files.code_files import NpqTokens, encode_npq, make_npq, read_npq


def header(
    magic=b"NPQ1",
    version=1,
    columns=(2,),
    rate=86.13,
    kbps=128.0,
    frames=3,
    sizes=(1024,) * 2,
    width=1,
):
    form = "<HHffI" if magic == b"NPQ1" else "<HBHHffI"
    return (
        magic
        + struct.pack(form, version, *columns, rate, kbps, frames)
        + struct.pack(f"<{len(sizes)}IB", *sizes, width)
    )


def file_of(tmp_path, content):
    path = tmp_path / "a.npq"
    path.write_bytes(content)
    return path


@st.composite
def files(draw):
    """The bytes of a file as another program may write it, and its codes."""
    width = draw(st.integers(0, 2))
    num_first, num_side = draw(st.integers(1, 9)), draw(st.integers(0, 9))
    columns = num_first + num_side
    sizes = tuple(draw(st.integers(1, 256 if width == 0 else 1024)) for _ in range(columns))
    frames = draw(st.integers(1, 7))
    generator = np.random.default_rng(draw(st.integers(0, 99)))
    codes = np.stack([generator.integers(0, size, frames) for size in sizes], axis=1)
    rate, kbps = draw(st.floats(1, 1000, width=32)), draw(st.floats(0, 9999, width=32))
    if num_side == 0 and draw(st.booleans()):
        head = header(b"NPQ1", 1, (columns,), rate, kbps, frames, sizes, width)
    else:
        mode = 1 if num_side else 0
        head = header(b"NPQ2", 1, (mode, num_first, num_side), rate, kbps, frames, sizes, width)
    return head + codes.astype(("<u1", "<u2", "<u4")[width]).tobytes(), codes, num_side


@given(file=files())
def test_what_is_read_is_written_again_byte_for_byte(tmp_path_factory, file):
    content, codes, num_side = file
    found = read_npq(file_of(tmp_path_factory.mktemp("npq"), content))
    assert np.array_equal(found.codes.T, codes)
    assert found.num_side == num_side
    assert encode_npq(found) == content


def test_sizes_are_those_of_the_format():
    mono = make_npq(np.zeros((9, 100), np.uint16), num_side=0, rate_hz=86.13, codebook_size=1024)
    stereo = make_npq(np.zeros((13, 100), np.uint16), num_side=4, rate_hz=86.13, codebook_size=1024)
    assert len(encode_npq(mono)) == 21 + 4 * 9 + 100 * 9 * 2
    assert len(encode_npq(stereo)) == 24 + 4 * 13 + 100 * 13 * 2


@given(cut=st.integers(0, 40))
def test_a_file_cut_anywhere_is_refused(tmp_path_factory, cut):
    whole = header() + np.zeros((3, 2), "<u2").tobytes()
    path = file_of(tmp_path_factory.mktemp("npq"), whole[:cut])
    assert cut < len(whole)
    with pytest.raises(TokenError, match=r"inside its header|begins with|its header speaks of"):
        read_npq(path)


PAYLOAD = np.zeros((3, 2), "<u2").tobytes()


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (header() + PAYLOAD + b"\0", "has 42 bytes, its header speaks of 3 frames"),
        (header(frames=2**32 - 1) + PAYLOAD, "4294967295 frames of 2 codes: 17179869209 bytes"),
        (header(columns=(65535,)) + PAYLOAD, "65535 codebooks, allowed are 1 to 64"),
        (header(columns=(0,), sizes=()) + PAYLOAD, "of 0 codebooks"),
        (header(frames=0), "0 frames of 2 codebooks"),
        (header(version=2) + PAYLOAD, "NPQ1 of version 2, only 1 is known"),
        (b"NPQ3" + header()[4:] + PAYLOAD, "begins with b'NPQ3'"),
        (header(rate=float("nan")) + PAYLOAD, "nan frames per second"),
        (header(rate=float("inf")) + PAYLOAD, "inf frames per second"),
        (header(rate=-86.0) + PAYLOAD, "-86.0 frames per second"),
        (header(kbps=float("nan")) + PAYLOAD, "from nan kbps"),
        (header(width=3) + PAYLOAD, "width code 3, allowed are 0, 1 and 2"),
        (header(sizes=(1024, 1025)) + PAYLOAD, r"vocabularies of \[1024, 1025\] codes"),
        (header(sizes=(1024, 0)) + PAYLOAD, "allowed are 1 to 1024"),
        (
            header(sizes=(4, 4)) + b"\4\0" + PAYLOAD[2:],
            "codebook 0 holds code 4, its vocabulary has 4",
        ),
        (header(magic=b"NPQ2", columns=(1, 2, 0)) + PAYLOAD, "channel mode 1 with 0 codebooks"),
        (header(magic=b"NPQ2", columns=(0, 1, 1)) + PAYLOAD, "channel mode 0 with 1 codebooks"),
        (header(magic=b"NPQ2", columns=(7, 1, 1)) + PAYLOAD, "channel mode 7"),
        (b"", "begins with b''"),
    ],
)
def test_a_header_that_cannot_be_is_refused(tmp_path, content, message):
    with pytest.raises(TokenError, match=message):
        read_npq(file_of(tmp_path, content))


def test_a_huge_claim_allocates_nothing(tmp_path):
    import tracemalloc

    path = file_of(tmp_path, header(columns=(64,), sizes=(1024,) * 64, frames=2**32 - 1) + PAYLOAD)
    tracemalloc.start()
    with pytest.raises(TokenError, match="its header speaks of"):
        read_npq(path)
    assert tracemalloc.get_traced_memory()[1] < 2**20
    tracemalloc.stop()


def test_a_width_of_four_bytes_is_read():
    tokens = NpqTokens("NPQ1", np.array([[7, 9]], np.uint16), 0, 86.0, 1.0, (1024,), 2)
    assert encode_npq(tokens)[-8:] == struct.pack("<II", 7, 9)
