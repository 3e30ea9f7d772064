"""The language model over delayed codes, with its key-value cache."""
