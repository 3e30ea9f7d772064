"""The bundled kind of codec: codes and sound depend on the samples alone, bit for bit."""

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from melodac.audio.files.read import read_audio
from melodac.codec.load import load_codec
from melodac.codec.spectral_codec import DECODED_FRAMES, ENCODED_FRAMES
from melodac.errors import CodecError
from tests.codec.conftest import RATE_HZ, build_spectral, compose

HOP = 512


LOUDEST_LINE_DB = 14.0
"""Above its surroundings, of white noise; a decoder that never heard noise reached 15.7."""


def chords(channels: int, num_samples: int) -> torch.Tensor:
    return torch.stack([compose(seed, num_samples) for seed in range(channels)])


LONG = chords(2, (DECODED_FRAMES + ENCODED_FRAMES + 40) * HOP)
"""More than one chunk of either kind, whose ends lie apart."""


@settings(max_examples=25)
@given(
    cuts=st.lists(st.integers(0, LONG.shape[1]), max_size=6),
    frames=st.lists(st.integers(0, LONG.shape[1] // HOP), max_size=6),
    channels=st.integers(1, 2),
)
def test_every_split_into_blocks_gives_the_codes_and_the_sound_of_the_whole(cuts, frames, channels):
    codec, audio = build_spectral(), LONG[:channels]
    codes = codec.encode(audio)
    blocks = np.split(audio.numpy(), sorted(cuts), axis=1)
    assert torch.equal(torch.cat(list(codec.encode_blocks(blocks)), dim=2), codes)
    pieces = codec.decode_blocks(codes.tensor_split(sorted(frames), dim=2))
    assert np.array_equal(np.concatenate(list(pieces), axis=1), codec.decode(codes).numpy())


@settings(max_examples=15)
@given(num_samples=st.integers(1, 60 * HOP), start=st.integers(0, 30))
def test_chunks_give_what_one_window_over_everything_gives(num_samples, start):
    codec, audio = build_spectral(), LONG[:1, start * HOP : start * HOP + num_samples]
    codes = codec.encode(audio)
    padded = torch.nn.functional.pad(audio, (0, -num_samples % HOP)).double()
    assert torch.equal(codec.model.encode(padded), codes)


@pytest.mark.parametrize("frames", [1, 50, 10_000])
def test_chunks_of_another_length_give_the_same_codes(monkeypatch, frames):
    codec, audio = build_spectral(), LONG[:, : 60 * HOP + 7]
    codes = codec.encode(audio)
    monkeypatch.setattr("melodac.codec.spectral_codec.ENCODED_FRAMES", frames)
    assert torch.equal(codec.encode(audio), codes)


@pytest.mark.parametrize("num_samples", [1, HOP - 1, HOP, HOP + 1, 3 * HOP, 50 * HOP])
def test_lengths(spectral, num_samples):
    codes = spectral.encode(LONG[:, :num_samples])
    num_frames = -(-num_samples // HOP)
    assert (codes.shape, codes.dtype) == ((2, 3, num_frames), torch.int64)
    audio = spectral.decode(codes)
    assert (audio.shape, audio.dtype) == ((2, num_frames * HOP), torch.float32)
    assert torch.isfinite(audio).all()


def test_no_frame_is_no_sound(spectral):
    assert spectral.decode(torch.zeros(1, 3, 0, dtype=torch.int64)).shape == (1, 0)


def test_the_end_is_padded_with_zeros(spectral):
    audio = LONG[:, : 3 * HOP + 1]
    padded = torch.nn.functional.pad(audio, (0, HOP - 1))
    assert torch.equal(spectral.encode(audio), spectral.encode(padded))


def test_channels_are_coded_apart(spectral):
    codes = spectral.encode(LONG)
    for channel in range(2):
        alone = spectral.encode(LONG[channel : channel + 1])
        assert torch.equal(codes[channel], alone[0])
        assert torch.equal(spectral.decode(codes)[channel], spectral.decode(alone)[0])
    assert torch.equal(spectral.encode(LONG.flip(0)), codes.flip(0))


def test_the_codes_of_music_are_spread(spectral):
    codes = spectral.encode(LONG)  # else equal codes would prove nothing
    assert all(len(book.unique()) > 16 for book in codes.transpose(0, 1))


def test_codes_do_not_hear_the_sign(spectral):
    assert torch.equal(spectral.encode(-LONG), spectral.encode(LONG))


def test_the_number_of_threads_changes_no_code(spectral):
    before, codes = torch.get_num_threads(), spectral.encode(LONG)
    torch.set_num_threads(2)
    try:
        assert torch.equal(spectral.encode(LONG), codes)
    finally:
        torch.set_num_threads(before)


def test_fewer_codebooks_sound_coarser_and_whole(spectral):
    codes = spectral.encode(LONG[:1])
    sounds = [spectral.decode(codes[:, :depth]) for depth in (1, 2, 3)]
    assert len({sound.shape for sound in sounds}) == 1
    assert not torch.equal(sounds[0], sounds[1])
    assert not torch.equal(sounds[1], sounds[2])


def test_the_model_is_frozen(spectral):
    assert not any(module.training for module in spectral.model.modules())
    assert not any(parameter.requires_grad for parameter in spectral.model.parameters())


@pytest.mark.parametrize("dtype", [torch.int32, torch.int16])
def test_decoding_accepts_any_integer_type(spectral, dtype):
    codes = spectral.encode(LONG[:, :9000])
    assert torch.equal(spectral.decode(codes.to(dtype)), spectral.decode(codes))


@pytest.mark.parametrize(
    ("audio", "message"),
    [
        (torch.zeros(1, 0), "at least one"),
        (torch.full((1, 9), float("nan")), "not finite"),
    ],
)
def test_audio_that_cannot_be_encoded_is_refused(spectral, audio, message):
    with pytest.raises(CodecError, match=message):
        spectral.encode(audio)


@pytest.mark.parametrize(
    ("codes", "message"),
    [
        (torch.full((1, 3, 4), 32), "from 32 to 32"),
        (torch.full((1, 3, 4), -1), "from -1 to -1"),
        (torch.zeros(1, 4, 4, dtype=torch.int64), "1 to 3 codebooks"),
        (torch.zeros(1, 0, 4, dtype=torch.int64), "1 to 3 codebooks"),
    ],
)
def test_codes_that_cannot_be_decoded_are_refused(spectral, codes, message):
    with pytest.raises(CodecError, match=message):
        spectral.decode(codes)


@pytest.mark.parametrize("blocks", [[], [np.zeros((1, 0), np.float32)]])
def test_a_stream_without_a_sample_is_refused(spectral, blocks):
    with pytest.raises(CodecError, match="at least one"):
        list(spectral.encode_blocks(iter(blocks)))


def test_a_stream_whose_channels_change_is_refused(spectral):
    blocks = [np.zeros((1, 900), np.float32), np.zeros((2, 900), np.float32)]
    with pytest.raises(CodecError, match="channels cannot change"):
        list(spectral.encode_blocks(iter(blocks)))


def test_the_bundled_codec_streams_real_music_bit_for_bit(real_music):
    samples, _ = read_audio(real_music / "tracks" / "solo_trumpet.ogg", max_duration_s=60.0)
    audio = samples[:, : 8 * RATE_HZ]
    codec = load_codec("bundled")
    codes = codec.encode(torch.from_numpy(audio))
    blocks = np.array_split(audio, 7, axis=1)
    assert torch.equal(torch.cat(list(codec.encode_blocks(blocks)), dim=2), codes)
    pieces = list(codec.decode_blocks(codes.split(37, dim=2)))
    assert np.array_equal(np.concatenate(pieces, axis=1), codec.decode(codes).numpy())


@pytest.fixture(scope="module")
def level_of_noise_db():
    """Level of every 5.4 Hz after white noise went through the bundled codec."""
    generator = torch.Generator().manual_seed(0)
    noise = 0.1 * torch.randn(1, 12 * RATE_HZ, generator=generator)
    codec = load_codec("bundled")
    audio = codec.decode(codec.encode(noise))[0, RATE_HZ:]
    frames = audio.unfold(0, 16 * HOP, 4 * HOP) * torch.hann_window(16 * HOP)
    power = torch.fft.rfft(frames).abs().square().mean(0).clamp(min=1e-12)
    return 10 * power.log10()


def test_the_bundled_codec_adds_no_lines_of_the_frame_rate(level_of_noise_db):
    levels_db = level_of_noise_db[16:3200].unflatten(0, (-1, 16)).mean(0)  # up to 17 kHz
    # every sixteenth bin is a multiple of the frame rate: 199 of them, each off by 5 dB at most
    assert float(levels_db[0] - levels_db[4:13].mean()) < 1.5


def test_noise_comes_back_without_steady_lines(level_of_noise_db):
    surroundings_db = level_of_noise_db[:3700].unfold(0, 121, 1).median(-1).values  # up to 20 kHz
    lines_db = level_of_noise_db[60:3640] - surroundings_db
    assert lines_db.max() < LOUDEST_LINE_DB
