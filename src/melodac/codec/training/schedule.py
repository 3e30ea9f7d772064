"""Learning rates of the codec's training as pure functions of the update; the trainer's alone."""

import math

from melodac.codec.training.config import CodecTrainingConfig


def learning_rate(config: CodecTrainingConfig, update: int) -> float:
    """Linear warm-up, constant, then a cosine to the final rate if a decay is set."""
    peak, final = config.learning_rate, config.final_learning_rate
    if update < config.warmup_updates:
        return peak * (update + 1) / config.warmup_updates
    if config.decay_from is None or update < config.decay_from:
        return peak
    done = min((update - config.decay_from) / config.decay_updates, 1.0)
    return final + (peak - final) * 0.5 * (1 + math.cos(math.pi * done))


def encoder_share(config: CodecTrainingConfig, update: int) -> float:
    """Learning rate of all before the decoder, relative to the decoder's, at one update."""
    if update < config.plain_updates:
        return 1.0
    settled = update >= config.plain_updates + config.settle_updates
    return config.encoder_rate_share if settled else 0.0
