"""Does the overfit gate let healthy runs through, whatever the folder of music?

    PYTHONPATH=src:. python tests/benchmarks/gate_draws.py WORK KIND=FOLDER [KIND=FOLDER ...]

Each folder becomes a collection of a few minutes: files spread over it, each cut to its first
seconds, where the silence is. The project's own stages catalogue, normalise, encode and index it
below WORK. Then the gate runs with seed 0, 1, 2 ..., each of which draws other windows and another
model, with the params of params.yaml, on one thread: 10 processor seconds a draw. Prints a table in
markdown and writes WORK/gate_draws.csv, one row a draw. A draw that the table already has, of the
same codes, code and params, is not run again; nor is what was encoded by the same codec.
"""

import argparse
import contextlib
import csv
import hashlib
import json
import shutil
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Iterable, Sequence
from pathlib import Path
from statistics import median

import soundfile

from melodac.errors import MelodacError
from pipeline.experiment.dataset import read_dataset
from pipeline.experiment.model import TRAINING_CODE
from pipeline.identity import fingerprint_code
from pipeline.params import Params, load_params
from pipeline.stages import overfit

ROOT = Path(__file__).resolve().parents[2]
COLUMNS = (
    "kind", "source", "seed", "version", "passed", "cause", "updates", "loss", "windows",
    "window_frames", "prefix_frames", "seconds",
)  # fmt: skip
SUFFIXES = (".flac", ".ogg", ".wav")


def collect(folder: Path, music: Path, *, minutes: float, seconds: float) -> None:
    """Copy the beginnings of files spread over a folder, until there are enough minutes."""
    files = sorted(file for file in folder.rglob("*") if file.suffix.lower() in SUFFIXES)
    if not files:
        raise SystemExit(f"{folder} holds no {', '.join(SUFFIXES)}")
    durations_s = {file: soundfile.info(file).duration for file in files}
    usable = [file for file in files if durations_s[file] >= 1.0]
    # in an order that jumps through the folder, the same on every machine
    usable.sort(key=lambda file: hashlib.sha256(file.name.encode()).digest())
    left_s = minutes * 60
    music.mkdir(parents=True)
    for file in usable:
        rate_hz = soundfile.info(file).samplerate
        samples, rate_hz = soundfile.read(file, frames=round(seconds * rate_hz), dtype="float32")
        name = "_".join(file.relative_to(folder).with_suffix(".flac").parts)
        soundfile.write(music / name, samples.clip(-1, 1), rate_hz, subtype="PCM_16")
        left_s -= len(samples) / rate_hz
        if left_s < 0:
            return


def prepare(work: Path, params: Params) -> None:
    """Run the stages before the gate; what an earlier call encoded is taken from their caches."""
    # JSON is YAML
    (work / "params.yaml").write_text(json.dumps(params.model_dump(mode="json")))
    shutil.copy(ROOT / "dvc.yaml", work)
    for stage in ("ingest", "normalize", "encode", "index"):
        subprocess.run(
            [sys.executable, str(ROOT / "pipeline" / "run.py"), stage], cwd=work, check=True
        )


def collection_params() -> Params:
    """The params of the checkout, for a small collection on one thread."""
    params = load_params(ROOT / "params.yaml")
    runtime = {"workers": 1, "threads": 1, "device": "cpu", "wandb": "off"}
    ingest = {"source": "music", "validation_frac": 0.1, "test_frac": 0.1, "min_validation_s": 1.0}
    return params.model_copy(
        update={
            "ingest": params.ingest.model_copy(update=ingest),
            "runtime": params.runtime.model_copy(update=runtime),
        }
    )


def version_of(params: Params) -> str:
    """Eight hex digits over all that decides a draw but its seed, in the current folder."""
    parts = [
        read_dataset(params.train.layout).index.fingerprint,
        fingerprint_code(TRAINING_CODE),
        params.train.model_dump(mode="json"),
        params.overfit.model_dump(mode="json", exclude={"seed"}),
    ]
    return hashlib.sha256(json.dumps(parts, sort_keys=True).encode()).hexdigest()[:8]


def draw(params: Params, seed: int) -> dict[str, object]:
    """Run the gate once, in the current folder."""
    started_s = time.monotonic()
    gate = params.overfit.model_copy(update={"seed": seed})
    try:
        report = overfit.memorise(params.model_copy(update={"overfit": gate}))
    except MelodacError as error:
        found = {"passed": False, "cause": f"{type(error).__name__}: {error}"}
    else:
        found = {
            "passed": report.is_passed,
            "cause": report.cause,
            "updates": report.updates,
            "loss": round(report.loss, 4),
            "windows": len(report.windows),
            "window_frames": report.window_frames,
            "prefix_frames": report.prefix_frames,
        }
    return {**found, "seconds": round(time.monotonic() - started_s, 1)}


def read_rows(table: Path) -> list[dict[str, str]]:
    if not table.exists():
        return []
    with table.open(encoding="utf-8", newline="") as file:
        return list(csv.DictReader(file))


def add_row(table: Path, row: dict[str, object]) -> None:
    is_new = not table.exists()
    with table.open("a", encoding="utf-8", newline="") as file:
        writer = csv.DictWriter(file, COLUMNS, lineterminator="\n")
        if is_new:
            writer.writeheader()
        writer.writerow(row)


def draw_collection(
    table: Path, kind: str, folder: Path, seeds: Sequence[int], params: Params
) -> list[dict[str, str]]:
    """The rows of one collection, run where the table lacks them."""
    version = version_of(params)
    known = {
        row["seed"]: row
        for row in read_rows(table)
        if row["kind"] == kind and row["version"] == version
    }
    for seed in seeds:
        if str(seed) not in known:
            found = draw(params, seed)
            named = {"kind": kind, "source": "/".join(folder.parts[-2:]), "seed": seed}
            add_row(table, {**named, "version": version, **found})
            sys.stderr.write(f"{kind}, seed {seed}: {found}\n")
    wanted = {str(seed) for seed in seeds}
    return [
        row
        for row in read_rows(table)
        if row["kind"] == kind and row["version"] == version and row["seed"] in wanted
    ]


def as_markdown(rows: Sequence[dict[str, str]]) -> Iterable[str]:
    """One line a collection, then one a failure."""
    yield "| kind | source | draws | passed | updates (median, most) | prefix frames: draws |"
    yield "| --- | --- | ---: | ---: | ---: | --- |"
    for kind in dict.fromkeys(row["kind"] for row in rows):
        its = [row for row in rows if row["kind"] == kind]
        updates = [int(row["updates"]) for row in its if row["updates"]]
        prefixes = Counter(row["prefix_frames"] for row in its if row["prefix_frames"])
        yield (
            f"| {kind} | {its[0]['source']} | {len(its)} | "
            f"{sum(row['passed'] == 'True' for row in its)} | "
            f"{median(updates) if updates else '-'}, {max(updates, default='-')} | "
            f"{', '.join(f'{prefix}: {count}' for prefix, count in sorted(prefixes.items()))} |"
        )
    passed = sum(row["passed"] == "True" for row in rows)
    seconds = sum(float(row["seconds"]) for row in rows)
    yield f"\n{passed} of {len(rows)} draws passed, {seconds:.0f} s"
    for row in rows:
        if row["passed"] != "True":
            yield f"- {row['kind']}, seed {row['seed']}: {row['cause']}"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("work", type=Path, help="folder for collections and table, kept")
    parser.add_argument("collections", nargs="+", metavar="KIND=FOLDER")
    parser.add_argument("--draws", type=int, default=8, help="seeds of each collection")
    parser.add_argument("--minutes", type=float, default=4.0, help="music of each collection")
    parser.add_argument("--seconds", type=float, default=30.0, help="most of each file")
    given = parser.parse_args()
    params = collection_params()
    table = given.work.absolute() / "gate_draws.csv"
    rows: list[dict[str, str]] = []
    for collection in given.collections:
        kind, _, name = collection.partition("=")
        folder, work = Path(name).absolute(), given.work.absolute() / kind
        if not (work / "music").exists():
            collect(folder, work / "music", minutes=given.minutes, seconds=given.seconds)
        prepare(work, params)
        with contextlib.chdir(work):
            rows += draw_collection(table, kind, folder, range(given.draws), params)
    sys.stdout.write("\n".join(as_markdown(rows)) + "\n")


if __name__ == "__main__":
    main()
