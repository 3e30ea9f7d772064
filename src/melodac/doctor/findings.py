"""A check, what was measured for it, and the finding: limits are compared here and nowhere else.

A check that cannot be measured says so and why; it never counts as zero.
"""

import math
from collections.abc import Iterable, Sequence
from typing import Literal, NamedTuple

from melodac.errors import ConfigError

Severity = Literal["ok", "note", "warning", "failure"]
"""note: said, not judged; warning: look at it; failure: the run or what is left of it is sick."""

SEVERITIES: tuple[Severity, ...] = ("ok", "note", "warning", "failure")
"""From best to worst."""

NAMES_SHOWN = 5


class Check(NamedTuple):
    """One row of the table of limits."""

    name: str
    question: str
    """What is measured, with its unit."""
    advice: str
    """What it means in plain words, and the next thing to try."""
    warning: float | None = None
    """Beyond this it is a warning; None: never."""
    failure: float | None = None
    """Beyond this it is a failure; None: never."""
    is_floor: bool = False
    """True where less is worse."""


class Measurement(NamedTuple):
    """What one check found."""

    check: str
    value: float | None
    """None if it could not be measured; NaN counts as beyond every limit."""
    detail: str = ""
    """Where exactly; or why nothing was measured."""


class Finding(NamedTuple):
    """A measured check with its limits."""

    check: str
    severity: Severity
    value: float | None
    """None if nothing was measured or the value is not finite."""
    measured: str
    threshold: str
    diagnosis: str
    """Empty where all is well."""


def judge(check: Check, measured: Measurement) -> Finding:
    """Compare what was measured with the limits of its check.

    Raises:
        ConfigError: If it was measured for another check.
    """
    if check.name != measured.check:
        raise ConfigError(f"{measured.check!r} cannot be judged by the limits of {check.name!r}")
    if measured.value is None:
        said = f"not measured: {measured.detail}"
        return Finding(check.name, "note", None, said, describe_limits(check), "")
    severity = _grade(check, measured.value)
    shown = f"{measured.value:.4g}" + (f" ({measured.detail})" if measured.detail else "")
    return Finding(
        check.name,
        severity,
        significant(measured.value),
        f"{check.question}: {shown}",
        describe_limits(check),
        "" if severity == "ok" else check.advice,
    )


def worst_first(findings: Iterable[Finding]) -> tuple[Finding, ...]:
    """The same findings, the worst first, otherwise in their order."""
    return tuple(sorted(findings, key=lambda finding: -SEVERITIES.index(finding.severity)))


def describe_limits(check: Check) -> str:
    """The limits in words, e.g. `warning above 0.5, failure above 1`."""
    side = "below" if check.is_floor else "above"
    limits = (("warning", check.warning), ("failure", check.failure))
    return ", ".join(f"{name} {side} {limit:g}" for name, limit in limits if limit is not None)


def list_first(names: Sequence[str]) -> str:
    """The first few names, and how many more there are."""
    rest = len(names) - NAMES_SHOWN
    return "; ".join(names[:NAMES_SHOWN]) + (f"; and {rest} more" if rest > 0 else "")


def significant(value: float | None) -> float | None:
    """Six significant digits, so that reports are short; None for what JSON cannot hold."""
    if value is None or not math.isfinite(value):
        return None
    return float(f"{value:.6g}")


def _grade(check: Check, value: float) -> Severity:
    if _is_beyond(check, value, check.failure):
        return "failure"
    return "warning" if _is_beyond(check, value, check.warning) else "ok"


def _is_beyond(check: Check, value: float, limit: float | None) -> bool:
    if limit is None:
        return False
    # written so that NaN is beyond: it compares as neither above nor below
    return not (value >= limit if check.is_floor else value <= limit)
