"""Whoever watches a run: Prefect, Weights & Biases, and `melodac run`."""
