"""Watching of runs: Prefect, Weights & Biases, and `melodac run`."""
