"""One experiment: its data, its model, the directory and the log of its training, its health."""
