"""Conversion of a recording to the codec's input: channels, sample rate, loudness, true peak."""
