"""What knowing the codec's code vectors is worth, in nats a code, seed by seed.

    PYTHONPATH=src:. python tests/benchmarks/embedding_ablation.py --seeds 0 1 2 --modes learned codec

Trains the model of params.yaml on the codes that `dvc repro index` left, by the real trainer, once
for each mode and seed, and prints a markdown table: best validation loss (mean over seeds with a
95 % interval of Student's t), its difference to the first mode seed by seed, how many codebooks end
above their unigram, time and parameters. A mode is learned, tied or codec, and codec may change
constants of `melodac.models`: `codec:LEASH=0` or `codec:MAX_VECTOR_DIM=16,VECTOR_SIZE=8`.
`--root` names another folder with `data/encode` and `data/index`; `--updates`, `--size` and
`--windows` change the run. Half a minute to two minutes a run of 600 updates of nano on one core.
"""

import argparse
import json
import math
import os
import sys
import time
from pathlib import Path
from typing import NamedTuple

import numpy as np
import torch
from scipy import stats

from melodac.models import code_tables, config, initialization
from melodac.models.config import build_config, vector_dim
from melodac.models.language_model import LanguageModel
from melodac.training.trainer import Callbacks, Trainer
from pipeline import paths
from pipeline.experiment.dataset import read_dataset
from pipeline.experiment.model import build_train_pattern
from pipeline.experiment.training_run import read_training_data
from pipeline.params import load_params


class Run(NamedTuple):
    """What came of one run."""

    mode: str
    seed: int
    best: float
    update: int
    per_codebook: list[float]
    seconds: float
    parameters: int


def parse_arguments():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--modes", nargs="+", default=["learned", "tied", "codec"])
    parser.add_argument("--seeds", nargs="+", type=int, default=[0, 1, 2])
    parser.add_argument("--root", type=Path, default=Path(), help="folder that holds data/")
    parser.add_argument("--size", help="named size of the model; that of params.yaml by default")
    parser.add_argument("--updates", type=int)
    parser.add_argument("--windows", type=int, help="windows an update and a micro-batch")
    parser.add_argument("--output", type=Path, help="JSON lines, one a run; runs in it are kept")
    return parser.parse_args()


def read_mode(mode):
    """Kind of embedding, and the constants that a mode changes."""
    kind, _, changes = mode.partition(":")
    return kind, {
        key: float(value) for key, value in (c.split("=") for c in changes.split(",") if c)
    }


def build(size, pattern, vectors, *, mode, dropout, seed):
    """A fresh model of a mode; constants are put back afterwards, each is read at the start only."""
    kind, changes = read_mode(mode)
    modules = (code_tables, config, initialization)
    before = [(m, key, getattr(m, key)) for m in modules for key in changes if hasattr(m, key)]
    for module, key, _ in before:
        setattr(module, key, type(getattr(module, key))(changes[key]))
    try:
        given = torch.from_numpy(vectors) if kind == "codec" else None
        shape = build_config(
            size,
            num_codebooks=pattern.num_codebooks,
            dropout=dropout,
            embedding=kind,
            vector_dim=0 if given is None else vector_dim(given.shape[-1]),
        )
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(seed)
            return LanguageModel(shape, given)
    finally:
        for module, key, value in before:
            setattr(module, key, value)


def train(mode, seed, dataset, params):
    run = params.train.trainer_config()
    pattern = build_train_pattern(params.train, dataset)
    model = build(
        params.train.size, pattern, dataset.vectors, mode=mode, dropout=run.dropout, seed=seed
    )
    validations = []
    started = time.monotonic()
    trainer = Trainer(
        model,
        pattern,
        read_training_data(params.train, dataset),
        config=run.model_copy(update={"seed": seed}),
        directory=None,
        identity={},
    )
    if ":" not in mode:  # with LEASH=0, say, learned rows receive no gradient on purpose
        trainer.audit()
    trainer.run(Callbacks(on_validation=validations.append))
    best = min(validations, key=lambda found: found["loss"])
    return Run(
        mode,
        seed,
        best["loss"],
        best["update"],
        [best[f"loss_k{k}"] for k in range(pattern.num_codebooks)],
        round(time.monotonic() - started, 1),
        sum(weight.numel() for weight in model.parameters()),
    )


def interval(values):
    """Mean and half the width of its 95 % interval; no interval of one value."""
    mean = float(np.mean(values))
    if len(values) < 2:
        return f"{mean:.3f}"
    half = stats.t.ppf(0.975, len(values) - 1) * np.std(values, ddof=1) / math.sqrt(len(values))
    return f"{mean:.3f} ± {half:.3f}"


def table(runs, unigram):
    modes = list(dict.fromkeys(run.mode for run in runs))
    by_seed = {(run.mode, run.seed): run for run in runs}
    lines = [
        f"unigram, mean: {np.mean(unigram):.3f}; by codebook: {' '.join(f'{u:.2f}' for u in unigram)}",
        "",
        "| mode | best validation | beside the first mode | best at | above unigram | by codebook | "
        "s a run | parameters |",
        "| --- | ---: | ---: | ---: | ---: | --- | ---: | ---: |",
    ]
    for mode in modes:
        own = [run for run in runs if run.mode == mode]
        paired = [
            run.best - by_seed[modes[0], run.seed].best
            for run in own
            if (modes[0], run.seed) in by_seed
        ]
        books = np.mean([run.per_codebook for run in own], axis=0)
        above = [sum(np.array(run.per_codebook) > unigram) for run in own]
        lines.append(
            f"| {mode} | {interval([run.best for run in own])} | {interval(paired)} | "
            f"{' '.join(str(run.update) for run in own)} | {' '.join(map(str, above))} | "
            f"{' '.join(f'{book:.2f}' for book in books)} | "
            f"{np.mean([run.seconds for run in own]):.0f} | {own[0].parameters} |"
        )
    return "\n".join(lines)


def main():
    arguments = parse_arguments()
    torch.set_num_threads(1)
    changes = {"size": arguments.size, "updates": arguments.updates}
    if arguments.windows:
        changes |= {"windows_per_update": arguments.windows, "micro_batch": arguments.windows}
    params = load_params(paths.PARAMS)
    params = params.model_copy(
        update={
            "train": params.train.model_copy(
                update={key: value for key, value in changes.items() if value is not None}
            )
        }
    )
    output = arguments.output and arguments.output.resolve()
    os.chdir(arguments.root)
    dataset = read_dataset(params.train.layout)
    columns = dataset.layout.positions(dataset.header)
    baselines = json.loads(paths.BASELINES.read_text(encoding="utf-8"))
    unigram = np.array(baselines["validation"]["unigram"])[columns]
    runs = []
    if output and output.exists():
        runs = [Run(**json.loads(line)) for line in output.read_text().splitlines()]
    done = {(run.mode, run.seed) for run in runs}
    for seed in arguments.seeds:
        for mode in arguments.modes:
            if (mode, seed) in done:
                continue
            runs.append(train(mode, seed, dataset, params))
            sys.stderr.write(f"{runs[-1]}\n")
            if output:
                with output.open("a") as file:
                    file.write(json.dumps(runs[-1]._asdict()) + "\n")
    sys.stdout.write(table(runs, unigram) + "\n")


if __name__ == "__main__":
    main()
