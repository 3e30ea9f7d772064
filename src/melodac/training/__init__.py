"""Loss, optimiser, schedule, checkpoints and the one training loop."""
