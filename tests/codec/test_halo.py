"""The receptive field worked out from the layers is the one gradients show."""

import pytest
import torch
from torch import nn

from melodac.codec.architecture import DacArchitecture, build_model
from melodac.codec.dac import decoder_halo, encoder_halo, input_span
from melodac.errors import CodecError
from tests.reference.codec_span import inputs_read

OFFICIAL = DacArchitecture(
    encoder_dim=1,  # channels do not change what is seen, but the time this test takes
    encoder_rates=(2, 4, 8, 8),
    latent_dim=2,
    decoder_dim=16,
    decoder_rates=(8, 8, 4, 2),
    n_codebooks=9,
    codebook_size=8,
    codebook_dim=2,
    sample_rate=44_100,
)


def test_encoder_span_of_the_official_shape():
    span = input_span(build_model(OFFICIAL).encoder)
    assert (span.first, span.last, span.step) == (-3733, 4244, 512)


def test_halo_of_the_official_encoder():
    assert encoder_halo(build_model(OFFICIAL).encoder) == 8


def test_encoder_span_is_where_gradients_reach(tiny_architecture):
    encoder = build_model(tiny_architecture).encoder
    first, last = inputs_read(encoder, 1600, channels=1, output=100)
    span = input_span(encoder)
    assert (100 * span.step + span.first, 100 * span.step + span.last) == (first, last)


def test_decoder_span_holds_every_gradient(tiny_architecture):
    decoder = build_model(tiny_architecture).decoder
    span, hop = input_span(decoder), tiny_architecture.hop
    for output in range(100 * hop, 101 * hop):
        first, last = inputs_read(decoder, 200, tiny_architecture.latent_dim, output)
        assert output * span.step + span.first <= first
        assert last <= output * span.step + span.last


def test_decoder_halo_is_no_wider_than_needed_by_more_than_a_frame():
    decoder = build_model(OFFICIAL).decoder
    hop, frame = OFFICIAL.hop, 30
    first, _ = inputs_read(decoder, 60, OFFICIAL.latent_dim, frame * hop)
    _, last = inputs_read(decoder, 60, OFFICIAL.latent_dim, (frame + 1) * hop - 1)
    needed = max(frame - first, last - frame)
    assert needed <= decoder_halo(decoder) <= needed + 1


def test_a_network_without_convolutions_has_no_span():
    with pytest.raises(CodecError, match="convolutions"):
        input_span(nn.Linear(2, 2))


def test_snake_is_equal_to_that_of_dac():
    from melodac.codec.architecture import Snake, dac_snake_class

    torch.manual_seed(0)
    theirs = dac_snake_class()(6)
    nn.init.normal_(theirs.alpha)
    ours, x = Snake(theirs.alpha), torch.randn(2, 6, 50)
    assert torch.equal(ours(x), theirs(x))
    with torch.no_grad():
        assert torch.equal(ours(x), theirs(x))
