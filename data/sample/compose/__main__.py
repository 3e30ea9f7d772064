"""`python -m data.sample.compose`: composes, renders and describes music.

`sample` writes the sample music anew; `practice` writes music to train a codec on.
"""

import argparse
import csv
import multiprocessing
from collections.abc import Iterable
from functools import partial
from pathlib import Path

from data.sample.compose.practice import Piece, draw_pieces
from data.sample.compose.render import render, render_take, write_flac, write_opus
from data.sample.compose.score import Score, tags
from data.sample.compose.styles import SEED, sample_scores

_SAMPLE = Path(__file__).resolve().parents[1]
_FLUID = Path("/usr/share/sounds/sf2/FluidR3_GM.sf2")
_MUSESCORE = Path("/usr/share/sounds/sf2/MuseScore_General_Full.sf2")
_LICENCE = "CC0-1.0"
_SAMPLE_COLUMNS = (
    "file_name", "tags", "tempo_bpm", "key", "time_signature", "num_bars", "group", "licence",
)  # fmt: skip
_PRACTICE_COLUMNS = ("file_name", "group", "split", "instruments", "soundfont", "licence")


def _sample_row(score: Score) -> tuple[str | int, ...]:
    return (
        f"audio/{score.file_stem}.opus",
        ", ".join(tags(score)),
        score.tempo_bpm,
        score.key.name,
        f"{score.beats_per_bar}/4",
        score.num_bars,
        score.group,
        _LICENCE,
    )


def _practice_row(piece: Piece) -> tuple[str | int, ...]:
    names = dict.fromkeys(part.instrument.name for part in piece.score.parts)
    sounds = ", ".join(names), piece.soundfont.stem
    return (piece.file_name, piece.score.group, piece.split, *sounds, _LICENCE)


def _write_table(
    path: Path, columns: tuple[str, ...], rows: Iterable[tuple[str | int, ...]]
) -> None:
    with path.open("w", newline="", encoding="utf-8") as file:
        writer = csv.writer(file, lineterminator="\n")
        writer.writerow(columns)
        writer.writerows(rows)


def _record_sample(score: Score, folder: Path, soundfont: Path, compression: float) -> None:
    path = folder / f"{score.file_stem}.opus"
    unfinished = path.with_suffix(".partial")
    write_opus(unfinished, render(score, soundfont), compression)
    unfinished.replace(path)


def _record_practice(piece: Piece, folder: Path) -> None:
    """Renders a piece unless its file is there already."""
    path = folder / piece.file_name
    if not path.exists():
        unfinished = path.with_suffix(".partial")
        write_flac(unfinished, render_take(piece.score, piece.take, piece.soundfont))
        unfinished.replace(path)


def _write_sample(given: argparse.Namespace) -> None:
    scores = list(sample_scores(given.seed))
    folder = _SAMPLE / "audio"
    folder.mkdir(exist_ok=True)
    record = partial(
        _record_sample,
        folder=folder,
        soundfont=given.soundfonts[0],
        compression=given.compression,
    )
    with multiprocessing.Pool(given.processes) as pool:
        pool.map(record, [s for s in scores if given.only in s.file_stem], chunksize=1)
    known = {score.file_stem for score in scores}
    for path in folder.glob("*.opus"):
        if path.stem not in known:
            path.unlink()
    _write_table(_SAMPLE / "metadata.csv", _SAMPLE_COLUMNS, map(_sample_row, scores))


def _write_practice(given: argparse.Namespace) -> None:
    pieces = list(draw_pieces(given.minutes, given.seed, tuple(given.soundfonts)))
    for split in {piece.split for piece in pieces}:
        (given.folder / split).mkdir(parents=True, exist_ok=True)
    with multiprocessing.Pool(given.processes) as pool:
        pool.map(partial(_record_practice, folder=given.folder), pieces, chunksize=1)
    _write_table(
        given.folder / "metadata.csv", _PRACTICE_COLUMNS, sorted(map(_practice_row, pieces))
    )


def main() -> None:
    """Runs the command that was given."""
    parser = argparse.ArgumentParser(description=__doc__)
    commands = parser.add_subparsers(dest="command", required=True)
    sample = commands.add_parser("sample", help="audio/ and metadata.csv anew")
    sample.set_defaults(run=_write_sample, seed=SEED, soundfonts=[_FLUID])
    sample.add_argument("--compression", type=float, default=0.78, help="0 is best, 1 is smallest")
    sample.add_argument("--only", default="", help="part of a file name; the rest stays as it is")
    practice = commands.add_parser("practice", help="music to train a codec on, into a folder")
    practice.set_defaults(run=_write_practice, seed=7, soundfonts=[_FLUID, _MUSESCORE])
    practice.add_argument("folder", type=Path)
    practice.add_argument("--minutes", type=float, default=90.0)
    for command in (sample, practice):
        command.add_argument("--seed", type=int)
        command.add_argument("--soundfonts", type=Path, nargs="+")
        command.add_argument("--processes", type=int, default=2)
    given = parser.parse_args()
    given.run(given)


if __name__ == "__main__":
    main()
