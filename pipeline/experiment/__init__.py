"""Experiment: its data, model, run directory, training log and health."""
