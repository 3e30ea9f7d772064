"""Stages of the DAG, one file each, with a `run` function; no stage imports another."""
