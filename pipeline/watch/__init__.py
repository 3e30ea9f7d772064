"""Monitoring of a run: Prefect, Weights & Biases, and `melodac run`."""
