"""One file a stage; each has a `run` function and knows nothing of the other stages."""
