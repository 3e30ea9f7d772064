"""Sampling of codes: temperature, truncation, guidance and the autoregressive loop."""
