"""Overfit gate: the real trainer must memorise a few windows and reproduce them in free runs."""
