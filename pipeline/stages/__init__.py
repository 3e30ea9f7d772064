"""Stages of the DAG, one file each; a stage has a `run` function and imports no other stage."""
