"""The `melodac` command. DVC does not need it: `dvc repro` alone runs the whole pipeline.

Only light imports at the top: each command imports what it needs when it is called.
"""

import os
import sys
from pathlib import Path
from typing import Annotated

import typer

app = typer.Typer(
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    rich_markup_mode=None,
    context_settings={"help_option_names": ["-h", "--help"]},
    help="A folder of music in; a trained model over DAC tokens, measurements and demos out.\n\n"
    "`dvc repro` and `dvc exp run` do the work; these commands watch it and use what it left. "
    "They work from any folder of the checkout.",
)


STARTED_IN = Path.cwd()
"""Working directory of the user, taken before commands change to the root of the checkout."""
REJECTED_SHOWN = 10


@app.command(
    context_settings={"allow_extra_args": True, "ignore_unknown_options": True},
    options_metavar="[DVC OPTIONS] [STAGES]",
)
def run(context: typer.Context) -> None:
    """Run the pipeline once, shown in the Prefect UI as one graph.

    Does `dvc repro`, or `dvc exp run` where an option asks for an experiment (-S, -n, --queue,
    --temp); all options and stage names go to DVC as they are. Parameters and the music folder are
    checked first. Needs no server: without one it is plain DVC, with the same result and the same
    exit code.

    One factor changed: melodac run -S train.delay=dia

    Your own music: melodac run -S ingest.source=/path/to/my/music
    """
    from pipeline.watch.flows import run_dvc

    raise typer.Exit(run_dvc(context.args))


@app.command()
def ui(
    port: Annotated[int, typer.Option(min=1, max=65535, help="Port on 127.0.0.1.")] = 4200,
) -> None:
    """Start the Prefect server and say its address; Ctrl-C stops it.

    While it runs, every stage of `dvc repro`, `dvc exp run` and `melodac run` shows up there. Its
    database is .prefect in the checkout; nothing leaves this machine.
    """
    from pipeline.watch.prefect_api import start_server

    start_server(Path.cwd(), port)


@app.command()
def generate(  # noqa: PLR0917  typer takes options as plain parameters
    seconds: Annotated[
        float | None, typer.Option(min=0.1, max=600, help="Length of each clip; default: as demos.")
    ] = None,
    temperature: Annotated[
        float | None, typer.Option(min=0, help="0 takes the likeliest code; default: as demos.")
    ] = None,
    top_k: Annotated[int, typer.Option(min=0, help="Likeliest codes kept; 0 keeps all.")] = 0,
    seed: Annotated[int, typer.Option(min=0, help="Seed of the first clip.")] = 0,
    count: Annotated[int, typer.Option(min=1, max=64, help="Clips, each with its own seed.")] = 1,
    prompt: Annotated[str, typer.Option(help="Tags to play to, e.g. 'piano, tempo 90'.")] = "",
    guidance: Annotated[float, typer.Option(min=0, help="1 plays to them, 3 more so.")] = 1.0,
    output: Annotated[Path, typer.Option(help="Folder of the FLAC files.")] = Path("generated"),
) -> None:
    """Sample new clips from the checkpoint of the train stage and write FLAC files.

    By default clips are as long as those of the listening page and drawn at its last temperature.
    The same seed, temperature, prompt and checkpoint give the same sound. A prompt needs a
    checkpoint of train.condition=tags.
    """
    from melodac.sampling.logits import SamplingSettings
    from pipeline import paths
    from pipeline.listening.instrument import Request, load_instrument, write_clips
    from pipeline.params import load_params
    from pipeline.processes.devices import set_up_torch

    params = load_params(paths.PARAMS)
    written = write_clips(
        load_instrument(params.codec.weights, set_up_torch(params.runtime)),
        STARTED_IN / output,
        seconds=params.demos.duration_s if seconds is None else seconds,
        seeds=range(seed, seed + count),
        settings=SamplingSettings(
            temperature=params.demos.temperatures[-1] if temperature is None else temperature,
            top_k=top_k,
            top_p=1.0,
        ),
        request=Request(prompt, guidance),
    )
    for path in written:
        typer.echo(path)


@app.command()
def plan() -> None:
    """Say what the train stage would do: schedules, memory, disk, hours. Nothing is trained.

    Needs the index stage: dvc repro index.
    """
    from pipeline import paths
    from pipeline.commands.plan import plan as describe
    from pipeline.params import load_params

    for line in describe(load_params(paths.PARAMS)):
        typer.echo(line)


@app.command()
def doctor(
    run: Annotated[
        Path | None, typer.Argument(help="A run, its checkpoints or one of them; default: the last")
    ] = None,
    against: Annotated[
        Path | None, typer.Option(help="Another one: say by how many decisions the two differ.")
    ] = None,
    json: Annotated[Path | None, typer.Option(help="File for the report as JSON.")] = None,
    strict: Annotated[bool, typer.Option("--strict", help="Warnings count as failures.")] = False,
) -> None:
    """Examine a finished, stopped or running training run and say what to try next.

    Exit code 1 if any check fails (with --strict: or gives a warning), else 0.
    """
    from pipeline import paths
    from pipeline.commands.doctor_report import render
    from pipeline.experiment.doctor import examine_path, write_report

    report = examine_path(
        paths.CHECKPOINT.parent if run is None else STARTED_IN / run,
        None if against is None else STARTED_IN / against,
    )
    for line in render(report):
        typer.echo(line)
    if json is not None:
        write_report(STARTED_IN / json, report)
    raise typer.Exit(report.exit_code(is_strict=strict))


@app.command()
def verify() -> None:
    """Read back normalised audio, token store and checkpoints and say what is damaged.

    Compares every byte with the hashes that were written with them. Normalised audio is skipped
    where its table is absent. Exit code 1 if anything is damaged or missing.
    """
    from pipeline.commands.repair import verify as read_back

    whole, damaged = read_back()
    for line in whole:
        typer.echo(f"whole    {line}")
    for line in damaged:
        typer.echo(f"DAMAGED  {line}", err=True)
    raise typer.Exit(1 if damaged else 0)


@app.command()
def repair() -> None:
    """Encode again what `verify` found damaged in the token store, and nothing else.

    The repaired store has the bytes it had before the damage.
    """
    from pipeline import paths
    from pipeline.commands.repair import repair as encode_again
    from pipeline.params import load_params

    for line in encode_again(load_params(paths.PARAMS)):
        typer.echo(line)


@app.command()
def scan(
    folder: Annotated[Path, typer.Argument(help="Folder of music.")],
    output: Annotated[Path, typer.Option(help="File to write.")] = Path("music.json"),
) -> None:
    """List a folder of music in one file, which `ingest.source` may then name instead.

    For folders with names at which DVC stops (pipes, sockets, links to nothing, names that are not
    UTF-8), and for very many files: DVC then hashes one file only. Scan again when music changes.
    """
    from pipeline.source.listing import write_listing

    target = STARTED_IN / output
    listing = write_listing(STARTED_IN / folder, target)
    typer.echo(f"{len(listing.files)} files listed in {target}; set ingest.source to it")


@app.command("import")
def import_(
    folder: Annotated[Path, typer.Argument(help="Folder of .npq, .npy or .pt files of codes.")],
    codec: Annotated[
        str,
        typer.Option(help="Codec that made them: 44khz, bundled, a folder of weights or a name."),
    ],
    output: Annotated[Path, typer.Option(help="Folder of the import.")] = Path("imported"),
) -> None:
    """Import codes made elsewhere into a folder that `ingest.source` can name instead of music.

    Then: melodac run -S ingest.source=imported -S codec.weights=44khz
    """
    from pipeline.commands.import_codes import import_codes

    target = STARTED_IN / output
    weights = STARTED_IN / codec
    maker = str(weights) if (weights / "config.json").is_file() else codec
    found = import_codes(STARTED_IN / folder, target, maker)
    rejected = [verdict for verdict in found.verdicts if verdict.verdict != "accept"]
    typer.echo(f"{len(found.record.tracks)} tracks in {target}, {len(rejected)} files rejected")
    for verdict in rejected[:REJECTED_SHOWN]:
        typer.echo(f"rejected  {verdict.path}: {verdict.reason}", err=True)


@app.command()
def export(
    output: Annotated[Path, typer.Argument(help="New or empty folder.")],
    form: Annotated[str, typer.Option("--format", help="npq, npy or pt.")] = "npq",
) -> None:
    """Write the token store as files that other programs read."""
    from typing import cast, get_args

    from pipeline.commands.export_codes import Format, export_codes

    if form not in get_args(Format):
        raise typer.BadParameter(f"{form!r}, allowed are {', '.join(get_args(Format))}")
    written = export_codes(STARTED_IN / output, cast("Format", form))
    typer.echo(f"{len(written)} files in {output}")


@app.callback()
def enter_checkout() -> None:
    """Change to the root of the checkout: every path of the pipeline is relative to it."""
    if any(word in {"-h", "--help"} for word in sys.argv[1:]):
        return
    from pipeline.dag import find_checkout
    from pipeline.logs import set_up_logging

    set_up_logging()
    os.chdir(find_checkout(Path.cwd()))


def main() -> None:
    """Run the command; an error prints one line and exits 2 for wrong parameters, else 1."""
    from pipeline.processes.environment import set_up_environment

    set_up_environment()
    from melodac.errors import ConfigError, MelodacError

    try:
        app(prog_name="melodac")
    except MelodacError as error:
        for line in str(error).splitlines():
            typer.echo(f"melodac: {line}", err=True)
        sys.exit(2 if isinstance(error, ConfigError) else 1)
