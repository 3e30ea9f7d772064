"""The loop of the codec's training: time budget, resumable state, log.

Called by `pipeline/commands/codec.py`.
"""

import json
import time
from collections.abc import Callable
from pathlib import Path

from tqdm import tqdm

from melodac.codec_training.state import load_state, save_state
from melodac.codec_training.trainer import CodecTrainer

STATE_FILE = "state.pt"
LOG_FILE = "log.jsonl"
_SAVE_EVERY_S = 120.0
_LOG_EVERY = 50


def _never() -> bool:
    return False


def train_codec(
    trainer: CodecTrainer, folder: Path, minutes: float, should_stop: Callable[[], bool] = _never
) -> None:
    """Train for a budget of wall-clock minutes, resuming from `folder` and saving there.

    Args:
        trainer: The codec.
        folder: Folder of the state and the log.
        minutes: Budget of this run.
        should_stop: Called before each update; True ends the run. The state is saved in any case.
    """
    folder.mkdir(parents=True, exist_ok=True)
    path = folder / STATE_FILE
    if path.exists():
        load_state(path, trainer.state, trainer.architecture)
    if not trainer.state.is_fitted:
        trainer.fit()
        save_state(path, trainer.state, trainer.architecture)
    start = saved = last = time.monotonic()
    with (
        (folder / LOG_FILE).open("a", encoding="utf-8") as log,
        tqdm(initial=trainer.state.update, unit="update", mininterval=5.0) as bar,
    ):
        while time.monotonic() - start < minutes * 60 and not should_stop():
            terms = trainer.update()
            now = time.monotonic()
            trainer.state.seconds += now - last
            last = now
            bar.update()
            if trainer.state.update % _LOG_EVERY == 0:
                bar.set_postfix_str(f"loss {sum(terms.values()) - terms['gradient_norm']:.2f}")
                record = {"update": trainer.state.update, "seconds": trainer.state.seconds} | terms
                log.write(json.dumps(record) + "\n")
                log.flush()
            if now - saved > _SAVE_EVERY_S:
                save_state(path, trainer.state, trainer.architecture)
                saved = now
    save_state(path, trainer.state, trainer.architecture)
