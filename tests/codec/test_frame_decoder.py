"""A held tone stays one line, whatever its frequency; noise is noise, and both stream."""

import math

import pytest
import torch

from melodac.codec.frame_decoder import (
    NUM_BINS,
    NUM_NOISE_SLICES,
    OVERLAP,
    WINDOW,
    FrameDecoder,
    FrameDecoderShape,
    Spectra,
    first_phases,
    sound_noise,
    sound_tonal,
    turn_phases,
)
from tests.codec.conftest import RATE_HZ

HOP = WINDOW // 4
NUM_FRAMES = 120
NOISE_BINS = 257
SILENT = -20.0
"""Log magnitude that is not heard."""


def true_magnitudes(*tones: tuple[float, float]) -> torch.Tensor:
    """Log magnitudes of every frame of held tones, each a frequency in hertz and an amplitude."""
    time_s = torch.arange(NUM_FRAMES * HOP + 2 * WINDOW, dtype=torch.float64) / RATE_HZ
    audio = sum(a * torch.sin(2 * math.pi * hertz * time_s) for hertz, a in tones)
    frames = audio.unfold(-1, WINDOW, HOP)[:NUM_FRAMES] * torch.hann_window(WINDOW).double()
    return ((torch.fft.rfft(frames).abs() / (WINDOW / 4)) + 1e-7).log().float()[None]


def spectra(tonal: torch.Tensor) -> Spectra:
    noise = torch.full((*tonal.shape[:2], NUM_NOISE_SLICES, NOISE_BINS), SILENT)
    return Spectra(tonal, noise)


def levels_db(audio: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """Frequencies and levels of a recording's middle; side lobes of the window are below -90 dB."""
    inner = audio[0, 8 * HOP : 8 * HOP + 49_152].double()
    n = torch.arange(len(inner), dtype=torch.float64) / len(inner) * 2 * math.pi
    window = 0.35875 - 0.48829 * n.cos() + 0.14128 * (2 * n).cos() - 0.01168 * (3 * n).cos()
    magnitudes = torch.fft.rfft(inner * window).abs() / window.sum() * 2
    return torch.fft.rfftfreq(len(inner), 1 / RATE_HZ), 20 * magnitudes.clamp(min=1e-9).log10()


def elsewhere_db(audio: torch.Tensor, *hertz: float) -> float:
    """Level of the loudest line that is none of the tones, relative to the loudest of all."""
    frequencies, levels = levels_db(audio)
    beside = torch.stack([(frequencies - tone).abs() > 12 for tone in hertz]).all(0)
    return float(levels[beside].max() - levels.max())


@pytest.mark.parametrize("hertz", [61.0, 333.0, 466.2, 1000.0, 4321.0, 12_345.6])
def test_a_held_tone_is_one_line_at_its_frequency(hertz):
    tonal = true_magnitudes((hertz, 0.5))
    _, phases = turn_phases(tonal, first_phases(1), 0)
    audio = sound_tonal(spectra(tonal), phases)
    frequencies, levels = levels_db(audio)
    assert float(frequencies[levels.argmax()]) == pytest.approx(hertz, abs=3)
    assert float(levels.max()) == pytest.approx(20 * math.log10(0.5), abs=1)
    assert elsewhere_db(audio, hertz) < -40
    # what a decoder does that cannot count turns: lines at multiples of the frame rate beside it
    repeated = sound_tonal(spectra(tonal), phases[:, :1].expand_as(phases))
    assert elsewhere_db(repeated, hertz) > -20


def test_partials_of_a_chord_are_all_kept_and_nothing_is_added():
    tones = ((220.0, 0.3), (277.2, 0.2), (659.3, 0.1), (3333.0, 0.05))
    tonal = true_magnitudes(*tones)
    audio = sound_tonal(spectra(tonal), turn_phases(tonal, first_phases(1), 0)[1])
    frequencies, levels = levels_db(audio)
    for hertz, amplitude in tones:
        near = levels[(frequencies - hertz).abs() < 6].max()
        assert float(near) == pytest.approx(20 * math.log10(amplitude), abs=1.5)
    assert elsewhere_db(audio, *(hertz for hertz, _ in tones)) < -30


@pytest.mark.parametrize("num_frames", [1, 2, 3, 5])
def test_the_ends_of_a_recording_are_as_loud_as_its_middle(num_frames):
    tonal = true_magnitudes((1000.0, 0.5))[:, :num_frames]
    audio = sound_tonal(spectra(tonal), turn_phases(tonal, first_phases(1), 0)[1])
    assert audio.shape == (1, num_frames * HOP)
    peaks = audio.unflatten(1, (-1, 64)).abs().amax(-1)
    assert float(peaks.max()) < 0.6
    assert float(peaks.min()) > 0.3


def test_phases_go_on_where_an_earlier_call_stopped():
    tonal = torch.randn(2, 30, NUM_BINS, generator=torch.Generator().manual_seed(0))
    turned, phases = turn_phases(tonal, first_phases(2), 5)
    first, of_first = turn_phases(tonal[:, :11], first_phases(2), 5)
    second, of_second = turn_phases(tonal[:, 11:], first[:, -1], 16)
    assert torch.equal(torch.cat([first, second], 1), turned)
    assert torch.equal(torch.cat([of_first, of_second], 1), phases)
    assert 0 <= float(turned.min()) <= float(turned.max()) < 1


def test_every_bin_follows_its_nearest_peak():
    tonal = torch.full((1, 2, NUM_BINS), -9.0)
    tonal[:, :, [100, 600]] = 0.0
    before = torch.rand(1, NUM_BINS, generator=torch.Generator().manual_seed(0))
    turned, phases = turn_phases(tonal, before, 0)
    assert torch.equal(turned, phases)  # both are as sharp as a tone
    for frame in turned[0]:  # both bins turn whole times a hop, and so stay where they were
        torch.testing.assert_close(frame[:351], before[0, 100].expand(351), rtol=0, atol=1e-5)
        torch.testing.assert_close(frame[351:], before[0, 600].expand(674), rtol=0, atol=1e-5)


@pytest.mark.parametrize("slope", [0.0, -0.01])
def test_a_spectrum_without_a_peak_is_noise(slope):
    tonal = (slope * torch.arange(NUM_BINS)).expand(1, 300, -1)
    _, phases = turn_phases(tonal, first_phases(1), 0)
    phases = phases % 1  # scattered evenly: 307,500 numbers in 16 bins of 19,219 +- 134
    counts = torch.histc(phases, bins=16, min=0, max=1)
    assert float((counts - phases.numel() / 16).abs().max()) < 5 * 134
    audio = sound_tonal(spectra(tonal), phases)
    assert float(audio.square().mean().sqrt() / audio.abs().max()) > 0.1  # no pulse


def noise_spectra(num_frames: int) -> Spectra:
    loud = torch.zeros(1, num_frames, NUM_NOISE_SLICES, NOISE_BINS)
    return Spectra(torch.full((1, num_frames, NUM_BINS), SILENT), loud)


def test_noise_is_a_function_of_the_frame_in_the_recording():
    whole = sound_noise(noise_spectra(40), 0)
    part = sound_noise(noise_spectra(20), 15)
    reach = OVERLAP * HOP
    assert torch.equal(part[:, reach:-reach], whole[:, 15 * HOP + reach : 35 * HOP - reach])


def test_noise_is_white_and_never_repeats():
    audio = sound_noise(noise_spectra(400), 1000)[0, HOP:-HOP].double()
    power = (
        torch.fft.rfft(audio.unfold(0, 256, 256) * torch.hann_window(256).double()).abs().square()
    )
    bands_db = 10 * power.mean(0)[2:-2].log10()
    assert float(bands_db.max() - bands_db.min()) < 2  # 800 slices: a deviation of 0.15 dB
    spectrum = torch.fft.rfft(audio - audio.mean(), n=2 * len(audio)).abs().square()
    likeness = torch.fft.irfft(spectrum)[: len(audio)] / audio.square().sum()
    assert float(likeness[1:].abs().max()) < 0.05  # a white signal of 204,000 samples: 0.01


def test_noise_has_the_level_it_is_asked_for():
    loud, quiet = (
        sound_noise(Spectra(s.tonal, s.noise - step), 0).std()
        for s, step in ((noise_spectra(50), 0.0), (noise_spectra(50), 2.0))
    )
    assert float(loud / quiet) == pytest.approx(math.exp(2), rel=1e-3)


def test_a_frame_is_described_from_its_receptive_field_alone():
    torch.manual_seed(0)
    shape = FrameDecoderShape(dim=16, num_blocks=2, num_noise_bands=8)
    decoder = FrameDecoder(shape, 6, RATE_HZ)
    points = torch.randn(1, 40, 6, requires_grad=True)
    tonal, noise = decoder(points)
    assert (tonal.shape, noise.shape) == ((1, 40, NUM_BINS), (1, 40, NUM_NOISE_SLICES, NOISE_BINS))
    (tonal[:, 20].sum() + noise[:, 20].sum()).backward()
    heard = points.grad.abs().sum(-1)[0].nonzero()[:, 0]
    assert (int(heard[0]), int(heard[-1])) == (
        20 - shape.receptive_field,
        20 + shape.receptive_field,
    )


def test_sound_has_gradients_everywhere():
    tonal = true_magnitudes((333.0, 0.5))[:, :6].requires_grad_()
    noise = torch.full((1, 6, NUM_NOISE_SLICES, NOISE_BINS), -3.0, requires_grad=True)
    both = Spectra(tonal, noise)
    audio = sound_tonal(both, turn_phases(tonal, first_phases(1), 0)[1]) + sound_noise(both, 0)
    audio.square().sum().backward()
    assert all(torch.isfinite(x.grad).all() for x in (tonal, noise))
    assert all((x.grad != 0).float().mean() > 0.9 for x in (tonal, noise))


def test_no_bin_is_louder_than_full_scale_whatever_codes_come_together():
    shape = FrameDecoderShape(dim=8, num_blocks=1, num_noise_bands=8)
    torch.manual_seed(0)
    decoder = FrameDecoder(shape, 4, 44_100)
    spectra = decoder(1e4 * torch.randn(1, 6, 4))
    assert spectra.tonal.max().item() == 0.0
    assert spectra.noise.max().item() <= 0.0
