"""Files of sound for tests, in every format that can be written here; each seed sounds different."""

import io

import av
import numpy as np
import soundfile

RATE_HZ = 44_100
SECONDS = 2.0


def chords(seed, duration_s=SECONDS, *, channels=2, rate_hz=RATE_HZ):
    """Three chords over a little noise, one after the other."""
    rng = np.random.default_rng(seed)
    time_s = np.arange(round(duration_s * rate_hz)) / rate_hz
    notes_hz = rng.uniform(100, 1500, (channels, 3, 3))
    part = np.minimum((time_s * 3 / duration_s).astype(int), 2)
    waves = np.sin(2 * np.pi * notes_hz[:, part].transpose(0, 2, 1) * time_s[None, None])
    noise = 0.02 * rng.standard_normal((channels, time_s.size))
    return (0.1 * waves.sum(axis=1) + noise).astype(np.float32)


def write(path, sound, container, subtype, *, rate_hz=RATE_HZ, **settings):
    """Through libsndfile."""
    soundfile.write(path, sound.T, rate_hz, format=container, subtype=subtype, **settings)


def encode(path, sound, codec, container, *, rate_hz=RATE_HZ, bit_rate=0, options=None, streams=1):
    """Through FFmpeg; `container` is its name for the muxer."""
    layout = "stereo" if sound.shape[0] == 2 else "mono"
    with av.open(str(path), "w", format=container, container_options=options or {}) as output:
        added = [output.add_stream(codec, rate=rate_hz, layout=layout) for _ in range(streams)]
        for stream in added:
            if bit_rate:
                stream.bit_rate = bit_rate
            context = stream.codec_context
            frame = av.AudioFrame.from_ndarray(np.ascontiguousarray(sound), "fltp", layout)
            frame.sample_rate, frame.pts = rate_hz, 0
            resampler = av.AudioResampler(
                context.format, context.layout, rate_hz, frame_size=context.frame_size or 1024
            )
            for given in (frame, None):
                for piece in resampler.resample(given):
                    output.mux(stream.encode(piece))
        for stream in added:
            output.mux(stream.encode(None))


def mp3(seed, duration_s=SECONDS, *, mode="CONSTANT", level=0.5, channels=2, rate_hz=RATE_HZ):
    """The bytes of an MP3 with its Xing or Info header; `level` 0 is the best of its mode."""
    sound = chords(seed, duration_s, channels=channels, rate_hz=rate_hz)
    file = io.BytesIO()
    write(
        file, sound, "MP3", "MPEG_LAYER_III",
        rate_hz=rate_hz, bitrate_mode=mode, compression_level=level,
    )  # fmt: skip
    return file.getvalue()
