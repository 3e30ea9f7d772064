"""The tiny run is what the doctor examines."""

from tests.tiny import build_model, build_trainer, data, train_config

__all__ = ["build_model", "build_trainer", "data", "train_config"]
