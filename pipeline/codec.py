"""Train, measure and export the bundled codec: `make codec`, or `python pipeline/codec.py --help`.

No DVC stage: its result is committed with the package and changes a few times in the project's
life. Training goes on where it stopped, for as many minutes as it is given; settings and music may
change from one run to the next.
"""

import csv
import json
import os
import sys
from collections.abc import Sequence
from dataclasses import asdict, fields
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer
from pydantic import ValidationError

CHECKOUT = Path(__file__).resolve().parents[1]
sys.path[:0] = [str(CHECKOUT), str(CHECKOUT / "src")]
os.environ.setdefault("DO_NOT_TRACK", "1")

if TYPE_CHECKING:
    from _typeshed import DataclassInstance

    from melodac.codec.training.clips import Clip
    from melodac.codec.training.config import CodecTrainingConfig
    from melodac.codec.training.loop import CodecTrainer

DEFAULT_STATE = CHECKOUT / ".scratch" / "codec"
DEFAULT_SOURCES = (CHECKOUT / "data" / "sample", CHECKOUT.parent / "shared" / "music")

StateFolder = Annotated[Path, typer.Option("--state", help="Folder of the resumable state.")]
Sources = Annotated[
    list[Path] | None,
    typer.Option(
        "--source", help="Folder of audio; may be given several times, the first weighs most."
    ),
]
Settings = Annotated[
    list[str] | None,
    typer.Option("--set", metavar="KEY=VALUE", help="A training setting; VALUE is JSON."),
]

app = typer.Typer(no_args_is_help=True, add_completion=False, pretty_exceptions_enable=False)


@app.callback()
def _describe() -> None:
    """Train, measure and export the small codec that comes with melodac."""


@app.command()
def train(
    *,
    minutes: Annotated[float, typer.Option(min=0.0, help="Wall-clock budget of this run.")] = 60.0,
    threads: Annotated[int, typer.Option(min=1, help="CPU threads.")] = 1,
    source: Sources = None,
    state: StateFolder = DEFAULT_STATE,
    fresh: Annotated[bool, typer.Option(help="Begin with random weights.")] = False,
    setting: Settings = None,
) -> None:
    """Go on training: from the state folder, else from the weights in the package."""
    from melodac.codec.load import BUNDLED_FOLDER
    from melodac.codec.training.export import begin_from_export
    from melodac.codec.training.loop import STATE_FILE, train_codec
    from pipeline.logs import set_up_logging

    set_up_logging()
    _use_threads(threads)
    folders = _sources(source)
    config = _config(setting)
    trainer = _trainer(config, [_load(folder) for folder in folders])
    if not fresh and not (state / STATE_FILE).exists():
        begin_from_export(trainer.state, trainer.architecture, BUNDLED_FOLDER)
    state.mkdir(parents=True, exist_ok=True)
    with (state / "runs.jsonl").open("a", encoding="utf-8") as runs:
        record = {"sources": [str(folder) for folder in folders], "config": config.model_dump()}
        runs.write(json.dumps(record) + "\n")
    train_codec(trainer, state, minutes)


@app.command()
def export(
    folder: Annotated[
        Path | None, typer.Option(help="By default the folder in the package.")
    ] = None,
    state: StateFolder = DEFAULT_STATE,
) -> None:
    """Write the averaged weights of the state folder as a codec."""
    from melodac.codec.load import BUNDLED_FOLDER
    from melodac.codec.training.export import export_codec
    from melodac.codec.training.loop import STATE_FILE
    from melodac.codec.training.state import load_state

    trainer = _trainer(_config(["compiled=false"]), [])
    load_state(state / STATE_FILE, trainer.state, trainer.architecture)
    config = export_codec(
        trainer.state,
        trainer.architecture,
        folder or BUNDLED_FOLDER,
        sources="melodac sample music, and the recordings of ../shared/music (CC0, CC BY 3.0, PD)",
    )
    typer.echo(f"{folder or BUNDLED_FOLDER}: update {trainer.state.update}, {config.sha256}")


@app.command()
def evaluate(
    threads: Annotated[int, typer.Option(min=1, help="CPU threads.")] = 1,
    source: Sources = None,
    weights: Annotated[Path | None, typer.Option(help="By default those in the package.")] = None,
) -> None:
    """Measure a codec on held-out music; writes report.csv and codebooks.csv beside its weights."""
    from melodac.codec.load import BUNDLED_FOLDER, load_codec_folder
    from melodac.codec.training.measure import measure_codec

    _use_threads(threads)
    folder = weights or BUNDLED_FOLDER
    codec = load_codec_folder(folder, name="bundled")
    clips = [clip for path in _sources(source) for clip in _load(path) if clip.held_out]
    files, codebooks = measure_codec(codec, clips)
    _write_table(folder / "report.csv", files)
    _write_table(folder / "codebooks.csv", codebooks)
    seconds = sum(report.duration_s for report in files)
    for column in ("mel_distance", "magnitude_distance", "si_sdr_db"):
        mean = sum(getattr(report, column) * report.duration_s for report in files) / seconds
        typer.echo(f"{column}: {mean:.3f} over {seconds:.0f} s of {len(files)} held-out recordings")
    typer.echo("codes used: " + " ".join(f"{book.used_share:.2f}" for book in codebooks))
    typer.echo("perplexity: " + " ".join(f"{book.perplexity:.0f}" for book in codebooks))


def _trainer(config: "CodecTrainingConfig", sources: "Sequence[Sequence[Clip]]") -> "CodecTrainer":
    from melodac.codec.architecture import BUNDLED_ARCHITECTURE
    from melodac.codec.training.clips import CropSource
    from melodac.codec.training.loop import CodecTrainer

    return CodecTrainer(config, BUNDLED_ARCHITECTURE, CropSource(sources, config))


def _config(settings: list[str] | None) -> "CodecTrainingConfig":
    """Read `key=value` settings as JSON, validated like any other config."""
    from melodac.codec.training.config import CodecTrainingConfig

    pairs = [setting.partition("=") for setting in settings or []]
    text = ", ".join(f"{json.dumps(key)}: {value}" for key, _, value in pairs)
    try:
        return CodecTrainingConfig.model_validate_json("{" + text + "}")
    except ValidationError as error:
        raise typer.BadParameter(f"{text}: {error}", param_hint="--set") from error


def _load(folder: Path) -> "list[Clip]":
    from melodac.codec.architecture import BUNDLED_ARCHITECTURE
    from melodac.codec.training.clips import load_clips

    return load_clips(folder, BUNDLED_ARCHITECTURE.sample_rate)


def _sources(given: list[Path] | None) -> list[Path]:
    return given or [folder for folder in DEFAULT_SOURCES if folder.is_dir()]


def _use_threads(threads: int) -> None:
    import torch

    torch.set_num_threads(threads)


def _write_table(path: Path, rows: "Sequence[DataclassInstance]") -> None:
    with path.open("w", newline="", encoding="utf-8") as file:
        writer = csv.DictWriter(
            file, [field.name for field in fields(rows[0])], lineterminator="\n"
        )
        writer.writeheader()
        for row in rows:
            values = asdict(row)
            writer.writerow({
                key: f"{value:.3f}" if isinstance(value, float) else value
                for key, value in values.items()
            })


if __name__ == "__main__":
    app()
