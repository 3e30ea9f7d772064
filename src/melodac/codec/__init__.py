"""Audio codecs behind one interface: the bundled spectral codec and DAC, coding in exact chunks."""
