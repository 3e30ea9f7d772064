"""Audio codecs behind one interface: the bundled spectral codec and the Descript Audio Codec (DAC).

Weights, exact chunked coding and streaming; training is in `codec_training`.
"""
