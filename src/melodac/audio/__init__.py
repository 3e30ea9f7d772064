"""Sound as arrays: reading, writing, resampling, loudness."""
