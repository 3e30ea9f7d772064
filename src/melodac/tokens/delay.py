"""Delay patterns: the step of a sequence at which each (frame, codebook) cell stands.

A pattern is a pair of pure functions, `apply_delay` and its exact inverse `undo_delay`; both follow
one map, `cell_frames`.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
from jaxtyping import Bool, Int, Int64
from torch import Tensor

from melodac.errors import DelayError
from melodac.tokens.vocabulary import BOS, CODEBOOK_SIZE, PAD

BEFORE = -1
"""Frame index of a cell that lies before frame 0."""

HOLE = -2
"""Frame index of a cell without a frame: a flat pattern fills one codebook per step."""


def _dia(num_codebooks: int) -> tuple[int, ...]:
    if num_codebooks != 9:
        raise DelayError(
            f"delay 'dia' is defined for 9 codebooks, got {num_codebooks}: "
            "name another pattern or list one delay per codebook"
        )
    return (0, *range(8, 16))


_NAMED_DELAYS: dict[str, Callable[[int], tuple[int, ...]]] = {
    "musicgen": lambda num_codebooks: tuple(range(num_codebooks)),
    "dia": _dia,
    "compressed": lambda num_codebooks: tuple(k // 2 for k in range(num_codebooks)),
    "parallel": lambda num_codebooks: (0,) * num_codebooks,
    "reverse": lambda num_codebooks: tuple(reversed(range(num_codebooks))),
    "middle_out": lambda num_codebooks: tuple(
        abs(k - num_codebooks // 2) for k in range(num_codebooks)
    ),
    "flat": lambda num_codebooks: (0,) * num_codebooks,
}

PATTERN_NAMES = tuple(_NAMED_DELAYS)
"""Names that `build_pattern` knows."""


@dataclass(frozen=True)
class DelayPattern:
    """Delay of each codebook, or, if `is_flat`, one codebook per step in turn."""

    name: str
    """A name of `PATTERN_NAMES`, or the delays joined by commas."""
    delays: tuple[int, ...]
    """Delay of each column in frames; one entry per codebook and channel."""
    is_flat: bool = False
    """True if each step holds one code: frame 0 of every codebook, then frame 1, and so on."""

    @property
    def num_codebooks(self) -> int:
        """Rows of a sequence: codebooks times channels."""
        return len(self.delays)

    @property
    def max_delay(self) -> int:
        """Frames to read beyond a window so that no codebook's tail is cut; 0 if flat."""
        return 0 if self.is_flat else max(self.delays)

    def num_steps(self, num_frames: int) -> int:
        """Return the steps that hold every cell of `num_frames` frames."""
        if self.is_flat:
            return num_frames * self.num_codebooks
        return num_frames + self.max_delay


def build_pattern(
    spec: str | Sequence[int], num_codebooks: int = 9, columns: Sequence[int] | None = None
) -> DelayPattern:
    """Build the pattern of a name or of a list of delays.

    Args:
        spec: A name of `PATTERN_NAMES`, or one delay in frames per codebook, in any order. A list
            of `num_codebooks` entries applies to each channel; a list with one entry per column is
            used as given.
        num_codebooks: Codebooks of one channel, the longest if they differ.
        columns: Codebook, within its channel, of each column that a model reads; None for one
            channel with its codebooks in order.

    Raises:
        DelayError: If the name is unknown or the list does not fit the codebooks.

    Source:
        musicgen and flat: Copet et al. 2023 (arXiv:2306.05284), sec. 2.2; dia: the published
        configuration of nari-labs/dia, its nine delays.

    Example:
        >>> build_pattern("compressed").delays
        (0, 0, 1, 1, 2, 2, 3, 3, 4)
        >>> build_pattern([2, 0], num_codebooks=2, columns=(0, 0, 1, 1))
        DelayPattern(name='2,2,0,0', delays=(2, 2, 0, 0), is_flat=False)
    """
    chosen = tuple(range(num_codebooks)) if columns is None else tuple(columns)
    if num_codebooks < 1 or not chosen or not 0 <= min(chosen) <= max(chosen) < num_codebooks:
        raise DelayError(
            f"a pattern needs at least 1 codebook, and columns of these codebooks: got "
            f"{num_codebooks} codebooks and columns {list(chosen)}"
        )
    if isinstance(spec, str):
        if spec not in _NAMED_DELAYS:
            raise DelayError(
                f"unknown delay {spec!r}: allowed are {', '.join(PATTERN_NAMES)}, "
                f"or a list of {num_codebooks} delays in frames"
            )
        named = _NAMED_DELAYS[spec](num_codebooks)
        return DelayPattern(spec, tuple(named[k] for k in chosen), is_flat=spec == "flat")
    delays = _check_delays(spec, num_codebooks, chosen)
    return DelayPattern(",".join(map(str, delays)), delays)


def _check_delays(
    spec: Sequence[int], num_codebooks: int, columns: tuple[int, ...]
) -> tuple[int, ...]:
    for delay in spec:
        if isinstance(delay, bool) or delay < 0:
            raise DelayError(f"delays must be whole frames >= 0: got {delay!r} in {list(spec)}")
    allowed = sorted({num_codebooks, len(columns)})
    if len(spec) not in allowed:
        raise DelayError(
            f"need one delay per codebook: got {len(spec)} delays, allowed are "
            f"{' (each channel alike) or '.join(map(str, allowed))}"
        )
    return tuple(spec[k] for k in columns) if len(spec) == num_codebooks else tuple(spec)


def cell_frames(pattern: DelayPattern, num_frames: int) -> Int64[Tensor, "S K"]:
    """Return the frame that each cell of a sequence of `num_frames` frames holds.

    A cell before frame 0 is `BEFORE`, one without a frame is `HOLE`; an index of `num_frames` or
    more lies past the end: the frame that would stand there if the music went on.

    Example:
        >>> cell_frames(build_pattern([0, 2], num_codebooks=2), num_frames=2)
        tensor([[ 0, -1],
                [ 1, -1],
                [ 2,  0],
                [ 3,  1]])
        >>> cell_frames(build_pattern("flat", num_codebooks=2), num_frames=2)
        tensor([[ 0, -2],
                [-2,  0],
                [ 1, -2],
                [-2,  1]])
    """
    steps = torch.arange(pattern.num_steps(num_frames)).unsqueeze(1)
    if pattern.is_flat:
        turns = steps % pattern.num_codebooks == torch.arange(pattern.num_codebooks)
        return torch.where(turns, steps // pattern.num_codebooks, HOLE)
    # any frame before 0 is the same special cell, so all of them become -1
    return (steps - torch.tensor(pattern.delays)).clamp(min=BEFORE)


def cell_exists(pattern: DelayPattern, num_frames: int) -> Bool[Tensor, "S K"]:
    """Return True where a cell of a sequence holds one of its `num_frames` frames."""
    frames = cell_frames(pattern, num_frames)
    return (frames >= 0) & (frames < num_frames)


def apply_delay(codes: Int[Tensor, "B K T"], pattern: DelayPattern) -> Int[Tensor, "B K S"]:
    """Arrange codes as steps, with BOS before frame 0 and PAD past the end and in holes.

    Raises `DelayError` if the number of codebooks is not that of the pattern.

    Example:
        >>> codes = torch.tensor([[[1, 2, 3], [4, 5, 6], [7, 8, 9]]])
        >>> apply_delay(codes, build_pattern([0, 1, 2], num_codebooks=3))
        tensor([[[   1,    2,    3, 1025, 1025],
                 [1024,    4,    5,    6, 1025],
                 [1024, 1024,    7,    8,    9]]])
        >>> apply_delay(codes[..., :2], build_pattern("flat", num_codebooks=3))
        tensor([[[   1, 1025, 1025,    2, 1025, 1025],
                 [1025,    4, 1025, 1025,    5, 1025],
                 [1025, 1025,    7, 1025, 1025,    8]]])
    """
    B, K, T = codes.shape
    _check_rows(K, pattern)
    frames = cell_frames(pattern, T).to(codes.device).T
    specials = torch.tensor([PAD, BOS], dtype=codes.dtype, device=codes.device)
    extended = torch.cat([codes, specials.expand(B, K, 2)], dim=-1)
    # the two extra columns: T is PAD, T + 1 is BOS
    columns = torch.where(frames == HOLE, T, frames.clamp(max=T))
    columns = torch.where(frames == BEFORE, T + 1, columns)
    return extended.gather(-1, columns.expand(B, -1, -1))


def undo_delay(sequence: Int[Tensor, "B K S"], pattern: DelayPattern) -> Int[Tensor, "B K T"]:
    """Return the codes of a whole sequence by frame; the exact inverse of `apply_delay`.

    Raises:
        DelayError: If the sequence does not hold a whole number of frames of this pattern.

    Example:
        >>> sequence = torch.tensor([[[1, 2, 3, PAD], [BOS, 4, 5, 6]]])
        >>> undo_delay(sequence, build_pattern([0, 1], num_codebooks=2))
        tensor([[[1, 2, 3],
                 [4, 5, 6]]])
    """
    B, K, S = sequence.shape
    _check_rows(K, pattern)
    T = S // K if pattern.is_flat else S - pattern.max_delay
    if T < 1 or pattern.num_steps(T) != S:
        raise DelayError(
            f"a sequence of {S} steps holds no whole number of frames under delay "
            f"{pattern.name!r}: one frame takes {pattern.num_steps(1)} steps, two take "
            f"{pattern.num_steps(2)}"
        )
    steps = cell_steps(pattern, T).to(sequence.device)
    return sequence.gather(-1, steps.expand(B, -1, -1))


def cell_steps(pattern: DelayPattern, num_frames: int) -> Int64[Tensor, "K T"]:
    """Return the step at which each frame of each codebook stands.

    Example:
        >>> cell_steps(build_pattern("reverse", num_codebooks=2), num_frames=3)
        tensor([[1, 2, 3],
                [0, 1, 2]])
    """
    frames = torch.arange(num_frames)
    if pattern.is_flat:
        return frames * pattern.num_codebooks + torch.arange(pattern.num_codebooks).unsqueeze(1)
    return frames + torch.tensor(pattern.delays).unsqueeze(1)


def is_code(tokens: Int[Tensor, "..."]) -> Bool[Tensor, "..."]:
    """Return True where a cell holds a code of the codec, not a special token.

    Example:
        >>> is_code(torch.tensor([0, 1023, BOS, PAD, -1]))
        tensor([ True,  True, False, False, False])
    """
    return (tokens >= 0) & (tokens < CODEBOOK_SIZE)


def _check_rows(num_rows: int, pattern: DelayPattern) -> None:
    if num_rows != pattern.num_codebooks:
        raise DelayError(
            f"delay {pattern.name!r} has {pattern.num_codebooks} codebooks, the tensor {num_rows}: "
            "build the pattern with the layout's columns"
        )
