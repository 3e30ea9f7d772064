"""What became of every file of the source folder: the verdicts and their table.

One line a file, in the order of paths, the same bytes whatever the locale, the listing order or the
number of workers. Words are those of a musician; no cell is a spreadsheet formula.
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


@dataclass(frozen=True)
class Verdict:
    """What became of one file."""

    path: str
    verdict: Literal["accept", "reject", "ignored"]
    reason: str = ""

    @property
    def category(self) -> str:
        """The reason without what differs from file to file."""
        return self.reason.partition(":")[0].partition(" beside ")[0]


def judge(
    entries: Sequence[Entry],
    examined: Mapping[str, Examination | Rejection],
    reason_to_skip: Callable[[str], str],
) -> list[Verdict]:
    """The verdict on every entry, in their order; of equal recordings the first is kept.

    Args:
        entries: All that was seen, sorted by path.
        examined: What each audio file is.
        reason_to_skip: For the path of a usable file why its tags keep it out, or nothing.

    Raises:
        MelodacError: If a file got no verdict, which is a mistake here.
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
    """The table `path,verdict,reason`."""
    rows = ((verdict.path, verdict.verdict, verdict.reason) for verdict in verdicts)
    return format_table(("path", "verdict", "reason"), rows)


def format_table(header: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    """CSV whose first column is a path."""
    return format_csv(header, ((_inert(path), *cells) for path, *cells in rows))


def explain_nothing(source: Path, verdicts: Sequence[Verdict]) -> str:
    """Why a folder gives no track, in one line."""
    if not verdicts:
        return f"{source}: empty folder, put music into it or set ingest.source to another one"
    reasons = Counter(verdict.category for verdict in verdicts)
    ranked = sorted(reasons.items(), key=lambda pair: (-pair[1], pair[0]))
    named = ", ".join(f"{reason} ({count})" for reason, count in ranked[:REASONS_NAMED])
    return f"{source}: none of {len(verdicts)} files can be used: {named}"


def _inert(path: str) -> str:
    """The same path, spelled so that no spreadsheet takes it for a formula."""
    return f"./{path}" if path.startswith(FORMULA_STARTS) else path
