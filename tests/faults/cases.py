"""What a hostile file is made of: its name, how it is made, and what must be said of it."""

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Literal


@dataclass(frozen=True)
class Case:
    """One file of the hostile folder."""

    name: str
    make: Callable[[Path], object]
    verdict: Literal["accept", "reject", "ignored"]
    reason: str = ""
    """Beginning of what the report says, for all that is not accepted."""
    duration_s: float = 0.0
    """True length of what is accepted."""
    tolerance_s: float = 0.0
    """What an encoder may add; nothing may be missing."""
    shown: str = ""
    """How the report spells the path, if otherwise."""
    decoder: str = ""


def accept(name, make, duration_s, *, tolerance_s=0.0, decoder="", shown=""):
    return Case(name, make, "accept", "", duration_s, tolerance_s, shown, decoder)


def reject(name, make, reason, *, shown=""):
    return Case(name, make, "reject", reason, shown=shown)


def ignore(name, make, reason, *, shown=""):
    return Case(name, make, "ignored", reason, shown=shown)
