"""Verdict (accept, reject or ignored) on every file of the source folder, and the CSV report.

One line per file, in the order of paths, the same bytes whatever the locale, the listing order or
the number of workers. Reasons are worded for a musician; a path is never a spreadsheet formula.
"""

from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from melodac.audio.examine import Examination, Rejection
from melodac.audio.scan import Entry
from melodac.errors import MelodacError
from pipeline.records import format_csv

REASONS_NAMED = 3
FORMULA_STARTS = ("=", "+", "-", "@", "\t", "\r")
"""First characters at which spreadsheets evaluate a cell (CSV injection)."""


@dataclass(frozen=True)
class Verdict:
    """Verdict on one file, with the reason if it was not accepted."""

    path: str
    verdict: Literal["accept", "reject", "ignored"]
    reason: str = ""

    @property
    def category(self) -> str:
        """Reason without the details that differ from file to file, for counting."""
        return self.reason.partition(":")[0]


def judge(
    entries: Sequence[Entry],
    examined: Mapping[str, Examination | Rejection],
    reason_to_skip: Callable[[str], str],
) -> list[Verdict]:
    """Give a verdict on every entry, in their order; of equal recordings the first is kept.

    Args:
        entries: Everything the scan found, sorted by path.
        examined: Result of examining each audio file.
        reason_to_skip: Takes the path of a usable file and returns why its tags exclude it, or "".

    Raises:
        MelodacError: If a file got no verdict or two, which is a bug.
    """
    verdicts: list[Verdict] = []
    files: dict[str, str] = {}
    recordings: dict[str, str] = {}
    for entry in entries:
        result = examined.get(entry.path)
        if result is None:
            verdicts.append(_judge_unheard(entry))
        elif isinstance(result, Rejection):
            verdicts.append(Verdict(entry.path, "reject", result.reason))
        elif reason := reason_to_skip(entry.path):
            verdicts.append(Verdict(entry.path, "reject", reason))
        elif twin := files.get(result.sha256):
            verdicts.append(Verdict(entry.path, "reject", f"same audio file as: {twin}"))
        elif twin := recordings.get(result.audio_sha256):
            verdicts.append(Verdict(entry.path, "reject", f"same recording as: {twin}"))
        else:
            files[result.sha256] = recordings[result.audio_sha256] = entry.path
            verdicts.append(Verdict(entry.path, "accept"))
    if len({verdict.path for verdict in verdicts}) != len(entries):
        raise MelodacError("a file has no verdict, or two: a mistake in melodac, please report it")
    return verdicts


def _judge_unheard(entry: Entry) -> Verdict:
    if entry.kind == "audio":
        raise MelodacError(f"{entry.path}: not examined: a mistake in melodac, please report it")
    return Verdict(entry.path, "reject" if entry.kind == "reject" else "ignored", entry.reason)


def format_report(verdicts: Iterable[Verdict]) -> str:
    """Format the CSV table `path,verdict,reason`."""
    rows = ((verdict.path, verdict.verdict, verdict.reason) for verdict in verdicts)
    return format_table(("path", "verdict", "reason"), rows)


def format_table(header: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    """Format CSV whose first column is a path."""
    return format_csv(header, ((_inert(path), *cells) for path, *cells in rows))


def explain_nothing(source: Path, verdicts: Sequence[Verdict]) -> str:
    """Explain in one line why a folder yields no track."""
    if not verdicts:
        return f"{source}: empty folder, put music into it or set ingest.source to another one"
    reasons = Counter(verdict.category for verdict in verdicts)
    ranked = sorted(reasons.items(), key=lambda pair: (-pair[1], pair[0]))
    named = ", ".join(f"{reason} ({count})" for reason, count in ranked[:REASONS_NAMED])
    return f"{source}: none of {len(verdicts)} files can be used: {named}"


def _inert(path: str) -> str:
    """Prefix `./` to a path that a spreadsheet would take for a formula."""
    return f"./{path}" if path.startswith(FORMULA_STARTS) else path
