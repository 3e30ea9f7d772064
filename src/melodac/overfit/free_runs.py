"""Free runs of a memorised window: from nothing, from a few frames, greedy and at random.

Generation comes in as a function: training and sampling do not know each other.
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
"""At which memorised windows are run back at random."""

SEEDS = (0, 1, 2)
"""Seed of each free run at such a temperature."""


@runtime_checkable
class GenerateRuns(Protocol):
    """Generation of tracks that end after so many frames, nothing truncated."""

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
        """Continue each prefix, which may have no frame, with its own seed and text."""
        ...


@dataclass(frozen=True)
class Memorised:
    """What was to be learned by heart, and who plays it."""

    codes: Int64[Tensor, "B K T"]
    teacher_forced: Int64[Tensor, "B K T"]
    """Likeliest code of every cell when the past is the truth."""
    condition: Condition | None
    """What the model reads beside codes, one text a window."""
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
        """Free runs of every window, one a seed."""
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
    """A cell in which generation says something else than the model does of the same past."""

    window: int
    codebook: int
    frame: int
    played: int
    """Code of the free run, which was right up to here."""
    predicted: int
    """Likeliest code when the whole sequence is read at once."""


@dataclass(frozen=True)
class FreeRuns:
    """Shares of right cells, the frames that were given left out."""

    from_nothing: float
    """Greedy, with no frame given; beside the memorised window that it is most alike."""
    continued: dict[int, float]
    """Greedy, by the number of frames given."""
    continued_per_codebook: tuple[float, ...]
    """Of the prefix that the gate asks for."""
    sampled: dict[float, tuple[float, ...]]
    """From that prefix, by temperature; one number a seed."""
    departure: Departure | None
    """Proof that generation is at fault, if it is."""


def measure_free_runs(
    model: LanguageModel, pattern: DelayPattern, memorised: Memorised, *, prefix_frames: int
) -> FreeRuns:
    """Run the windows back in every way.

    Args:
        model: What has learned them.
        pattern: Delay pattern it was trained with.
        memorised: The windows.
        prefix_frames: Frames that the gate gives.
    """
    codes, teacher_forced = memorised.codes, memorised.teacher_forced
    departure: Departure | None = None
    right: dict[int, Bool[Tensor, "B K T"]] = {}
    for given in sorted({1, prefix_frames, codes.shape[-1] // 2}):
        (found,) = memorised.run(model, pattern, prefix_frames=given)
        right[given] = (found == codes)[..., given:]
        # from a shorter prefix two windows may be as likely as each other, and rounding decides
        if given == prefix_frames:
            departure = find_departure(found, codes, teacher_forced, pattern)
    (alone,) = memorised.run(model, pattern, prefix_frames=0)
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
    """Find a cell in which a greedy free run leaves the truth where teacher forcing does not.

    Up to the first step that is wrong, both have read the same codes and must say the same.

    Args:
        found: The free runs.
        codes: The windows.
        teacher_forced: Likeliest codes when the past is the truth.
        pattern: Delay pattern, which says what comes first.
    """
    steps = cell_steps(pattern, codes.shape[-1])
    for window, (played, truth, predicted) in enumerate(
        zip(found, codes, teacher_forced, strict=True)
    ):
        is_wrong = played != truth
        if not bool(is_wrong.any()):
            continue
        is_first = is_wrong & (steps == steps[is_wrong].min())
        departs = (is_first & (played != predicted)).nonzero()
        if len(departs):
            codebook, frame = int(departs[0, 0]), int(departs[0, 1])
            said, likeliest = (int(one[codebook, frame]) for one in (played, predicted))
            return Departure(window, codebook, frame, said, likeliest)
    return None


def _likest(found: Int64[Tensor, "B K T"], codes: Int64[Tensor, "B K T"]) -> float:
    """Mean over the runs of the share of right cells beside the likest window.

    Example:
        >>> import torch
        >>> windows = torch.tensor([[[1, 2]], [[3, 4]]])
        >>> _likest(torch.tensor([[[3, 4]], [[1, 0]]]), windows)
        0.75
    """
    shares = (found[:, None] == codes[None]).double().mean(dim=(2, 3))
    return float(shares.max(dim=1).values.mean())
