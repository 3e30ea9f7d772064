"""What a batch holds, frame by frame, how often windows count each frame, where bars begin."""

import math

import torch

from melodac.tokens.vocabulary import PAD


def read_batch(array, windows, frames, max_delay):
    B, K, W = len(windows), array.values.shape[1], frames + max_delay
    codes = torch.full((B, K, W), PAD)
    counted = torch.zeros(B, frames, dtype=torch.bool)
    for b in range(B):
        window = windows[b]
        track = array.codes(window.track)
        for w in range(W):
            if window.start + w < len(track):
                codes[b, :, w] = torch.tensor(track[window.start + w].tolist())
        for t in range(frames):
            counted[b, t] = t < window.num_frames and window.start + t < len(track)
    return codes, counted


def times_counted(windows, lengths):
    times = [[0] * length for length in lengths]
    for row in range(len(windows)):
        track, start, num_frames = windows[row]
        for frame in range(start, start + num_frames):
            times[track][frame] += 1
    return times


def bar_starts(bars, length):
    starts, bar = [], 0
    while (start := math.floor(bars.first + bar * bars.length + 0.5)) < length:
        starts.append(start)
        bar += 1
    return starts
