"""Token store: codes of every track in a few large files, each with a hash."""
