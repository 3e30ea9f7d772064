"""Laws of reading and writing audio files, and what is said of files that are none."""

import os
import stat
from pathlib import Path

import numpy as np
import pytest
import soundfile
from hypothesis import given, settings
from hypothesis import strategies as st

from melodac.audio.files import read, write
from melodac.audio.files.read import open_audio, read_audio
from melodac.audio.files.write import write_flac
from melodac.errors import AudioError, AudioTooLongError, OutputError, UnreadableAudioError
from tests.audio.sounds import write_wav

RATE_HZ = 44_100
FORMATS = [
    ("wav", "PCM_16"), ("wav", "PCM_U8"), ("wav", "PCM_24"), ("wav", "PCM_32"), ("wav", "FLOAT"),
    ("flac", "PCM_16"), ("flac", "PCM_24"), ("ogg", "VORBIS"), ("mp3", "MPEG_LAYER_III"),
    ("aiff", "PCM_16"), ("caf", "PCM_24"), ("au", "PCM_16"), ("w64", "PCM_16"), ("rf64", "PCM_16"),
]  # fmt: skip


def noise(num_samples=RATE_HZ, channels=1, seed=0):
    rng = np.random.default_rng(seed)
    return rng.uniform(-0.5, 0.5, (channels, num_samples)).astype(np.float32)


@pytest.mark.parametrize(("extension", "subtype"), FORMATS, ids="-".join)
def test_every_format_is_read_to_its_end(tmp_path, extension, subtype):
    path = tmp_path / f"sound.{extension}"
    soundfile.write(path, noise(50_000, 2).T, RATE_HZ, subtype=subtype)
    audio, rate_hz = read_audio(path, 10.0)
    assert (audio.shape, rate_hz, audio.dtype) == ((2, 50_000), RATE_HZ, np.float32)
    with open_audio(path) as file:
        assert file.info.num_channels == 2


@given(
    channels=st.integers(1, 3), num_samples=st.integers(1, 3000), block=st.integers(1, 2000),
    subtype=st.sampled_from(["PCM_16", "PCM_24"]),
)  # fmt: skip
@settings(max_examples=40, deadline=None)
def test_reading_inverts_writing(tmp_path_factory, channels, num_samples, block, subtype):
    path = tmp_path_factory.mktemp("roundtrip") / "sound"
    audio = noise(num_samples, channels)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(read, "BLOCK_VALUES", block)
        patch.setattr(write, "BLOCK_SAMPLES", block)
        write_flac(path, audio, RATE_HZ, subtype)
        result, rate_hz = read_audio(path, 10.0)
    assert rate_hz == RATE_HZ
    half_step = 1.0 / 2 ** (15 if subtype == "PCM_16" else 23)
    np.testing.assert_allclose(result, audio, atol=half_step)


def test_blocks_are_bounded_and_complete(tmp_path, monkeypatch):
    monkeypatch.setattr(read, "BLOCK_VALUES", 1000)
    write_wav(tmp_path / "a.wav", noise(5001, 2), RATE_HZ)
    with open_audio(tmp_path / "a.wav") as file:
        lengths = [block.shape[1] for block in file.blocks(10.0)]
    assert max(lengths) == 500
    assert sum(lengths) == 5001


def test_cap_counts_decoded_seconds(tmp_path):
    path = tmp_path / "long.flac"
    write_flac(path, noise(3 * RATE_HZ), RATE_HZ)
    assert read_audio(path, 3.0)[0].shape[1] == 3 * RATE_HZ
    with pytest.raises(AudioTooLongError, match=r"long\.flac: too long: more than 2\.9 s"):
        read_audio(path, 2.9)


def text(path):
    path.write_text("these are the lyrics of a song\n" * 50)


def nothing(path):
    path.touch()


def header_only(path):
    soundfile.write(path, np.zeros((0, 1)), RATE_HZ, format="WAV")


def cut_flac(path):
    write_flac(path, noise(), RATE_HZ)
    path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])


def cut_mp3(path):
    soundfile.write(path, noise(10 * RATE_HZ).T, RATE_HZ, format="MP3")
    path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])


def boastful_flac(path):
    # the header's count of samples, 36 bits, says 12 days
    write_flac(path, noise(), RATE_HZ)
    raw = bytearray(path.read_bytes())
    raw[21] |= 0x0F
    path.write_bytes(raw)


def not_a_number(path):
    sound = noise()
    sound[0, 30_000] = np.nan
    soundfile.write(path, sound.T, RATE_HZ, subtype="FLOAT", format="WAV")


def slow_rate(path):
    soundfile.write(path, noise(100).T, 1, format="WAV")


def folder(path):
    path.mkdir()


def fifo(path):
    os.mkfifo(path)


def missing(path):
    pass


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (text, "not music: no format that can be decoded .*, export it as WAV or FLAC"),
        (nothing, "empty: the file has 0 bytes"),
        (header_only, "empty: holds no sample"),
        (cut_flac, "damaged: decoding stops with an error|cut off"),
        (cut_mp3, r"cut off: ends within a frame at \d\.\d s"),
        (boastful_flac, "cut off|damaged"),
        (not_a_number, "non-finite: holds NaN or infinity"),
        (slow_rate, "sample rate: 1 Hz, 4000 to 768000 Hz can be read"),
        (folder, "not a regular file"),
        (fifo, "not a regular file"),
        (missing, "cannot be opened: No such file"),
    ],
    ids=lambda value: getattr(value, "__name__", ""),
)
def test_what_is_no_whole_music_is_refused_in_plain_words(tmp_path, make, message):
    path = tmp_path / "song.wav"
    make(path)
    with pytest.raises(UnreadableAudioError, match=rf"song\.wav: ({message})"):
        read_audio(path, 60.0)


def test_reading_by_content_not_by_extension(tmp_path):
    write_flac(tmp_path / "song.raw", noise(), RATE_HZ)
    assert read_audio(tmp_path / "song.raw", 10.0)[0].shape == (1, RATE_HZ)


@pytest.mark.parametrize("name", ["gr\u00fc\u00dfe \u97f3\u697d.wav", "line\nbreak.wav"])
def test_unusual_names_are_read(tmp_path, name):
    write_wav(tmp_path / name, noise(), RATE_HZ)
    assert read_audio(tmp_path / name, 10.0)[0].shape == (1, RATE_HZ)


def test_reading_leaves_no_descriptor_open(tmp_path):
    text(tmp_path / "a.wav")
    before = len(list(Path("/proc/self/fd").iterdir()))
    for _ in range(5):
        with pytest.raises(UnreadableAudioError):
            read_audio(tmp_path / "a.wav", 1.0)
    assert len(list(Path("/proc/self/fd").iterdir())) == before


def test_writing_is_whole_or_nothing(tmp_path, monkeypatch):
    path = tmp_path / "sound.flac"
    write_flac(path, noise(100), RATE_HZ)
    before = path.read_bytes()

    def full(*_):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(write, "sync", full)
    with pytest.raises(OutputError, match=r"sound\.flac: cannot be written: No space left"):
        write_flac(path, noise(200), RATE_HZ)
    assert path.read_bytes() == before
    assert [p.name for p in tmp_path.iterdir()] == ["sound.flac"]


def test_unwritable_place_is_named(tmp_path):
    (tmp_path / "file").touch()
    with pytest.raises(OutputError, match=r"file/sound\.flac: cannot be written: "):
        write_flac(tmp_path / "file" / "sound.flac", noise(10), RATE_HZ)


def test_non_finite_audio_is_not_written(tmp_path):
    with pytest.raises(AudioError, match="NaN or infinity"):
        write_flac(tmp_path / "a.flac", np.full((1, 10), np.nan, np.float32), RATE_HZ)
    assert not (tmp_path / "a.flac").exists()


def test_samples_past_full_scale_are_clipped_not_wrapped(tmp_path):
    write_flac(tmp_path / "a.flac", np.array([[2.0, -2.0]], np.float32), RATE_HZ)
    audio, _ = read_audio(tmp_path / "a.flac", 1.0)
    np.testing.assert_allclose(audio, [[1.0, -1.0]], atol=1e-6)


def test_same_audio_is_the_same_bytes(tmp_path):
    for name in ("a", "b"):
        write_flac(tmp_path / name, noise(70_000, 2), RATE_HZ)
    assert (tmp_path / "a").read_bytes() == (tmp_path / "b").read_bytes()


def test_written_files_are_readable_by_others(tmp_path):
    write_flac(tmp_path / "a.flac", noise(10), RATE_HZ)
    assert stat.S_IMODE((tmp_path / "a.flac").stat().st_mode) & 0o400
