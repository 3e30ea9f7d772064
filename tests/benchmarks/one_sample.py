"""One recording learned by heart: when does a free run from nothing become the recording itself?

    PYTHONPATH=src:. python tests/benchmarks/one_sample.py

Repeats an experiment of an earlier system on one window of the token store that `dvc repro encode`
leaves in data/encode: 640 frames (7.4 s) of 9 codebooks, batch 1, no condition, delay musicgen,
constant rate; once at the rate of that system without a warm-up, once at that of params.yaml. The
trainer is the real one, with the params of the real run less its regularisers. Every 25 updates,
after 600 every 50, the model runs freely from nothing, at T = 0 and with two seeds each at T = 0.5
and T = 1, nothing cut off. Some 15 minutes on one idle core. Writes docs/one_sample_overfit.csv and
.png; with `--plot` the picture is drawn anew from the table.
"""

import csv
import sys
import time
from pathlib import Path

import matplotlib as mpl

mpl.use("Agg")
import matplotlib.pyplot as plt
import torch

from melodac.models.config import build_config
from melodac.models.language_model import LanguageModel
from melodac.overfit.gate import gate_config
from melodac.sampling.generate import generate
from melodac.sampling.logits import SamplingSettings
from melodac.tokens.array import array_of_tracks
from melodac.tokens.delay import build_pattern
from melodac.tokens.store.reader import open_store
from melodac.training.config import OverfitConfig
from melodac.training.data import TrainingData
from melodac.training.seeding import seeded
from melodac.training.trainer import Callbacks, Trainer
from pipeline.params import load_params

SIZE = "nano"
FRAMES = 640
SEEDS = (0, 1)
COLUMNS = ("t0", "t05_a", "t05_b", "t1_a", "t1_b")
TEMPERATURES = {0.0: ("t0",), 0.5: ("t05_a", "t05_b"), 1.0: ("t1_a", "t1_b")}
UPDATES = 2600
"""Most updates; a run ends once every free run has been the recording at two looks."""
LOOK_EVERY, SELDOM_AFTER = 25, 600
PERFECT, MEMORISED = 1.0, 0.999
"""Share of right cells of a perfect run, and of one that is the recording but for a few codes."""

THEIR_RATE = 1e-4
THEIR_PERFECT = {0.0: 399, 1.0: 2099}
"""Updates after which both free runs of that system were the recording, as heard."""

TABLE, PLOT = Path("docs/one_sample_overfit.csv"), Path("docs/one_sample_overfit.png")


def read_window():
    array = open_store(Path("data/encode/tokens")).load()
    track = next(t for t, length in enumerate(array.lengths) if length >= FRAMES)
    return array_of_tracks([(f"{array.track_ids[track]}+0", array.codes(track)[:FRAMES])])


def build_study_config(rate, warmup_updates):
    gate = OverfitConfig(
        action="stop",
        windows=1,
        window_frames=FRAMES,
        prefix_frames=1,
        updates=UPDATES,
        stop_loss=0.0,
        min_accuracy=1.0,
        seed=0,
    )
    real = load_params(Path("params.yaml")).train.trainer_config()
    config = gate_config(real.model_copy(update={"schedule": "constant"}), gate)
    return config.model_copy(update={"learning_rate": rate, "warmup_updates": warmup_updates})


class Study:
    """One run of the trainer that is asked every so often what it would play."""

    def __init__(self, window, config):
        K = window.values.shape[1]
        self.pattern = build_pattern("musicgen", K)
        self.truth = torch.as_tensor(window.codes(0).astype("int64")).T
        self.config = config
        self.rows, self.loss, self.started = [], float("nan"), time.monotonic()
        with seeded(config.seed, "initialisation"):
            self.model = LanguageModel(build_config(SIZE, num_codebooks=K, dropout=0.0))
        self.trainer = Trainer(
            self.model,
            self.pattern,
            TrainingData(window, window, FRAMES),
            config=config,
            directory=None,
            identity={},
        )

    def hear(self, metrics):
        self.loss = metrics["loss"]

    def look(self):
        """Called between updates; true once every run has been the recording at two looks."""
        update = self.trainer.update
        if not update or update % (LOOK_EVERY if update <= SELDOM_AFTER else 2 * LOOK_EVERY):
            return False
        shares = [share for temperature in TEMPERATURES for share in self.run_freely(temperature)]
        self.rows.append([self.config.learning_rate, update, round(self.loss, 5), *shares])
        told = " ".join(f"{share:.3f}" for share in shares)
        seconds = time.monotonic() - self.started
        sys.stdout.write(f"update {update}, loss {self.loss:.4f}, right {told}, {seconds:.0f} s\n")
        sys.stdout.flush()
        last = [min(row[3:]) for row in self.rows[-2:]]
        return len(last) == 2 and min(last) > MEMORISED

    def run_freely(self, temperature):
        codes = generate(
            self.model,
            self.pattern,
            num_frames=FRAMES,
            seeds=SEEDS[: len(TEMPERATURES[temperature])],
            settings=SamplingSettings(temperature=temperature, top_k=0, top_p=1.0),
            ends=True,
        )
        return [round(float(share), 5) for share in (codes == self.truth).double().mean((1, 2))]


def write_table(rows):
    with TABLE.open("w", encoding="utf-8", newline="") as file:
        writer = csv.writer(file, lineterminator="\n")
        writer.writerow(("learning_rate", "update", "loss", *COLUMNS))
        writer.writerows(rows)


def read_table():
    with TABLE.open(encoding="utf-8", newline="") as file:
        return [{key: float(value) for key, value in row.items()} for row in csv.DictReader(file)]


def first_update(rows, columns, share):
    """First look from which on every run was so good."""
    good = [all(row[column] >= share for column in columns) for row in rows]
    held = [index for index in range(len(rows)) if all(good[index:])]
    return int(rows[held[0]]["update"]) if held else None


def draw_plot(table):
    rates = sorted({row["learning_rate"] for row in table})
    figure, axes = plt.subplots(
        2, len(rates), figsize=(11, 6), sharex="col", height_ratios=(2, 1), layout="constrained"
    )
    for column, rate in enumerate(rates):
        rows = [row for row in table if row["learning_rate"] == rate]
        updates = [row["update"] for row in rows]
        share, loss = axes[:, column]
        for colour, (temperature, names) in zip("kbr", TEMPERATURES.items(), strict=True):
            for name in names:
                label = f"T = {temperature:g}" if name == names[0] else None
                share.plot(updates, [row[name] for row in rows], colour, marker=".", label=label)
            theirs = THEIR_PERFECT.get(temperature)
            if rate == THEIR_RATE and theirs:
                share.axvline(theirs, color=colour, linestyle=":")
                told = f"earlier system, T = {temperature:g}"
                share.text(theirs, 0.35, told, rotation=90, ha="right", color=colour)
        share.set(title=f"learning rate {rate:g}", ylabel="right cells of a free run")
        share.legend(loc="lower right")
        loss.semilogy(updates, [row["loss"] for row in rows], "k", marker=".")
        loss.set(xlabel="update", ylabel="nats per code")
    figure.savefig(PLOT, dpi=110, metadata={"Software": None})


def tell(table):
    for rate in sorted({row["learning_rate"] for row in table}):
        rows = [row for row in table if row["learning_rate"] == rate]
        for temperature, names in TEMPERATURES.items():
            found = {share: first_update(rows, names, share) for share in (0.9, MEMORISED, PERFECT)}
            sys.stdout.write(f"rate {rate:g}, T = {temperature:g}: {found}\n")


def main():
    torch.set_num_threads(1)
    if "--plot" not in sys.argv[1:]:
        default = load_params(Path("params.yaml")).train
        rows = []
        for rate, warmup in (
            (default.learning_rate, default.warmup_updates),
            (THEIR_RATE, 0),
        ):
            study = Study(read_window(), build_study_config(rate, warmup))
            study.trainer.run(Callbacks(on_update=study.hear, should_stop=study.look))
            rows += study.rows
            write_table(rows)
    table = read_table()
    draw_plot(table)
    tell(table)


if __name__ == "__main__":
    main()
