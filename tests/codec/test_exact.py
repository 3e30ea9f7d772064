"""Codes are those of exact arithmetic: no rounding, thread count or compiler changes one."""

import pytest
import torch
from torch.nn import functional

from melodac.audio.files.read import read_audio
from melodac.codec import exact
from melodac.codec import exact as compiling
from melodac.codec.architecture import DacArchitecture
from melodac.codec.dac import DacCodec
from melodac.codec.exact import TOLERANCE, Chooser, channels_last
from melodac.errors import CodecError
from tests.reference.official_codec import OFFICIAL, build_spread

CHUNKS = (1, 7, 20, 32, 50, 64, 99, 512)
RATE = 44_100


@pytest.fixture(scope="session")
def music(real_music) -> torch.Tensor:
    """Eight seconds of music in stereo whose channels differ."""
    left, _ = read_audio(real_music / "tracks" / "vibe_ace.ogg", 100.0)
    right, _ = read_audio(real_music / "tracks" / "sugar_plum_fairy.ogg", 200.0)
    stretch = slice(30 * RATE, 38 * RATE)
    return torch.stack([torch.from_numpy(side[0, stretch]) for side in (left, right)])


@pytest.fixture(scope="session")
def official(music) -> DacCodec:
    return codec_of(OFFICIAL, music[:1, : 4 * RATE])


def codec_of(architecture: DacArchitecture, audio: torch.Tensor, **options: int) -> DacCodec:
    model = build_spread(architecture, audio)
    return DacCodec(model, architecture, name="spread", weights_sha256="0" * 64, **options)


def plain_codes(codec: DacCodec, audio: torch.Tensor) -> torch.Tensor:
    """Codes of the plain DAC, the whole recording at once."""
    padded = functional.pad(audio, (0, -audio.shape[1] % codec.hop))
    with torch.no_grad():
        return codec.model.encode(padded[:, None])[1]


@pytest.mark.slow
@pytest.mark.parametrize("channels", [1, 2])
def test_every_chunk_length_gives_the_codes_of_the_plain_dac(official, music, channels):
    audio = music[:channels, : 100 * official.hop]
    whole = plain_codes(official, audio)
    for official.chunk_frames in CHUNKS:
        frames = 20 if official.chunk_frames < 10 else 100  # all but the last length cut it
        part = audio[:, : (frames + 20) * official.hop]
        assert torch.equal(official.encode(part)[..., :frames], whole[..., :frames])


@pytest.mark.slow
def test_float32_errs_less_than_is_allowed_for(official, music):
    assert_error_within_tolerance(official.model, OFFICIAL, music[:, : 2 * RATE])


def assert_error_within_tolerance(model, architecture, audio):
    codec = DacCodec(model, architecture, name="any", weights_sha256="0" * 64)
    audio = audio[:, None, : audio.shape[1] // codec.hop * codec.hop].clone()
    audio[..., :RATE] *= 1e-3  # the error of quiet frames beside loud ones is the largest
    exact_encoder, chooser = codec._encoder._exact
    with torch.no_grad():
        residual, truth = codec.model.encoder(audio), exact_encoder(audio.double())
        size, codes = truth.norm(dim=1), chooser.choose(truth).codes
        stages = zip(codec.model.quantizer.quantizers, chooser._stages, strict=True)
        for k, (stage, exact_stage) in enumerate(stages):
            error = (stage.in_proj(residual) - exact_stage.in_proj(truth)).norm(dim=1)
            assert float((error / (chooser._gains[k] * size)).max()) < TOLERANCE
            residual = residual - stage.out_proj(stage.codebook(codes[:, k]).mT)
            truth = truth - exact_stage.out_proj(exact_stage.codebook(codes[:, k]).mT)


def test_an_encoder_that_errs_within_the_tolerance_gives_exact_codes(make_tiny, monkeypatch):
    monkeypatch.setattr(exact, "TOLERANCE", 1e-2)
    codec = make_tiny()
    audio = 0.3 * torch.randn(1, 1, 4000, generator=torch.Generator().manual_seed(1))

    def rounded(x):
        latents = codec.model.encoder(x)
        noise = torch.randn(latents.shape, generator=torch.Generator().manual_seed(2))
        return latents + noise * (0.005 * latents.norm(dim=1) / noise.norm(dim=1))[:, None]

    with torch.inference_mode():
        double, chooser = codec._encoder._exact
        truth = chooser.choose(double(audio.double())).codes
        rough = Chooser(codec.model.quantizer).choose(rounded(audio))
        assert not torch.equal(rough.codes, truth)
        assert not rough.is_close.all()
        assert torch.equal(codec._encoder.encode(audio, [slice(0, 500)], rounded), truth)


def test_a_choice_between_two_equal_codes_is_close(make_tiny):
    quantizer, latents = make_tiny().model.quantizer, torch.randn(1, 12, 500)
    codebook = quantizer.quantizers[0].codebook.weight
    favourite = int(Chooser(quantizer).choose(latents).codes[:, 0].mode().values)
    codebook[favourite - 1] = codebook[favourite]
    choice = Chooser(quantizer).choose(latents)
    is_twin = (choice.codes[:, 0] == favourite) | (choice.codes[:, 0] == favourite - 1)
    assert is_twin.any()
    assert choice.is_close[is_twin].all()
    assert not choice.is_close.all()


@pytest.mark.parametrize("threads", [1, 2])
def test_the_number_of_threads_changes_no_code(make_tiny, threads):
    before = torch.get_num_threads()
    audio = 0.3 * torch.randn(2, 9000, generator=torch.Generator().manual_seed(3))
    reference = make_tiny(chunk_frames=2000).encode(audio)
    torch.set_num_threads(threads)
    try:
        assert torch.equal(make_tiny().encode(audio), reference)
    finally:
        torch.set_num_threads(before)


def test_channels_last_changes_the_layout_alone(make_tiny):
    encoder = make_tiny().model.encoder
    x = torch.randn(1, 1, 800)
    wide = channels_last(encoder)(x[:, :, None])[:, :, 0]
    torch.testing.assert_close(wide, encoder(x), rtol=1e-4, atol=1e-4)


def test_without_a_compiler_asking_for_compiled_code_is_an_error(make_tiny, monkeypatch):
    monkeypatch.setattr(compiling.shutil, "which", lambda name: None)
    assert not compiling.can_compile()
    with pytest.raises(CodecError, match=r"install g\+\+"):
        make_tiny(is_compiled=True)


@pytest.mark.slow
@pytest.mark.filterwarnings("default")  # the compiler's own warnings are not ours to fix
def test_compiled_codes_equal_eager_ones(make_tiny):
    if not compiling.can_compile():
        pytest.skip("no C++ compiler (set CXX)")
    audio = 0.3 * torch.randn(2, 9000, generator=torch.Generator().manual_seed(4))
    codec = make_tiny(is_compiled=True)
    for samples in (9000, 3001, 50):  # the last is shorter than the one window compiled
        part = audio[:, :samples]
        assert torch.equal(codec.encode(part), make_tiny().encode(part))
