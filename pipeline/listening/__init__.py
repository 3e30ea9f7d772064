"""Listening: sampled clips of a trained model, the listening page, the distance to real music."""
