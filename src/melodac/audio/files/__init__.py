"""Audio files: what a file is, decoding it block by block, proof that it is whole, writing."""
