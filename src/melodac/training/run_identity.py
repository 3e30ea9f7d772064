"""What a run is, as JSON values: what must agree before one of its checkpoints is resumed.

How often to save and what to keep may change on the way; all else is another run.
"""

import hashlib
import json
from collections.abc import Mapping
from typing import Any

from melodac.models.language_model import LanguageModel
from melodac.tokens.delay import DelayPattern
from melodac.tokens.windows import Starts
from melodac.training.config import TrainConfig
from melodac.training.update import TrainingData

_MAY_CHANGE = {"checkpoint_every", "keep_checkpoints", "keep_checkpoints_mb"}
"""Keys of `TrainConfig` that may differ between a checkpoint and the run that resumes it."""


def describe_identity(
    identity: Mapping[str, Any],
    model: LanguageModel,
    pattern: DelayPattern,
    *,
    data: TrainingData,
    config: TrainConfig,
) -> dict[str, Any]:
    """Everything that makes a run the run it is.

    Args:
        identity: What only the caller knows: codec, fingerprint of the data, code version.
        model: Of which shape and code vectors are told.
        pattern: Delay pattern of the codes.
        data: Of which the length and the places of windows are told.
        config: The run.
    """
    return {
        **identity,
        "model": model.config.model_dump(mode="json"),
        "vectors_sha256": model.vectors_sha256,
        "delay": {
            "name": pattern.name,
            "delays": list(pattern.delays),
            "is_flat": pattern.is_flat,
        },
        "window_frames": data.window_frames,
        "starts": _describe(data.starts),
        "train": config.model_dump(mode="json", exclude=_MAY_CHANGE),
    }


def hash_identity(identity: Mapping[str, Any]) -> str:
    """A short name of an identity, for processes to compare."""
    return hashlib.sha256(json.dumps(identity, sort_keys=True).encode()).hexdigest()


def _describe(starts: Starts) -> dict[str, Any]:
    digest = hashlib.sha256(repr(starts.bars).encode()).hexdigest() if starts.bars else None
    return {"is_fixed": starts.is_fixed, "bars_sha256": digest}
