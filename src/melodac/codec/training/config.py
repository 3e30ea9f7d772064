"""`CodecTrainingConfig`: every setting of a codec training run; this package may import it."""

from typing import Annotated

from pydantic import Field

from melodac.config import Section

Positive = Annotated[float, Field(gt=0.0)]
NonNegative = Annotated[float, Field(ge=0.0)]


class LossWeights(Section):
    """Weights of the terms of the codec's loss."""

    mel: NonNegative = 2.0
    """Multi-scale log10 mel distance, summed over seven windows."""
    log_magnitude: NonNegative = 0.3
    """Log10 magnitude distance, summed over the three longest windows."""
    complex_spectrum: NonNegative = 0.8
    """Complex spectrum distance relative to the target's, which carries phase."""
    waveform: NonNegative = 2.0
    """Mean absolute sample difference."""
    commitment: NonNegative = 1.0
    """Squared distance of latents to their codebook vectors, relative to the latents' power."""


class CodecTrainingConfig(Section):
    """Settings of one run; all but `seed` may change when a run is resumed."""

    seed: Annotated[int, Field(ge=0)] = 0
    batch_size: Annotated[int, Field(ge=1, le=4096)] = 4
    """Crops an update."""
    crop: Annotated[int, Field(ge=4096, le=1 << 20)] = 16_384
    """Samples a crop; a multiple of the hop."""
    learning_rate: Positive = 4e-4
    """Peak learning rate."""
    warmup_updates: Annotated[int, Field(ge=0)] = 200
    """Updates of linear warm-up."""
    decay_from: Annotated[int, Field(ge=0)] | None = None
    """Update at which a cosine decay to `final_learning_rate` starts; none decays never."""
    decay_updates: Annotated[int, Field(ge=1)] = 4000
    """Updates the decay takes."""
    final_learning_rate: Positive = 2e-5
    """Learning rate after the decay."""
    gradient_clip: Positive = 20.0
    """Largest gradient norm."""
    plain_updates: Annotated[int, Field(ge=0)] = 1500
    """Updates without the quantiser, before its codebooks are initialised from data."""
    plain_noise: NonNegative = 0.3
    """Noise on the latents in that phase, relative to their level, much as quantising adds it."""
    settle_updates: Annotated[int, Field(ge=0)] = 200
    """Updates after that in which only the decoder and the codebooks learn."""
    encoder_rate_share: Annotated[float, Field(gt=0.0, le=1.0)] = 0.3
    """Learning rate of encoder and projections with the quantiser, relative to the decoder's."""
    initial_batches: Annotated[int, Field(ge=1)] = 150
    """Batches whose latents the codebooks are initialised from."""
    quantizer_dropout: Annotated[float, Field(ge=0.0, le=1.0)] = 0.3
    """Share of crops that use a random number of codebooks."""
    revive_every: Annotated[int, Field(ge=1)] = 50
    """Updates between revivals of codes that nothing uses."""
    revive_until: Annotated[int, Field(ge=0)] | None = None
    """Update after which codes are no longer revived; none revives always."""
    ema_decay: Annotated[float, Field(ge=0.0, lt=1.0)] = 0.998
    """Decay of the averaged weights that are exported."""
    loudness_jitter_db: tuple[float, float] = (-8.0, 3.0)
    """Range of the random gain on top of -16 LUFS, decibels."""
    mix_probability: Annotated[float, Field(ge=0.0, le=1.0)] = 0.2
    """Share of crops that are the sum of two."""
    first_source_share: Annotated[float, Field(ge=0.0, le=1.0)] = 0.6
    """Share of crops from the first source when there are several."""
    weights: LossWeights = LossWeights()
    compiled: bool = True
    """Compile encoder and decoder; worth a factor of 1.5 on CPU, after a minute's wait."""
