"""Text form of a doctor's report: aligned tables, then the findings, worst first."""

import textwrap
from collections import Counter
from collections.abc import Iterator, Sequence

from melodac.doctor.diagnosis import Report
from melodac.doctor.differences import describe_difference
from melodac.doctor.snapshots import Snapshot

_WIDTH = 100
_NOT_MEASURED = "-"
_INDENT = " " * 9

Cell = str | int | float | None


def render(report: Report) -> list[str]:
    """Format a report as lines for the terminal."""
    lines = [_headline(report), ""]
    lines += _table(_CHECKPOINT_HEADS, [_checkpoint_cells(shot) for shot in report.snapshots])
    newest = report.snapshots[-1]
    lines += ["", *_table(_MODULE_HEADS, [list(part) for part in newest.parts])]
    if newest.moments:
        rows = [[m.kind, m.mean, m.largest, m.total, m.zero_frac] for m in newest.moments]
        lines += ["", *_table(("optimizer", "mean", "largest", "sum", "zeros"), rows)]
    if report.codebooks:
        lines += ["", *_table(_CODEBOOK_HEADS, [list(row) for row in report.codebooks])]
    if report.factors is not None:
        lines += ["", *_difference(report)]
    return [*lines, "", *_findings(report), "", _verdict(report)]


_CHECKPOINT_HEADS = ("checkpoint", "norm", "moved", "drift", "not finite", "optimizer")
_MODULE_HEADS = ("module", "parameters", "norm", "rms", "largest", "moved", "drift")
_CODEBOOK_HEADS = (
    "codebook",
    "train",
    "held out",
    "unigram",
    "codes",
    "generated",
    "of truth",
    "entropy",
    "of truth",
)


def _headline(report: Report) -> str:
    curve = report.curve
    words = [f"update {report.update}"]
    for name, value in (
        ("learning rate", report.learning_rate),
        ("training loss", curve.late),
        ("best held out", curve.best_validation),
    ):
        if value is not None:
            words.append(f"{name} {value:.4g}")
    words.append(f"a uniform guess costs {curve.uniform:.3f} nats")
    if report.torch_version:
        words.append(f"torch {report.torch_version}")
    return ", ".join(words)


def _checkpoint_cells(shot: Snapshot) -> list[Cell]:
    whole = shot.whole
    kept = "yes" if shot.moments else "no"
    return [shot.update, whole.norm, whole.moved, whole.drift, len(shot.nonfinite), kept]


def _difference(report: Report) -> Iterator[str]:
    factors = report.factors or ()
    yield describe_difference(factors)
    for factor in factors:
        yield from (f"differs  {factor.name:<24} {change}" for change in factor.changes)
    other, curve = report.other_curve, report.curve
    if other is None:
        yield "compared nothing: one decision at most may part two runs that are compared"
    else:
        pairs = [
            ["updates", other.updates, curve.updates],
            ["training loss", other.late, curve.late],
            ["best held out", other.best_validation, curve.best_validation],
        ]
        yield from _table(("compared", "other", "this"), pairs)


def _findings(report: Report) -> Iterator[str]:
    for finding in report.findings:
        limits = f" [{finding.threshold}]" if finding.severity != "note" else ""
        word = finding.severity if finding.severity in {"ok", "note"} else finding.severity.upper()
        yield from _wrap(f"{word:<8} ", f"{finding.check}: {finding.measured}{limits}")
        if finding.diagnosis:
            yield from _wrap(_INDENT, f"-> {finding.diagnosis}")


def _verdict(report: Report) -> str:
    counts = Counter(finding.severity for finding in report.findings)
    word = (
        "sick" if counts["failure"] else "healthy, with warnings" if counts["warning"] else "well"
    )
    return (
        f"{word}: failures {counts['failure']}, warnings {counts['warning']}, "
        f"passed {counts['ok']}, not measured {counts['note']}"
    )


def _wrap(first: str, text: str) -> list[str]:
    return textwrap.wrap(
        text,
        _WIDTH,
        initial_indent=first,
        subsequent_indent=_INDENT,
        break_long_words=False,
        break_on_hyphens=False,
    )


def _table(heads: Sequence[str], rows: Sequence[Sequence[Cell]]) -> list[str]:
    """Align a table: first column to the left, numbers to the right."""
    cells = [list(heads), *([_cell(value) for value in row] for row in rows)]
    widths = [max(len(row[column]) for row in cells) for column in range(len(heads))]
    return [
        "  ".join(
            text.ljust(width) if column == 0 else text.rjust(width)
            for column, (text, width) in enumerate(zip(row, widths, strict=True))
        ).rstrip()
        for row in cells
    ]


def _cell(value: Cell) -> str:
    if value is None:
        return _NOT_MEASURED
    return f"{value:.4g}" if isinstance(value, float) else str(value)
