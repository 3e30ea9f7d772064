"""The token store: codes of every track in a few large files that prove their own bytes."""
