"""Model, delay pattern and identity of an experiment, from params or from a checkpoint."""

import hashlib
import json
import logging
from typing import Any, NamedTuple

import torch

from melodac.errors import CheckpointCorruptError, ConfigError
from melodac.models.config import Embedding, LanguageModelConfig, build_config, vector_dim
from melodac.models.language_model import LanguageModel
from melodac.tokens.delay import DelayPattern, build_pattern
from melodac.tokens.layout import Layout
from melodac.training.checkpoint import Checkpoint, latest_checkpoint, load_weights
from melodac.training.conditions import Tags
from pipeline import paths
from pipeline.experiment.dataset import Dataset
from pipeline.identity import fingerprint_code
from pipeline.params import TrainParams
from pipeline.records import Split

log = logging.getLogger(__name__)
TRAINING_CODE = ("models", "tokens", "training")
"""Packages in which any change makes another training run."""


class Trained(NamedTuple):
    """Content of a checkpoint, ready to use."""

    model: LanguageModel
    """Model with the EMA weights, which are those that were validated."""
    pattern: DelayPattern
    layout: Layout
    """Layout of the columns it was trained on."""
    checkpoint: Checkpoint

    @property
    def reads_text(self) -> bool:
        """True if the model is conditioned on text."""
        return self.model.text_encoder is not None

    @property
    def has_trained_null(self) -> bool:
        """True if the null condition was trained, or the model has no other."""
        return not self.reads_text or self.checkpoint.config["train"]["unconditional_frac"] > 0


def build_train_pattern(train: TrainParams, dataset: Dataset) -> DelayPattern:
    """Build the delay pattern of the params for the columns of the layout."""
    layout = dataset.layout
    return build_pattern(train.delay, layout.num_codebooks, layout.codebooks)


def build_model(
    train: TrainParams,
    pattern: DelayPattern,
    dataset: Dataset,
    *,
    dropout: float,
    seed: int,
) -> LanguageModel:
    """Build a fresh model; the same seed gives the same weights.

    Args:
        train: Params of the model.
        pattern: Delay pattern, which gives the number of codebooks.
        dataset: Data it will be trained on. If the code vectors are unknown, one tied table for
            both ends of the model replaces `train.embedding: codec`.
        dropout: Share of activations dropped in training.
        seed: Seed of its weights.
    """
    embedding: Embedding = train.embedding
    vectors = dataset.vectors
    if embedding == "codec" and vectors is None:
        log.warning(
            "train.embedding is codec, but the token store does not say what its codes sound like "
            "(codes of an unknown codec, or a store written before): one learned table serves "
            "embedding and head instead"
        )
        embedding = "tied"
    if embedding != "codec":
        vectors = None
    config = build_config(
        train.size,
        num_codebooks=pattern.num_codebooks,
        dropout=dropout,
        reads_text=train.condition == "tags",
        embedding=embedding,
        vector_dim=0 if vectors is None else vector_dim(vectors.shape[-1]),
    )
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        if vectors is None:
            return LanguageModel(config)
        heard = torch.from_numpy(dataset.heard("train"))
        return LanguageModel(config, torch.from_numpy(vectors), heard)


def read_tags(train: TrainParams, dataset: Dataset, split: Split) -> tuple[Tags, ...]:
    """Return the tags of every track of a split; empty for a model without text.

    Raises:
        ConfigError: If the model reads text and no track of the split has tags.
    """
    if train.condition == "none":
        return ()
    tags = dataset.tags(split)
    if not any(tags):
        raise ConfigError(
            f"train.condition is tags, but no track of the {split} split has a tag that says how "
            "it sounds: write metadata.csv beside the music, or set train.condition to none"
        )
    return tags


def describe_run(model: LanguageModel, dataset: Dataset) -> dict[str, Any]:
    """Return the fields that must match to resume a checkpoint, except those the trainer adds."""
    return {
        "model": model.config.model_dump(mode="json"),
        "layout": dataset.layout.model_dump(mode="json"),
        "store": dataset.header.model_dump(mode="json"),
        "data_fingerprint": dataset.index.fingerprint,
        "tags_sha256": _hash_tags(dataset) if model.text_encoder is not None else None,
        "code_fingerprint": fingerprint_code(TRAINING_CODE),
    }


def _hash_tags(dataset: Dataset) -> str:
    tags = [dataset.tags("train"), dataset.tags("validation")]
    return hashlib.sha256(json.dumps(tags).encode()).hexdigest()


def load_trained(device: torch.device) -> Trained:
    """Load the checkpoint of the train stage.

    Raises:
        CheckpointCorruptError: If there is none or it is damaged.
    """
    found = latest_checkpoint(paths.CHECKPOINT)
    if found.checkpoint is None:
        raise CheckpointCorruptError(
            f"{paths.CHECKPOINT} holds no checkpoint: run `dvc repro train` first"
        )
    config = found.checkpoint.config
    model = LanguageModel(LanguageModelConfig.model_validate(config["model"]))
    load_weights(model, found.checkpoint, "ema")
    delay = config["delay"]
    pattern = DelayPattern(delay["name"], tuple(delay["delays"]), is_flat=delay["is_flat"])
    # JSON mode, since strict Python mode would reject JSON's lists for tuples
    layout = Layout.model_validate_json(json.dumps(config["layout"]))
    model = model.to(device).eval().requires_grad_(False)
    return Trained(model, pattern, layout, found.checkpoint)
