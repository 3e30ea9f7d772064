"""`python -m data.sample.compose`: composes, renders and describes the sample music anew."""

import argparse
import csv
import multiprocessing
from functools import partial
from pathlib import Path

from data.sample.compose.arrange import SEED, all_scores
from data.sample.compose.render import render, write_ogg
from data.sample.compose.score import Score, tags

_FOLDER = Path(__file__).resolve().parents[1]
_SOUNDFONT = Path("/usr/share/sounds/sf2/FluidR3_GM.sf2")
_COLUMNS = (
    "file_name", "tags", "tempo_bpm", "key", "time_signature", "num_bars", "group", "licence",
)  # fmt: skip


def _row(score: Score) -> tuple[str | int, ...]:
    return (
        f"audio/{score.file_stem}.ogg",
        ", ".join(tags(score)),
        score.tempo_bpm,
        score.key.name,
        f"{score.beats_per_bar}/4",
        score.num_bars,
        score.group,
        "CC0-1.0",
    )


def _make(score: Score, soundfont: Path, compression: float) -> None:
    path = _FOLDER / "audio" / f"{score.file_stem}.ogg"
    unfinished = path.with_suffix(".partial")
    write_ogg(unfinished, render(score, soundfont), compression)
    unfinished.replace(path)


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--soundfont", type=Path, default=_SOUNDFONT)
    parser.add_argument("--seed", type=int, default=SEED)
    parser.add_argument("--compression", type=float, default=0.45, help="0 is best, 1 is smallest")
    parser.add_argument("--only", default="", help="part of a file name; the rest stays as it is")
    return parser.parse_args()


def main() -> None:
    """Writes `audio/*.ogg` and `metadata.csv`."""
    given = _arguments()
    scores = list(all_scores(given.seed))
    (_FOLDER / "audio").mkdir(exist_ok=True)
    wanted = [score for score in scores if given.only in score.file_stem]
    make = partial(_make, soundfont=given.soundfont, compression=given.compression)
    with multiprocessing.Pool(2) as pool:
        pool.map(make, wanted, chunksize=1)
    known = {score.file_stem for score in scores}
    for path in (_FOLDER / "audio").glob("*.ogg"):
        if path.stem not in known:
            path.unlink()
    with (_FOLDER / "metadata.csv").open("w", newline="", encoding="utf-8") as file:
        writer = csv.writer(file, lineterminator="\n")
        writer.writerow(_COLUMNS)
        writer.writerows(_row(score) for score in scores)


if __name__ == "__main__":
    main()
