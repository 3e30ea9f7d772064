"""`CodecTrainingConfig`: every setting of a codec training run, and DAC's own as a recipe.

This package may import it.
"""

from typing import Annotated, Literal

from pydantic import Field

from melodac.config import Section

Positive = Annotated[float, Field(gt=0.0)]
NonNegative = Annotated[float, Field(ge=0.0)]


class LossWeights(Section):
    """Weights of the terms of the codec's loss."""

    mel: NonNegative = 2.0
    """Multi-scale log10 mel distance, summed over seven windows."""
    log_magnitude: NonNegative = 0.5
    """Log10 magnitude distance, summed over the three longest windows."""
    complex_spectrum: NonNegative = 0.8
    """Complex spectrum distance relative to the target's, which carries phase."""
    lines: NonNegative = 0.0
    """Log10 magnitude by which the decoder's stride rings above the target, 2756 Hz and up."""
    waveform: NonNegative = 2.0
    """Mean absolute sample difference."""
    commitment: NonNegative = 1.0
    """Squared distance of latents to their codebook vectors, relative to the latents' power."""
    codebook: NonNegative = 1.0
    """The same distance where codebooks learn by gradient; running means need none."""
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
    drawn: Annotated[int, Field(ge=1)] | None = 2
    """Discriminators drawn an update; none takes all."""
    learning_rate: Positive = 1e-4
    """Constant. Source: DAC's 44.1 kHz configuration."""
    gradient_clip: Positive = 10.0
    """Largest gradient norm. Source: DAC's training script."""


class CodecTrainingConfig(Section):
    """Settings of one run; all but `seed` may change when a run is resumed."""

    seed: Annotated[int, Field(ge=0)] = 0
    batch_size: Annotated[int, Field(ge=1, le=4096)] = 4
    """Crops an update."""
    crop: Annotated[int, Field(ge=4096, le=1 << 20)] = 16_384
    """Samples a crop; a multiple of the hop."""
    learning_rate: Positive = 3e-4
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
    plain_updates: Annotated[int, Field(ge=0)] = 1750
    """Updates without the quantiser, before its codebooks are initialised from data; 0 takes the
    codebooks as they are, of weights that are trained further."""
    plain_noise: NonNegative = 0.3
    """Noise on the latents in that phase, relative to their level, much as quantising adds it."""
    settle_updates: Annotated[int, Field(ge=0)] = 200
    """Updates after that in which only the decoder and the codebooks learn."""
    encoder_rate_share: Annotated[float, Field(gt=0.0, le=1.0)] = 0.3
    """Learning rate of encoder and projections with the quantiser, relative to the decoder's."""
    decoder_only_from: Annotated[int, Field(ge=0)] | None = None
    """Update from which encoder and quantiser rest at their averages, so that codes stay."""
    codebooks: Literal["means", "gradient"] = "means"
    """Codebooks follow their latents as running means, or by the codebook loss as in DAC."""
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
    phase_below_hz: Positive = 2500.0
    """Frequency up to which the complex spectrum counts. Over all frequencies it left 2 to 8 kHz
    6.5 dB too quiet, 240 updates with this limit 4.8 dB."""
    weights: LossWeights = LossWeights()
    adversarial: AdversarialConfig = AdversarialConfig()
    compiled: bool = True
    """Compile encoder and decoder; worth a factor of 1.5 on CPU, after a minute's wait."""


DAC_RECIPE = CodecTrainingConfig(
    batch_size=12,
    crop=16_896,
    learning_rate=1e-4,
    warmup_updates=0,
    gradient_clip=1000.0,
    plain_updates=0,
    settle_updates=0,
    encoder_rate_share=1.0,
    quantizer_dropout=0.5,
    codebooks="gradient",
    mix_probability=0.0,
    loudness_jitter_db=(0.0, 0.0),
    weights=LossWeights(
        mel=15.0,
        log_magnitude=0.0,
        complex_spectrum=0.0,
        waveform=0.0,
        commitment=0.25,
        codebook=1.0,
        adversarial=1.0,
        feature=2.0,
    ),
    adversarial=AdversarialConfig(
        begins_at=0, lead_updates=500, shape=DiscriminatorShape(width=1.0), drawn=None
    ),
)
"""For official weights. Source: DAC's 44.1 kHz configuration, but for smaller batches and for
discriminators that learn alone at first: theirs were not released, and begin afresh."""
