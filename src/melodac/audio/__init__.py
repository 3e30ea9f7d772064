"""Audio as arrays: reading, writing, resampling, loudness, metadata, splits."""
