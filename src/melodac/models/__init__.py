"""Language model over delayed codes, with its KV cache and text conditioning."""
