"""The tiny run is what training is tried on."""

from tests.tiny import build_model, build_trainer, data, train_config

__all__ = ["build_model", "build_trainer", "data", "train_config"]
