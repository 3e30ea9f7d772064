"""However a stream is parted, its chunks tile the recording and read their halo."""

import torch
from hypothesis import given
from hypothesis import strategies as st

from melodac.codec.streams import ChunkShape, read_chunks

shapes = st.builds(
    ChunkShape,
    frames=st.integers(1, 30),
    halo=st.integers(0, 6),
    frame_length=st.integers(1, 4),
    is_fixed=st.booleans(),
)
block_lengths = st.lists(st.integers(0, 200), max_size=12)


def blocks_of(lengths: list[int]) -> list[torch.Tensor]:
    return list(torch.arange(1, sum(lengths) + 1)[None].split(lengths, dim=1))


@given(block_lengths, shapes)
def test_chunks_tile_the_recording_and_read_their_halo(lengths, shape):
    num_frames = -(-sum(lengths) // shape.frame_length)
    chunks = [chunk for chunk, _ in read_chunks(blocks_of(lengths), shape)]
    covered = [frame for chunk in chunks for frame in range(chunk.start, chunk.stop)]
    assert covered == list(range(num_frames))
    for chunk in chunks:
        assert chunk.read_start <= max(0, chunk.start - shape.halo)
        assert chunk.read_stop >= min(num_frames, chunk.stop + shape.halo)
        assert 0 <= chunk.read_start < chunk.read_stop <= num_frames


@given(block_lengths, shapes)
def test_windows_hold_the_recording_and_zeros_only_past_its_end(lengths, shape):
    whole = torch.arange(1, sum(lengths) + 1)[None]
    padded = torch.nn.functional.pad(whole, (0, -whole.shape[1] % shape.frame_length))
    for chunk, window in read_chunks(blocks_of(lengths), shape):
        first, last = (end * shape.frame_length for end in (chunk.read_start, chunk.read_stop))
        assert torch.equal(window, padded[:, first:last])


@given(block_lengths, shapes)
def test_all_windows_of_a_fixed_shape_are_equally_long(lengths, shape):
    shape = ChunkShape(shape.frames, shape.halo, shape.frame_length, is_fixed=True)
    windows = [window.shape[1] for _, window in read_chunks(blocks_of(lengths), shape)]
    if len(windows) > 1:
        assert set(windows) == {shape.window * shape.frame_length}


def test_a_long_stream_is_never_held_whole():
    held = 0

    def blocks():
        nonlocal held
        for _ in range(1000):
            held += 100
            yield torch.zeros(1, 100)

    shape = ChunkShape(frames=20, halo=4, frame_length=10)
    for chunk, _ in read_chunks(blocks(), shape):
        assert held <= chunk.read_stop * 10 + 200


def test_blocks_of_one_sample_cost_no_more_than_large_ones():
    shape = ChunkShape(frames=20, halo=4, frame_length=10)
    whole = torch.arange(5000)[None]
    large = list(read_chunks([whole], shape))
    small = list(read_chunks(whole.split(1, dim=1), shape))
    assert [chunk for chunk, _ in small] == [chunk for chunk, _ in large]
