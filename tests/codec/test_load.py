"""Codecs by name: the bundled one comes with the package, small, pinned and usable offline."""

import pytest
import torch

from melodac.codec import load
from melodac.codec.load import BUNDLED_FOLDER, load_codec
from melodac.codec.weights import CONFIG_FILE, DECODER_FILE, QUANTIZER_FILE, WeightsConfig
from melodac.errors import CodecWeightsError
from melodac.files import hash_file


def test_the_bundled_codec_has_the_token_shape_of_the_official_one():
    codec = load_codec("bundled")
    shape = (codec.sample_rate_hz, codec.hop, codec.num_codebooks, codec.codebook_size)
    assert shape == (44_100, 512, 9, 1024)
    assert codec.name == "bundled"


def test_the_bundled_weights_are_those_pinned_and_named():
    config = WeightsConfig.model_validate_json((BUNDLED_FOLDER / CONFIG_FILE).read_bytes())
    assert hash_file(BUNDLED_FOLDER / QUANTIZER_FILE) == config.sha256
    assert hash_file(BUNDLED_FOLDER / DECODER_FILE) == config.decoder_sha256
    assert load_codec("bundled").weights_sha256 == config.sha256
    assert config.name == "bundled"


def test_the_bundled_weights_stay_small_enough_for_git():
    sizes = [(BUNDLED_FOLDER / name).stat().st_size for name in (QUANTIZER_FILE, DECODER_FILE)]
    assert sum(sizes) <= 16 * 2**20


def test_a_codec_that_is_never_compiled_says_so_by_ignoring_the_wish():
    audio = 0.1 * torch.randn(1, 10_000, generator=torch.Generator().manual_seed(0))
    compiled, plain = (load_codec("bundled", compiled=wish) for wish in (True, False))
    assert torch.equal(compiled.encode(audio), plain.encode(audio))


def test_two_loads_give_the_same_codes_and_sound():
    audio = 0.1 * torch.randn(1, 30_000, generator=torch.Generator().manual_seed(0))
    first, second = load_codec("bundled"), load_codec("bundled")
    codes = first.encode(audio)
    assert torch.equal(second.encode(audio), codes)
    assert torch.equal(second.decode(codes), first.decode(codes))


def test_the_bundled_codec_keeps_a_tone():
    time_s = torch.arange(44_100) / 44_100
    audio = 0.3 * torch.sin(2 * torch.pi * 220 * time_s)[None]
    codec = load_codec("bundled")
    decoded = codec.decode(codec.encode(audio))[:, : audio.shape[1]]
    spectra = [torch.fft.rfft(signal[0, 8192:40_960]).abs() for signal in (audio, decoded)]
    peaks_hz = [float(spectrum.argmax()) * 44_100 / 32_768 for spectrum in spectra]
    assert peaks_hz[1] == pytest.approx(peaks_hz[0], abs=10)


def test_many_of_its_codes_are_in_use_on_one_piece(real_music):
    from melodac.audio.files.read import read_audio

    samples, _ = read_audio(real_music / "tracks" / "vibe_ace.ogg", 100.0)
    codes = load_codec("bundled").encode(torch.as_tensor(samples[:1, : 20 * 44_100]))
    used = [len(book.unique()) for book in codes[0]]
    assert min(used) > 50  # of the first: one piece has few kinds of frame
    assert sum(used) > 200 * len(used)


def test_an_unknown_name_lists_the_known_ones():
    with pytest.raises(CodecWeightsError, match="allowed: bundled, 44khz"):
        load_codec("encodec")


def test_official_weights_of_another_hash_are_refused(tmp_path, monkeypatch):
    path = tmp_path / "weights.pth"
    path.write_bytes(b"not the release")
    monkeypatch.setattr(load, "official_weights", lambda: path)
    with pytest.raises(CodecWeightsError, match="is pinned"):
        load_codec("44khz")
