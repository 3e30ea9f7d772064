"""Evaluation of models: likelihood, n-gram baselines, detectors of faults, proxies of the ear."""
