"""Listening page of a run, with its spectrograms."""
