"""Sampled clips of a trained model, for the listening page and the comparison with real music."""
