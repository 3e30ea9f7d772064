"""Audio files: recognition, decoding block by block, verification of completeness, writing."""
