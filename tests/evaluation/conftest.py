"""Tracks made up for the baselines."""

from tests.tokens.conftest import make_array

__all__ = ["make_array"]
