"""The doctor of a training run: what its checkpoints and its log say about its health."""
