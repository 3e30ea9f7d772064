"""Free runs of memorised windows: from nothing or a prefix, greedy or sampled.

Generation is passed in as a function, since `training` and `sampling` do not import each other.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol, runtime_checkable

from jaxtyping import Bool, Int, Int64
from torch import Tensor

from melodac.models.condition import Condition
from melodac.models.language_model import LanguageModel
from melodac.tokens.delay import DelayPattern, cell_steps

TEMPERATURES = (0.5, 1.0)
"""Temperatures of the sampled free runs of memorised windows."""

SEEDS = (0, 1, 2)
"""Seeds of the free runs at each of these temperatures."""


@runtime_checkable
class GenerateRuns(Protocol):
    """Generation of tracks that end after a given number of frames, without top-k or top-p."""

    def __call__(
        self,
        model: LanguageModel,
        pattern: DelayPattern,
        *,
        num_frames: int,
        prefix: Int[Tensor, "B K P"],
        seeds: Sequence[int],
        temperature: float,
        condition: Condition | None,
    ) -> Int64[Tensor, "B K T"]:
        """Continue each prefix, which may be empty, with its own seed and text."""
        ...


@dataclass(frozen=True)
class Memorised:
    """Windows the model has memorised, with the function that generates from it."""

    codes: Int64[Tensor, "B K T"]
    teacher_forced: Int64[Tensor, "B K T"]
    """Likeliest code of every cell under teacher forcing."""
    condition: Condition | None
    """Texts of the windows, one per window; None for a model without text."""
    play: GenerateRuns

    def run(
        self,
        model: LanguageModel,
        pattern: DelayPattern,
        *,
        prefix_frames: int,
        temperature: float = 0.0,
        seeds: Sequence[int] = (0,),
    ) -> tuple[Int64[Tensor, "B K T"], ...]:
        """Generate every window freely, once per seed."""
        B = len(self.codes)
        found = self.play(
            model,
            pattern,
            num_frames=self.codes.shape[-1],
            prefix=self.codes[..., :prefix_frames].repeat(len(seeds), 1, 1),
            seeds=[seed for seed in seeds for _ in range(B)],
            temperature=temperature,
            condition=None if self.condition is None else self.condition.repeated(len(seeds)),
        )
        rows = found.cpu()
        return tuple(rows[run * B : (run + 1) * B] for run in range(len(seeds)))


@dataclass(frozen=True)
class Departure:
    """Cell in which cached generation and teacher forcing differ after the same past."""

    window: int
    codebook: int
    frame: int
    played: int
    """Code of the free run, which was right up to this step."""
    predicted: int
    """Likeliest code under teacher forcing."""


@dataclass(frozen=True)
class FreeRuns:
    """Accuracy of free runs: shares of right cells, given frames excluded."""

    from_nothing: float
    """Greedy, without a prefix; each run is compared with the window most like it."""
    continued: dict[int, float]
    """Greedy, by the number of frames given."""
    continued_per_codebook: tuple[float, ...]
    """Greedy, by codebook, from the prefix of the gate's config."""
    sampled: dict[float, tuple[float, ...]]
    """Sampled from that prefix: by temperature, one share per seed."""
    departure: Departure | None
    """Proof that generation is at fault; None if there is none."""


def measure_free_runs(
    model: LanguageModel, pattern: DelayPattern, memorised: Memorised, *, prefix_frames: int
) -> FreeRuns:
    """Run the windows freely in every way: greedy and sampled, with and without a prefix.

    Args:
        model: Model that has memorised the windows.
        pattern: Delay pattern it was trained with.
        memorised: The windows.
        prefix_frames: Frames given by the gate's config.
    """
    codes, teacher_forced = memorised.codes, memorised.teacher_forced
    departure: Departure | None = None
    right: dict[int, Bool[Tensor, "B K T"]] = {}
    for given in sorted({1, prefix_frames, codes.shape[-1] // 2}):
        (found,) = memorised.run(model, pattern, prefix_frames=given)
        right[given] = (found == codes)[..., given:]
        # a shorter prefix may leave two windows equally likely, and then rounding decides
        if given == prefix_frames:
            departure = find_departure(found, codes, teacher_forced, pattern)
    (alone,) = memorised.run(model, pattern, prefix_frames=0)
    # a single window must come back without a prefix; of several nothing says which to start
    if len(codes) == 1 and departure is None:
        departure = find_departure(alone, codes, teacher_forced, pattern)
    sampled: dict[float, tuple[float, ...]] = {}
    for temperature in TEMPERATURES:
        runs = memorised.run(
            model, pattern, prefix_frames=prefix_frames, temperature=temperature, seeds=SEEDS
        )
        sampled[temperature] = tuple(
            float((run == codes)[..., prefix_frames:].double().mean()) for run in runs
        )
    return FreeRuns(
        from_nothing=_likest(alone, codes),
        continued={given: float(cells.double().mean()) for given, cells in right.items()},
        continued_per_codebook=tuple(
            float(share) for share in right[prefix_frames].double().mean(dim=(0, 2))
        ),
        sampled=sampled,
        departure=departure,
    )


def find_departure(
    found: Int64[Tensor, "B K T"],
    codes: Int64[Tensor, "B K T"],
    teacher_forced: Int64[Tensor, "B K T"],
    pattern: DelayPattern,
) -> Departure | None:
    """Find a cell in which a greedy free run is wrong but teacher forcing is not.

    Up to the first wrong step both have read the same codes, so their predictions must agree.

    Args:
        found: Free runs.
        codes: True windows.
        teacher_forced: Likeliest codes under teacher forcing.
        pattern: Delay pattern, which orders the cells in steps.
    """
    steps = cell_steps(pattern, codes.shape[-1])
    for window, (played, truth, predicted) in enumerate(
        zip(found, codes, teacher_forced, strict=True)
    ):
        is_wrong = played != truth
        if not bool(is_wrong.any()):
            continue
        # later cells may differ: from here on the free run has read its own wrong codes
        is_first = is_wrong & (steps == steps[is_wrong].min())
        departs = (is_first & (played != predicted)).nonzero()
        if len(departs):
            codebook, frame = int(departs[0, 0]), int(departs[0, 1])
            said, likeliest = (int(one[codebook, frame]) for one in (played, predicted))
            return Departure(window, codebook, frame, said, likeliest)
    return None


def _likest(found: Int64[Tensor, "B K T"], codes: Int64[Tensor, "B K T"]) -> float:
    """Return the mean over the runs of the share of right cells in the most similar window.

    Example:
        >>> import torch
        >>> windows = torch.tensor([[[1, 2]], [[3, 4]]])
        >>> _likest(torch.tensor([[[3, 4]], [[1, 0]]]), windows)
        0.75
    """
    shares = (found[:, None] == codes[None]).double().mean(dim=(2, 3))
    return float(shares.max(dim=1).values.mean())
