"""What a trained model sounds like: sampled clips, their page, and their distance to real music."""
