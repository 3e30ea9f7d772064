"""`CodecTrainingConfig`: settings of a codec's training run."""

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
    """Set of discriminators and their width."""

    periods: tuple[Annotated[int, Field(ge=1, le=64)], ...] = (2, 3, 5, 7, 11)
    """Periods in samples by which the waveform is folded. Source: HiFi-GAN, which DAC follows."""
    windows: tuple[Annotated[int, Field(ge=64, le=8192, multiple_of=64)], ...] = (2048, 1024, 512)
    """Window lengths of the spectra, samples. Source: DAC's discriminator."""
    width: Annotated[float, Field(gt=0.0, le=1.0)] = 0.25
    """Share of DAC's channels."""


class AdversarialConfig(Section):
    """Settings of adversarial training."""

    begins_at: Annotated[int, Field(ge=0)] | None = None
    """Update from which discriminators train; None trains without discriminators."""
    lead_updates: Annotated[int, Field(ge=0)] = 100
    """Updates the discriminators train alone, before they enter the codec's loss."""
    shape: DiscriminatorShape = DiscriminatorShape()
    drawn: Count | None = 2
    """Discriminators drawn per update; None uses all."""
    learning_rate: Positive = 1e-4
    """Learning rate of the discriminators, constant. Source: DAC's 44.1 kHz configuration."""
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
    """Crops per update."""
    crop_frames: Annotated[int, Field(ge=16, le=4096)] = 64
    """Frames of a crop that are decoded; the front end's context is drawn around them."""
    updates: Count = 10_500
    """Updates of the learning-rate schedule; later ones keep its last rate."""
    learning_rate: Positive = 1e-3
    """Peak learning rate, reached after 200 updates."""
    final_rate_share: Annotated[float, Field(gt=0.0, le=1.0)] = 0.03
    """Learning rate at the end of the cosine, as a share of the peak."""
    gradient_clip: Positive = 5.0
    """Largest gradient norm."""
    silent_updates: Annotated[int, Field(ge=0)] = 300
    """First updates, which only compare log magnitudes and synthesise no sound: cheap."""
    quantizer_dropout: Annotated[float, Field(ge=0.0, le=1.0)] = 0.2
    """Share of crops coded with a random number of codebooks."""
    ema_decay: Annotated[float, Field(ge=0.0, lt=1.0)] = 0.999
    """Decay of the EMA weights, which are the ones exported."""
    loudness_jitter_db: tuple[float, float] = (-8.0, 3.0)
    """Range of the random gain, in dB relative to -16 LUFS."""
    mix_probability: Annotated[float, Field(ge=0.0, le=1.0)] = 0.15
    """Share of crops that are the sum of two."""
    noise_probability: Annotated[float, Field(ge=0.0, le=1.0)] = 0.04
    """Share of crops that are pure noise; without them noise is reconstructed as spectral lines."""
    first_source_share: Annotated[float, Field(ge=0.0, le=1.0)] = 0.6
    """Share of crops from the first source when there are several."""
    weights: LossWeights = LossWeights()
    adversarial: AdversarialConfig = AdversarialConfig()
