"""What other stages load of a training run."""

import torch

from melodac.models.config import LanguageModelConfig
from melodac.models.language_model import LanguageModel
from melodac.tokens.delay import build_pattern
from melodac.training.checkpoint import write_checkpoint
from pipeline import paths
from pipeline.experiment.model import load_trained

CONFIG = LanguageModelConfig(
    num_codebooks=2,
    dim=16,
    num_layers=1,
    num_heads=2,
    num_kv_heads=1,
    head_dim=8,
    ff_dim=32,
    dropout=0.1,
    rope_base=10_000.0,
)


def test_what_is_evaluated_and_played_is_what_was_validated(tmp_path, monkeypatch):
    """Validation is of the averaged weights; raw ones beside them are never used."""
    monkeypatch.chdir(tmp_path)
    torch.manual_seed(0)
    raw, average = LanguageModel(CONFIG), LanguageModel(CONFIG)
    pattern = build_pattern("musicgen", 2)
    columns = [{"channel": "mono", "codebook": codebook} for codebook in range(2)]
    write_checkpoint(
        paths.CHECKPOINT,
        7,
        tensors={"model": raw.state_dict(), "ema": average.state_dict()},
        state={},
        config={
            "model": CONFIG.model_dump(mode="json"),
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
