"""What other stages load of a training run."""

import torch

from melodac.tokens.delay import build_pattern
from melodac.training.checkpoint import write_checkpoint
from pipeline import paths
from pipeline.experiment.model import load_trained
from tests.tiny import build_model

__all__ = ["build_model"]


def test_what_is_evaluated_and_played_is_what_was_validated(build_model, tmp_path, monkeypatch):
    """Validation is of the averaged weights; raw ones beside them are never used."""
    monkeypatch.chdir(tmp_path)
    raw, average = build_model(seed=0), build_model(seed=1)
    pattern = build_pattern("musicgen", 2)
    columns = [{"channel": "mono", "codebook": codebook} for codebook in range(2)]
    write_checkpoint(
        paths.CHECKPOINT,
        7,
        tensors={"model": raw.state_dict(), "ema": average.state_dict()},
        state={},
        config={
            "model": raw.config.model_dump(mode="json"),
            "delay": {"name": "musicgen", "delays": list(pattern.delays), "is_flat": False},
            "layout": {"name": "mono", "columns": columns},
        },
    )
    trained = load_trained(torch.device("cpu"))
    for name, weight in trained.model.state_dict().items():
        assert torch.equal(weight, average.state_dict()[name]), name
    assert not torch.equal(trained.model.head.weight, raw.head.weight)
    assert not trained.model.training
    assert trained.pattern == pattern
