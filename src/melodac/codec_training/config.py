"""`CodecTrainingConfig`: every setting of a codec's training run."""

from typing import Annotated

from pydantic import Field

from melodac.config import Section

Positive = Annotated[float, Field(gt=0.0)]
NonNegative = Annotated[float, Field(ge=0.0)]
Count = Annotated[int, Field(ge=1)]


class LossWeights(Section):
    """Weights of the terms of the loss."""

    mel: NonNegative = 1.0
    """Multi-scale log10 mel distance, summed over seven windows."""
    log_magnitude: NonNegative = 1.0
    """Log10 magnitude distance, summed over the three longest windows."""
    direct: NonNegative = 0.1
    """Distance of the tonal frames' log magnitudes to those of the music, before any sound."""
    adversarial: NonNegative = 0.15
    """Least-squares adversarial loss, summed over discriminators."""
    feature: NonNegative = 0.3
    """Difference of the discriminators' feature maps, summed over maps."""


class DiscriminatorShape(Section):
    """Which discriminators judge, and how wide they are."""

    periods: tuple[Annotated[int, Field(ge=1, le=64)], ...] = (2, 3, 5, 7, 11)
    """Samples by which the waveform is folded. Source: HiFi-GAN, which DAC follows."""
    windows: tuple[Annotated[int, Field(ge=64, le=8192, multiple_of=64)], ...] = (2048, 1024, 512)
    """Window lengths of the spectra, samples. Source: DAC's discriminator."""
    width: Annotated[float, Field(gt=0.0, le=1.0)] = 0.25
    """Share of DAC's channels."""


class AdversarialConfig(Section):
    """Whether, from when and by whom reconstructions are judged."""

    begins_at: Annotated[int, Field(ge=0)] | None = None
    """Update from which discriminators learn; none has no discriminators."""
    lead_updates: Annotated[int, Field(ge=0)] = 100
    """Updates they learn alone, before the codec hears of them."""
    shape: DiscriminatorShape = DiscriminatorShape()
    drawn: Count | None = 2
    """Discriminators drawn an update; none takes all."""
    learning_rate: Positive = 1e-4
    """Constant. Source: DAC's 44.1 kHz configuration."""
    gradient_clip: Positive = 10.0
    """Largest gradient norm. Source: DAC's training script."""


class CodecTrainingConfig(Section):
    """Settings of one run; all but `seed` may change when a run is resumed."""

    seed: Annotated[int, Field(ge=0)] = 0
    fit_batches: Count = 650
    """Batches whose frames the quantizer is fitted to, 384 frames each."""
    fit_rounds: Count = 10
    """Rounds of k-means for each codebook."""
    batch_size: Annotated[int, Field(ge=1, le=4096)] = 6
    """Crops an update."""
    crop_frames: Annotated[int, Field(ge=16, le=4096)] = 64
    """Frames a crop that are sounded; it is drawn with the front end's context around it."""
    updates: Count = 10_500
    """Updates over which the learning rate falls; further ones keep the last."""
    learning_rate: Positive = 1e-3
    """Peak learning rate, reached after 200 updates."""
    final_rate_share: Annotated[float, Field(gt=0.0, le=1.0)] = 0.03
    """Of the peak, at the end of a cosine."""
    gradient_clip: Positive = 5.0
    """Largest gradient norm."""
    silent_updates: Annotated[int, Field(ge=0)] = 300
    """First updates, in which magnitudes are learned directly and nothing is sounded: cheap."""
    quantizer_dropout: Annotated[float, Field(ge=0.0, le=1.0)] = 0.2
    """Share of crops that use a random number of codebooks."""
    ema_decay: Annotated[float, Field(ge=0.0, lt=1.0)] = 0.999
    """Decay of the averaged weights that are exported."""
    loudness_jitter_db: tuple[float, float] = (-8.0, 3.0)
    """Range of the random gain on top of -16 LUFS, decibels."""
    mix_probability: Annotated[float, Field(ge=0.0, le=1.0)] = 0.15
    """Share of crops that are the sum of two."""
    noise_probability: Annotated[float, Field(ge=0.0, le=1.0)] = 0.04
    """Share of crops that are noise and nothing else; music alone lets noise come back as lines."""
    first_source_share: Annotated[float, Field(ge=0.0, le=1.0)] = 0.6
    """Share of crops from the first source when there are several."""
    weights: LossWeights = LossWeights()
    adversarial: AdversarialConfig = AdversarialConfig()
