"""A DAC's result depends on the samples alone: not on chunks, batches or calls before."""

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from melodac.codec.architecture import build_model
from melodac.codec.dac import DacCodec
from melodac.errors import CodecError
from tests.codec.conftest import build_tiny, build_tiny_model

HOP = 8  # of the tiny codec


def noise(channels: int, samples: int, seed: int = 0) -> torch.Tensor:
    return 0.3 * torch.randn(channels, samples, generator=torch.Generator().manual_seed(seed))


@settings(max_examples=30)
@given(
    samples=st.integers(1, 1200),
    channels=st.integers(1, 2),
    chunk=st.integers(1, 160),
    batch=st.integers(1, 5),
)
def test_chunked_coding_equals_whole_file_coding(samples, channels, chunk, batch):
    codec = tiny(chunk_frames=chunk, batch_chunks=batch)
    whole = tiny(chunk_frames=10_000)
    audio = noise(channels, samples, seed=samples)
    codes = codec.encode(audio)
    assert torch.equal(codes, whole.encode(audio))
    torch.testing.assert_close(codec.decode(codes), whole.decode(codes), rtol=1e-4, atol=1e-4)


def test_codes_and_audio_equal_those_of_the_plain_dac(make_tiny):
    plain = build_tiny_model()
    codec, audio = make_tiny(), noise(1, 4001)
    with torch.no_grad():
        latents, codes, *_ = plain.encode(plain.preprocess(audio[None], None))
        decoded = plain.decode(latents)[:, 0]
    assert torch.equal(codec.encode(audio), codes)
    torch.testing.assert_close(codec.decode(codes), decoded, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("samples", [1, HOP - 1, HOP, HOP + 1, 50 * HOP])
def test_lengths(make_tiny, samples):
    codec = make_tiny()
    codes = codec.encode(noise(2, samples))
    frames = -(-samples // HOP)
    assert codes.shape == (2, 3, frames)
    assert codes.dtype == torch.int64
    assert codec.decode(codes).shape == (2, frames * HOP)


def test_the_end_is_padded_with_zeros(make_tiny):
    codec, audio = make_tiny(), noise(1, 3 * HOP + 1)
    padded = torch.nn.functional.pad(audio, (0, HOP - 1))
    assert torch.equal(codec.encode(audio), codec.encode(padded))


def test_encoding_twice_gives_the_same_codes(make_tiny):
    codec, audio = make_tiny(), noise(1, 5000)
    first = codec.encode(audio)
    codec.decode(first)
    assert torch.equal(codec.encode(audio), first)


def test_channels_are_coded_apart(make_tiny):
    codec, audio = make_tiny(), noise(2, 3000)
    swapped = codec.encode(audio.flip(0))
    assert torch.equal(codec.encode(audio).flip(0), swapped)


def test_the_model_is_frozen(make_tiny):
    model = make_tiny().model
    assert not any(module.training for module in model.modules())
    assert not any(parameter.requires_grad for parameter in model.parameters())


def test_the_codes_of_noise_are_spread(make_tiny):
    codes = make_tiny().encode(noise(1, 4000))
    assert all(len(book.unique()) > 16 for book in codes[0])  # else equal codes would prove nothing


def test_weight_norm_is_folded(tiny_architecture):
    codec = DacCodec(
        build_model(tiny_architecture), tiny_architecture, name="tiny", weights_sha256="0" * 64
    )
    names = [name for name, _ in codec.model.named_parameters()]
    assert not any(name.endswith(("weight_g", "weight_v")) for name in names)


def test_decoding_accepts_any_integer_type(make_tiny):
    codec = make_tiny()
    codes = codec.encode(noise(1, 400))
    assert torch.equal(codec.decode(codes.to(torch.int32)), codec.decode(codes))


@pytest.mark.parametrize(
    ("audio", "message"),
    [
        (torch.zeros(1, 0), "at least one"),
        (torch.full((1, 9), float("nan")), "not finite"),
        (torch.full((1, 9), float("inf")), "not finite"),
    ],
)
def test_audio_that_cannot_be_encoded_is_refused(make_tiny, audio, message):
    with pytest.raises(CodecError, match=message):
        make_tiny().encode(audio)


@pytest.mark.parametrize(
    ("codes", "message"),
    [
        (torch.full((1, 3, 4), 32), "from 32 to 32"),
        (torch.full((1, 3, 4), -1), "from -1 to -1"),
        (torch.zeros(1, 4, 4, dtype=torch.int64), "1 to 3 codebooks"),
        (torch.zeros(1, 0, 4, dtype=torch.int64), "1 to 3 codebooks"),
    ],
)
def test_codes_that_cannot_be_decoded_are_refused(make_tiny, codes, message):
    with pytest.raises(CodecError, match=message):
        make_tiny().decode(codes)


def test_an_empty_chunk_is_refused(make_tiny):
    with pytest.raises(CodecError, match="chunk_frames 0"):
        make_tiny(chunk_frames=0)


def tiny(**options: int) -> DacCodec:
    return build_tiny(**options)


@settings(max_examples=30)
@given(
    lengths=st.lists(st.integers(0, 400), min_size=1, max_size=8).filter(any),
    chunk=st.integers(1, 40),
    batch=st.integers(1, 3),
)
def test_a_stream_gives_the_codes_and_audio_of_the_whole(lengths, chunk, batch):
    codec = tiny(chunk_frames=chunk, batch_chunks=batch)
    audio = noise(2, sum(lengths))
    codes = codec.encode(audio)
    blocks = [block.numpy() for block in audio.split(lengths, dim=1)]
    assert torch.equal(torch.cat(list(codec.encode_blocks(blocks)), dim=2), codes)
    pieces = list(codec.decode_blocks(codes.split(7, dim=2)))
    assert np.array_equal(np.concatenate(pieces, axis=1), codec.decode(codes).numpy())


@pytest.mark.parametrize("blocks", [[], [np.zeros((1, 0), np.float32)]])
def test_a_stream_without_a_sample_is_refused(make_tiny, blocks):
    with pytest.raises(CodecError, match="at least one"):
        list(make_tiny().encode_blocks(iter(blocks)))


def test_a_stream_whose_channels_change_is_refused(make_tiny):
    blocks = [np.zeros((1, 9), np.float32), np.zeros((2, 9), np.float32)]
    with pytest.raises(CodecError, match="channels cannot change"):
        list(make_tiny().encode_blocks(iter(blocks)))


def test_code_vectors_are_what_the_decoder_adds_up_but_for_the_axes(make_tiny):
    """Inner products of narrow vectors equal those of the wide ones that `from_codes` sums."""
    codec = make_tiny()
    vectors = codec.code_vectors()
    quantizer = codec.model.quantizer
    num_codes = codec.codebook_size
    assert vectors.shape == (codec.num_codebooks, num_codes, quantizer.quantizers[0].codebook_dim)
    codes = torch.arange(num_codes).view(1, 1, -1)
    for k, stage in enumerate(quantizer.quantizers):
        with torch.no_grad():
            wide = stage.out_proj(stage.decode_code(codes[:, 0]))[0].T - stage.out_proj.bias
        torch.testing.assert_close(vectors[k] @ vectors[k].T, wide @ wide.T, rtol=1e-4, atol=1e-5)


def test_code_vectors_do_not_depend_on_the_call(make_tiny):
    assert torch.equal(make_tiny().code_vectors(), make_tiny().code_vectors())
