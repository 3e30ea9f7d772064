"""The overfit gate: the real trainer memorises a few windows and runs them back first."""
