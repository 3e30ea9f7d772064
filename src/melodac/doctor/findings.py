"""Checks of a run and their findings: a number is measured, compared with its limits, and worded.

A check is a function that returns a number and where it was found, or raises `Unmeasured`: what
cannot be measured never counts as zero. The function's docstring is part of the report: its first
line is what the number means, with its unit; the rest is the advice where a limit is passed.
"""

import inspect
import math
from collections.abc import Callable, Mapping, Sequence
from typing import Any, Literal, NamedTuple

from melodac.doctor.run import Run, spike_sigma

Severity = Literal["ok", "note", "warning", "failure"]
"""note: reported, not judged; warning: look at it; failure: run or checkpoints are sick."""

SEVERITIES: tuple[Severity, ...] = ("ok", "note", "warning", "failure")
"""Severities from best to worst."""

Measured = tuple[float, str]
"""Value of a check, and where exactly it was found. NaN counts as beyond every limit."""

Measure = Callable[[Run], Measured]

NAMES_SHOWN = 5


class Unmeasured(Exception):
    """Reason why a check cannot be measured."""

    def __init__(self, reason: str = "nothing to measure it by") -> None:
        super().__init__(reason)


class Check(NamedTuple):
    """Function that measures one number of a run, and the limits of that number."""

    name: str
    question: str
    """Meaning of the number, with its unit."""
    advice: str
    """Meaning of a number beyond the limits in plain words, and the next thing to try."""
    measure: Measure
    warning: float | None = None
    """Value beyond which the finding is a warning; None: never."""
    failure: float | None = None
    """Value beyond which the finding is a failure; None: never."""
    is_floor: bool = False
    """True where less is worse."""
    param: str = ""
    """Key in the train section whose value replaces the failure limit, or the warning limit where
    there is no failure."""


class Finding(NamedTuple):
    """Measured check with its limits."""

    check: str
    severity: Severity
    value: float | None
    """None if nothing was measured or the value is not finite."""
    measured: str
    threshold: str
    diagnosis: str
    """Empty where all is well."""


class Checks(dict[str, Check]):
    """Checks by name, in the order of the report."""

    def add(
        self,
        *,
        warning: float | None = None,
        failure: float | None = None,
        is_floor: bool = False,
        param: str = "",
    ) -> Callable[[Measure], Measure]:
        """Return a decorator that adds a function as a check; see `Check` for the arguments."""

        def register(measure: Measure) -> Measure:
            name = measure.__name__
            title, _, advice = inspect.cleandoc(measure.__doc__ or "").partition("\n\n")
            question = title[:1].lower() + title[1:].removesuffix(".")
            self[name] = Check(
                name, question, " ".join(advice.split()), measure, warning, failure, is_floor, param
            )
            return measure

        return register


def find(check: Check, run: Run) -> Finding:
    """Measure a check and judge it by the limits that the run itself was trained under."""
    check = with_limits_of(check, run.train)
    try:
        return judge(check, *check.measure(run))
    except Unmeasured as reason:
        return judge(check, None, str(reason))


def with_limits_of(check: Check, train: Mapping[str, Any]) -> Check:
    """Return a check with the run's own limits; those that its config lacks stay."""
    check = check._replace(question=check.question.format(sigma=spike_sigma(train)))
    section, _, key = check.param.partition(".")
    value = train.get(section, {}).get(key)
    if value is None:
        return check
    if key == "max_rollbacks":
        value = max(0, value - 1)  # the last rollback that training allows is a failure already
    limit = "warning" if check.failure is None else "failure"
    return check._replace(**{limit: float(value)})


def judge(check: Check, value: float | None, detail: str = "") -> Finding:
    """Compare a value with the limits of its check.

    Args:
        check: Check with its limits.
        value: Measured value; None if it could not be measured.
        detail: Where exactly it was found; or why nothing was measured.
    """
    threshold = describe_limits(check)
    if value is None:
        return Finding(check.name, "note", None, f"not measured: {detail}", threshold, "")
    severity: Severity = "ok"
    if _is_beyond(check, value, check.failure):
        severity = "failure"
    elif _is_beyond(check, value, check.warning):
        severity = "warning"
    shown = f"{check.question}: {value:.4g}" + (f" ({detail})" if detail else "")
    diagnosis = "" if severity == "ok" else check.advice
    return Finding(check.name, severity, significant(value), shown, threshold, diagnosis)


def describe_limits(check: Check) -> str:
    """Return the limits in words, e.g. `warning above 0.5, failure above 1`."""
    side = "below" if check.is_floor else "above"
    limits = (("warning", check.warning), ("failure", check.failure))
    return ", ".join(f"{name} {side} {limit:g}" for name, limit in limits if limit is not None)


def list_first(names: Sequence[str]) -> str:
    """Return the first few names, and how many more there are."""
    rest = len(names) - NAMES_SHOWN
    return "; ".join(names[:NAMES_SHOWN]) + (f"; and {rest} more" if rest > 0 else "")


def count(names: Sequence[str]) -> Measured:
    """Return how many names there are, and the first few of them."""
    return float(len(names)), list_first(names)


def significant(value: float | None) -> float | None:
    """Return six significant digits, so that reports are short; None for what JSON cannot hold."""
    if value is None or not math.isfinite(value):
        return None
    return float(f"{value:.6g}")


def _is_beyond(check: Check, value: float, limit: float | None) -> bool:
    if limit is None:
        return False
    # written so that NaN is beyond: it compares as neither above nor below
    return not (value >= limit if check.is_floor else value <= limit)
