"""Content-addressed caches of earlier work: examinations of files, normalised audio, codes."""
