"""Tokens that enter and leave: the store as it is written, and code files of other programs."""
