"""Sampled clips of a trained model, the listening page, and the distance to real music."""
