"""The Descript Audio Codec behind one interface: weights, exact chunked coding, training."""
