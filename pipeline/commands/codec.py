"""Train, measure and export a codec: `make codec`, or `python pipeline/commands/codec.py --help`.

No DVC stage: the result is committed with the package and changes a few times in the project's
life. Training resumes where it stopped, for the given number of minutes; settings and music may
change from one run to the next.
"""

import json
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

CHECKOUT = Path(__file__).resolve().parents[2]
sys.path[:0] = [str(CHECKOUT), str(CHECKOUT / "src")]

from melodac.errors import ConfigError, MelodacError  # noqa: E402  found through the line above
from pipeline.processes.environment import set_up_environment  # noqa: E402

set_up_environment()

if TYPE_CHECKING:
    from melodac.codec_training.config import CodecTrainingConfig
    from melodac.codec_training.measure import ClipReport

DEFAULT_STATE = CHECKOUT / ".scratch" / "codec"
DEFAULT_MUSIC = (CHECKOUT / ".scratch" / "practice", CHECKOUT / "data" / "sample")
"""Practice music (`make codec` composes it) and sample music; a missing folder is skipped."""

StateFolder = Annotated[Path, typer.Option("--state", help="Folder of the resumable state.")]
Sources = Annotated[
    list[Path] | None,
    typer.Option(
        "--source",
        help="Folder of audio, or one with the results of ingest and normalize (data); may be "
        "given several times, the first weighs most. By default practice and sample music.",
    ),
]
Settings = Annotated[
    list[str] | None,
    typer.Option(
        "--set",
        metavar="KEY=VALUE",
        help="A training setting, such as weights.mel=3; VALUE is JSON.",
    ),
]

app = typer.Typer(no_args_is_help=True, add_completion=False, pretty_exceptions_enable=False)


@app.callback()
def _describe() -> None:
    """Train, measure and export the small codec that comes with melodac, or one of your own."""


@app.command()
def train(
    *,
    minutes: Annotated[float, typer.Option(min=0.0, help="Wall-clock budget of this run.")] = 60.0,
    threads: Annotated[int, typer.Option(min=1, help="CPU threads.")] = 1,
    source: Sources = None,
    state: StateFolder = DEFAULT_STATE,
    init: Annotated[
        Path | None,
        typer.Option(help="Weights folder whose codes are kept and whose decoder is trained on."),
    ] = None,
    setting: Settings = None,
) -> None:
    """Train a codec, or resume from the state folder."""
    from melodac.codec.front_end import HALO
    from melodac.codec.spectral_codec import SpectralArchitecture
    from melodac.codec.weights import read_weights_folder
    from melodac.codec_training.clips import CropSource
    from melodac.codec_training.state import begin, read_architecture
    from melodac.codec_training.trainer import STATE_FILE, CodecTrainer, train_codec
    from pipeline.commands.codec_sources import open_source
    from pipeline.logs import set_up_logging
    from pipeline.processes.signals import stop_on_signal

    set_up_logging()
    _use_threads(threads)
    with _clear_errors():
        is_begun = (state / STATE_FILE).exists()
        if is_begun and init is not None:
            raise ConfigError(f"{state} is begun already: give another --state, or no --init")
        config = _config(setting)
        weights = None if init is None else read_weights_folder(init)
        if is_begun:
            architecture = read_architecture(state / STATE_FILE)
        else:
            architecture = weights[1].architecture if weights else SpectralArchitecture()
        shape = architecture.front_end
        folders = _sources(source)
        recordings = [open_source(folder, shape.sample_rate) for folder in folders]
        # the front end reads HALO frames beyond either end of a crop
        length = (config.crop_frames + 2 * HALO) * shape.hop
        trainer = CodecTrainer(config, architecture, CropSource(recordings, config, length))
        if weights is not None:
            begin(trainer.state, *weights)
        state.mkdir(parents=True, exist_ok=True)
        with (state / "runs.jsonl").open("a", encoding="utf-8") as runs:
            record = {"sources": [str(folder) for folder in folders], "config": config.model_dump()}
            runs.write(json.dumps(record) + "\n")
        with stop_on_signal() as stop:
            train_codec(trainer, state, minutes, should_stop=stop)
            stop.raise_if_asked()


@app.command()
def export(
    folder: Annotated[
        Path | None, typer.Option(help="By default the folder in the package.")
    ] = None,
    state: StateFolder = DEFAULT_STATE,
    sources: Annotated[
        str | None,
        typer.Option(
            help="What the weights were trained on, kept with them; by default the names of the "
            "folders."
        ),
    ] = None,
) -> None:
    """Write the quantizer and the EMA weights of the decoder in the state folder as a codec."""
    from melodac.codec.load import BUNDLED_FOLDER
    from melodac.codec_training.state import export_state
    from melodac.codec_training.trainer import STATE_FILE

    target = folder or BUNDLED_FOLDER
    with _clear_errors():
        config = export_state(
            state / STATE_FILE,
            target,
            name="bundled" if folder is None else folder.name,
            sources=sources or _folders_of(state),
        )
    typer.echo(f"{target}: update {config.training['updates']}, {config.decoder_sha256}")


@app.command()
def evaluate(
    threads: Annotated[int, typer.Option(min=1, help="CPU threads.")] = 1,
    source: Sources = None,
    weights: Annotated[Path | None, typer.Option(help="By default those in the package.")] = None,
) -> None:
    """Measure a codec on held-out music; writes report.csv, codebooks.csv to its weights folder."""
    from melodac.codec.load import BUNDLED_FOLDER, load_codec_folder
    from melodac.codec_training.measure import measure_codec
    from pipeline.commands.codec_sources import held_out_clips, open_source

    _use_threads(threads)
    folder = weights or BUNDLED_FOLDER
    with _clear_errors():
        codec = load_codec_folder(folder, name=folder.name)
        rate_hz = codec.sample_rate_hz
        clips = [
            clip
            for path in _sources(source)
            for clip in held_out_clips(open_source(path, rate_hz), rate_hz)
        ]
        if not clips:
            raise ConfigError("nothing is held out in these sources: there is nothing to measure")
        files, codebooks = measure_codec(codec, clips)
    rows = [_file_row(report) for report in files]
    _write_table(folder / "report.csv", rows)
    _write_table(folder / "codebooks.csv", [asdict(book) for book in codebooks])
    seconds = sum(report.duration_s for report in files)
    typer.echo(f"{len(files)} held-out recordings, {seconds:.0f} s")
    for column in list(rows[0])[2:]:
        mean = sum(row[column] * row["duration_s"] for row in rows) / seconds
        typer.echo(f"{column}: {mean:.3f}")
    typer.echo("codes used: " + " ".join(f"{book.used_share:.2f}" for book in codebooks))
    typer.echo("perplexity: " + " ".join(f"{book.perplexity:.0f}" for book in codebooks))


def _folders_of(state: Path) -> str:
    """List the music folders of all runs, by name only: paths would tell about this machine."""
    path = state / "runs.jsonl"
    if not path.is_file():
        raise ConfigError(f"{path} is missing: nothing was trained there so far")
    runs = path.read_text(encoding="utf-8").splitlines()
    names = [Path(source).name for run in runs for source in json.loads(run)["sources"]]
    return ", ".join(dict.fromkeys(names))


def _file_row(report: "ClipReport") -> dict[str, Any]:
    row = asdict(report)
    del row["bands"]
    for band in report.bands:
        row[f"distance_{band.label}_db"] = band.distance_db
        row[f"energy_{band.label}_db"] = band.energy_db
    return row


def _config(settings: list[str] | None) -> "CodecTrainingConfig":
    """Apply `a.b=value` settings to the defaults and validate the result."""
    from melodac.codec_training.config import CodecTrainingConfig

    values = CodecTrainingConfig().model_dump(mode="json")
    try:
        for setting in settings or []:
            key, _, text = setting.partition("=")
            _set(values, key.split("."), json.loads(text))
        return CodecTrainingConfig.model_validate_json(json.dumps(values))
    except ValueError as error:  # malformed JSON, unknown key, or a value out of range
        raise typer.BadParameter(f"{settings}: {error}", param_hint="--set") from error


def _set(values: dict[str, Any], keys: list[str], value: Any) -> None:  # noqa: ANN401  any JSON
    """Replace one value in nested sections; a section as value is merged key by key."""
    if keys[0] not in values:
        raise ConfigError(f"{keys[0]} is no setting; known here: {', '.join(values)}")
    if len(keys) == 1 and not isinstance(value, dict):
        values[keys[0]] = value
        return
    if not isinstance(values[keys[0]], dict):
        raise ConfigError(f"{keys[0]} is a single value")
    further = {".".join(keys[1:]): value} if len(keys) > 1 else value
    for key, item in further.items():
        _set(values[keys[0]], key.split("."), item)


def _sources(given: list[Path] | None) -> list[Path]:
    return given or [folder for folder in DEFAULT_MUSIC if folder.is_dir()]


@contextmanager
def _clear_errors() -> Iterator[None]:
    """Turn errors into one line and an exit code instead of a traceback."""
    from pipeline.processes.signals import StoppedError

    try:
        yield
    except MelodacError as error:
        typer.echo(f"error: {error}", err=True)
        raise typer.Exit(1) from error
    except StoppedError as stopped:
        typer.echo(str(stopped), err=True)
        raise typer.Exit(stopped.exit_code) from stopped


def _use_threads(threads: int) -> None:
    import torch

    torch.set_num_threads(threads)


def _write_table(path: Path, rows: Sequence[dict[str, Any]]) -> None:
    from pipeline.records import format_csv, write_text

    cells = (
        [f"{value:.3f}" if isinstance(value, float) else value for value in row.values()]
        for row in rows
    )
    write_text(path, format_csv(list(rows[0]), cells))


if __name__ == "__main__":
    app()
