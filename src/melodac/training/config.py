"""What decides a training run and the overfit gate: `TrainConfig`, its sections, `OverfitConfig`.

Every schedule counts updates. No key has a default, params.yaml is the whole truth. Each section is
handed whole to the one file that acts on it.
"""

from itertools import pairwise
from typing import Annotated, Literal

from pydantic import (
    Field,
    NonNegativeFloat,
    NonNegativeInt,
    PositiveFloat,
    PositiveInt,
    model_validator,
)

from melodac.config import Section

Share = Annotated[float, Field(ge=0.0, le=1.0)]
Fraction = Annotated[float, Field(ge=0.0, lt=1.0)]


class ObjectiveConfig(Section):
    """What training follows beside the plain loss; what is reported never contains any of it."""

    label_smoothing: Fraction
    """Probability spread evenly over the codes of a target."""
    codebook_weights: (
        Literal["uniform", "auto", "first"] | Annotated[list[NonNegativeFloat], Field(min_length=1)]
    )
    """uniform; auto: 1 + alpha k / (K - 1); first: codebook 0 alone; or one weight a codebook."""
    codebook_alpha: NonNegativeFloat
    """Alpha of `auto`."""
    entropy_bonus: NonNegativeFloat
    """Weight of the mean entropy of the predictions, rewarded."""
    entropy_updates: NonNegativeInt
    """Update at which that weight has fallen to 0; 0 never lets it fall."""
    usage_bonus: NonNegativeFloat
    """Weight of the entropy of the mean prediction of each codebook, rewarded."""
    usage_updates: NonNegativeInt
    """Update at which that weight has fallen to 0; 0 never lets it fall."""


class CorruptionConfig(Section):
    """What training reads instead of the truth; targets are always the truth."""

    token_noise: Fraction
    """Share of read codes that are replaced by random ones."""
    token_noise_updates: NonNegativeInt
    """Update at which that share has fallen to 0; 0 never lets it fall."""
    own_codes: Fraction
    """Share of read codes that are replaced by what the model says itself, at the end."""
    own_codes_from: NonNegativeInt
    """Last update without any."""
    own_codes_updates: NonNegativeInt
    """Updates of linear rise after that."""


class StabilityConfig(Section):
    """When an update is refused, when the run goes back, when it says so."""

    window: Annotated[int, Field(ge=8)]
    """Accepted updates that an outlier is judged by."""
    sigma: NonNegativeFloat
    """Robust standard deviations above their median that refuse an update; 0 refuses none but those
    that are not finite."""
    max_skips_in_a_row: PositiveInt
    """Refused updates after which the run goes back to its last good checkpoint."""
    max_skip_frac: Share
    """Share of refused updates among the last `window` above which it goes back too."""
    max_rollbacks: NonNegativeInt
    """Times it may go back before it stops."""
    rollback_learning_rate_ratio: Annotated[float, Field(gt=0.0, le=1.0)]
    """Factor on every later learning rate, each time it goes back."""
    clip_frac_alarm: Share
    """Share of clipped updates among the last `window` above which it says so."""
    update_ratio_alarm: PositiveFloat
    """Size of an update beside the weights it changes above which it says so."""


class CollapseConfig(Section):
    """What is looked at, at every validation, for a model that says less and less."""

    action: Literal["warn", "stop", "gate"]
    """warn: say it; stop: end the run; gate: run on, and fail at the end if it still holds."""
    probe_windows: NonNegativeInt
    """Validation windows looked at and as many sampled; 0 looks at nothing."""
    min_usage_ratio: Share
    """Distinct codes said beside distinct codes in the truth, on the same positions."""
    min_entropy_ratio: Share
    """Entropy of sampled codes beside the entropy of the truth."""
    max_attention_change: PositiveFloat
    """Change of a layer's attention entropy since update 0, entropy as a share of its maximum."""


class ComputeConfig(Section):
    """How numbers are computed; another choice gives other last digits."""

    precision: Literal["fp32", "bf16", "fp16"]
    """Of the forward and backward pass; weights, moments and loss are always fp32."""
    tf32: bool
    """Let CUDA multiply fp32 matrices with 10 bits of mantissa."""
    compile: bool
    """Fuse the model with `torch.compile`: minutes of waiting, then faster updates."""
    recompute: bool
    """Recompute activations in the backward pass: less memory, about a third more time."""


class TrainConfig(Section):
    """One run of the trainer."""

    updates: PositiveInt
    """Optimizer steps of the whole run."""
    windows_per_update: PositiveInt
    """Windows whose mean loss one update follows."""
    micro_batch: PositiveInt
    """Windows in memory at once; divides `windows_per_update`."""
    context: tuple[tuple[PositiveInt, PositiveInt], ...]
    """First update and window frames of each stage; empty: the index's frames all along."""
    optimizer: Literal["adamw", "muon"]
    """muon: matrices of the blocks by orthogonalised momentum, all else by AdamW."""
    learning_rate: PositiveFloat
    """Peak rate, reached after the warm-up."""
    schedule: Literal["cosine", "linear", "constant", "wsd"]
    """Way down from the peak; wsd stays there until the last `decay_updates`."""
    min_learning_rate_ratio: Share
    """Rate of the last update as a fraction of the peak; constant never leaves the peak."""
    warmup_updates: NonNegativeInt
    """Updates of linear rise; below `updates`."""
    decay_updates: NonNegativeInt
    """Updates of linear fall at the end of wsd."""
    weight_decay: NonNegativeFloat
    """Decoupled decay of matrices; embeddings, norms and biases have none."""
    beta1: Fraction
    """Memory of the mean gradient."""
    beta2: Fraction
    """Memory of the squared gradient."""
    clip_norm: PositiveFloat
    """Largest gradient norm that is used as it is."""
    ema_decay: Fraction
    """Memory of the averaged weights that are validated and sampled; 0 turns averaging off."""
    dropout: Fraction
    """Share of activations dropped in training; the model is built with it."""
    condition: Literal["none", "tags"]
    """What the model reads beside codes."""
    unconditional_frac: Fraction
    """Share of items whose condition is dropped; guidance needs some."""
    tag_shuffle: bool
    """Draw the order of an item's tags anew each time."""
    tag_dropout: Fraction
    """Share of tags left out."""
    tag_limit: NonNegativeInt
    """Most tags of an item; 0 takes all."""
    objective: ObjectiveConfig
    corruption: CorruptionConfig
    stability: StabilityConfig
    collapse: CollapseConfig
    compute: ComputeConfig
    validate_every: PositiveInt
    """Updates between validations; the last update is always validated."""
    checkpoint_every: PositiveInt
    """Updates between checkpoints; the last update is always kept."""
    keep_checkpoints: Annotated[int, Field(ge=2)]
    """Newest checkpoints kept; at least 2, so that a damaged one has a forerunner."""
    keep_checkpoints_mb: NonNegativeInt
    """Megabytes that older ones may fill; 2 stay in any case, 0 sets no limit."""
    seed: NonNegativeInt
    """Seed of initialisation, window order, dropout and all else that is drawn."""

    @model_validator(mode="after")
    def _micro_batch_divides(self) -> "TrainConfig":
        if self.windows_per_update % self.micro_batch:
            raise ValueError(
                f"micro_batch ({self.micro_batch}) must divide "
                f"windows_per_update ({self.windows_per_update})"
            )
        return self

    @model_validator(mode="after")
    def _warmup_ends_in_the_run(self) -> "TrainConfig":
        if self.warmup_updates >= self.updates:
            raise ValueError(
                f"warmup_updates ({self.warmup_updates}) must be below updates ({self.updates})"
            )
        return self

    @model_validator(mode="after")
    def _decay_fits(self) -> "TrainConfig":
        if self.warmup_updates + self.decay_updates > self.updates:
            raise ValueError(
                f"warmup_updates ({self.warmup_updates}) and decay_updates ({self.decay_updates}) "
                f"together must not exceed updates ({self.updates})"
            )
        return self

    @model_validator(mode="after")
    def _context_grows_in_order(self) -> "TrainConfig":
        firsts = [first for first, _ in self.context]
        is_ordered = all(one < other for one, other in pairwise(firsts))
        # a shorter run than params.yaml's own may end before the last stage
        if firsts and (firsts[0] != 1 or not is_ordered):
            raise ValueError(
                f"context must begin at update 1 and rise: its stages begin at {firsts}"
            )
        return self


class OverfitConfig(Section):
    """The gate before a long run: a few windows must be memorised and freely run back."""

    action: Literal["stop", "warn", "off"]
    """stop: a gate that fails ends the pipeline; warn: it is said and the pipeline goes on; off:
    nothing is memorised."""
    windows: Annotated[int, Field(ge=1, le=16)]
    """Windows to memorise; fewer where fewer can be told apart."""
    window_frames: Annotated[int, Field(ge=16, le=2048)]
    """Frames of each window; fewer where the tracks are shorter."""
    prefix_frames: PositiveInt
    """Frames given to the free run, so that it knows which window to run back; not scored. More, up
    to half a window, where these do not tell the windows apart."""
    updates: PositiveInt
    """Most updates the gate may take; all else is taken from the real run."""
    stop_loss: NonNegativeFloat
    """Teacher-forced nats per code at which memorising ends early; 0 never ends early."""
    min_accuracy: Annotated[float, Field(gt=0.0, le=1.0)]
    """Share of freely run cells that must equal the truth."""
    seed: NonNegativeInt
    """Seed of the gate's windows and initialisation."""

    @model_validator(mode="after")
    def _prefix_leaves_frames(self) -> "OverfitConfig":
        if self.prefix_frames >= self.window_frames:
            raise ValueError(
                f"prefix_frames ({self.prefix_frames}) must be below "
                f"window_frames ({self.window_frames})"
            )
        return self
