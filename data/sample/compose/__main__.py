"""`python -m data.sample.compose practice FOLDER`: music to train a codec on."""

import argparse
from pathlib import Path

from data.sample.compose.practice import record_practice

_SOUNDFONTS = (
    Path("/usr/share/sounds/sf2/FluidR3_GM.sf2"),
    Path("/usr/share/sounds/sf2/MuseScore_General_Full.sf2"),
)


def main() -> None:
    """Runs the command that was given."""
    parser = argparse.ArgumentParser(description=__doc__)
    commands = parser.add_subparsers(dest="command", required=True)
    practice = commands.add_parser("practice", help="music to train a codec on")
    practice.add_argument("folder", type=Path)
    practice.add_argument("--minutes", type=float, default=90.0)
    practice.add_argument("--seed", type=int, default=7)
    practice.add_argument("--processes", type=int, default=2)
    practice.add_argument("--soundfonts", type=Path, nargs="+", default=_SOUNDFONTS)
    given = parser.parse_args()
    record_practice(
        given.folder,
        given.minutes,
        given.seed,
        soundfonts=tuple(given.soundfonts),
        num_processes=given.processes,
    )


if __name__ == "__main__":
    main()
