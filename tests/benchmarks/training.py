"""Speed and memory of whole updates with each switch, beside plain float32 and the GEMM rate.

    PYTHONPATH=src:. python tests/benchmarks/training.py nano [--turns 7] [--only bf16 compile]

Processor seconds of one thread, the switches taking turns in one run, medians. Memory is the peak
of a process of its own that takes two updates, less what it held before the model was built.
"""

import argparse
import json
import platform
import statistics
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import torch

from melodac.models.config import build_config
from melodac.models.language_model import LanguageModel
from melodac.tokens.array import array_of_tracks
from melodac.tokens.delay import build_pattern
from melodac.training.data import Prefetcher, TrainingData
from melodac.training.planning.estimates import count_training_flops
from melodac.training.planning.memory import MemoryShape, estimate_memory
from melodac.training.trainer import Callbacks, Trainer
from pipeline.params import load_params

FRAMES, WINDOWS, CODEBOOKS = 256, 4, 9
SWITCHES = {
    "fp32": {},
    "bf16": {"compute": {"precision": "bf16"}},
    "fp16": {"compute": {"precision": "fp16"}},
    "compile": {"compute": {"compile": True}},
    "compile, bf16": {"compute": {"compile": True, "precision": "bf16"}},
    "recompute": {"compute": {"recompute": True}},
    "accumulation of 4": {"micro_batch": 1},
    "prefetch": {},
    "muon": {"optimizer": "muon"},
    "condition tags": {"condition": "tags"},
}


def build_trainer(size, name):
    config = load_params(Path("params.yaml")).train.trainer_config()
    changes = SWITCHES[name]
    config = config.model_copy(
        update={
            "windows_per_update": WINDOWS,
            "micro_batch": WINDOWS,
            **changes,
            "compute": config.compute.model_copy(update=changes.get("compute", {})),
        }
    )
    generator = np.random.default_rng(0)
    tracks = array_of_tracks([
        (f"t{n}", generator.integers(0, 1024, (4000, CODEBOOKS)).astype(np.uint16))
        for n in range(10)
    ])
    reads = config.condition == "tags"
    tags = tuple((("genre: ambient", "instruments: piano"),) * 10) if reads else ()
    data = TrainingData(tracks, tracks, FRAMES, train_tags=tags, validation_tags=tags)
    shape = build_config(
        size,
        num_codebooks=CODEBOOKS,
        dropout=config.dropout,
        **({"reads_text": True} if reads else {}),
    )
    return Trainer(
        LanguageModel(shape),
        build_pattern("musicgen", CODEBOOKS),
        data,
        config=config,
        directory=None,
        identity={},
    )


class Taker:
    """Takes one update after another; the first ones compile and warm up."""

    def __init__(self, size, name):
        self.trainer = build_trainer(size, name)
        read = self.trainer.gradients.reader.read
        depth = 1 if name == "prefetch" else 0
        self.ahead = Prefetcher(read, 1, self.trainer.config.updates, depth=depth)

    def take(self):
        started = time.process_time()
        self.trainer._take_update(self.ahead.take(self.trainer.update + 1), Callbacks())
        return time.process_time() - started


def gemm_s(left, right):
    started = time.process_time()
    for _ in range(10):
        left @ right
    return (time.process_time() - started) / 10


def peak_mb():
    # of this program alone: getrusage also counts the one that started it
    status = Path("/proc/self/status").read_text(encoding="ascii")
    return int(status.split("VmHWM:")[1].split()[0]) * 1024 / 1e6


def measure_memory(size, name):
    before = peak_mb()
    taker = Taker(size, name)
    for _ in range(2):
        taker.take()
    taker.ahead.close()
    trainer = taker.trainer
    steps = trainer.pattern.num_steps(FRAMES)
    need = estimate_memory(MemoryShape(trainer.state.model.config, trainer.config, steps))
    sys.stdout.write(json.dumps([peak_mb() - before, need.peak_bytes / 1e6]))


def memory_of(size, name):
    command = [sys.executable, __file__, size, "--memory-of", name]
    done = subprocess.run(command, check=True, capture_output=True, text=True)
    return json.loads(done.stdout.splitlines()[-1])


def measure(size, names, turns):
    takers = {name: Taker(size, name) for name in names}
    left, right = torch.randn(2, 1024, 1024)
    for taker in takers.values():
        taker.take()
        taker.take()
    seconds, gemms = {name: [] for name in names}, []
    for _ in range(turns):
        for name, taker in takers.items():
            gemms.append(gemm_s(left, right))
            seconds[name].append(taker.take())
    for taker in takers.values():
        taker.ahead.close()
    rate = 2 * 1024**3 / statistics.median(gemms)
    medians = {name: statistics.median(found) for name, found in seconds.items()}
    lines = [
        f"{size}, {WINDOWS} windows of {FRAMES} frames, {turns} turns, GEMM {rate / 1e9:.0f} GFLOP/s, "
        f"torch {torch.__version__}, Python {platform.python_version()}",
        "",
        "| switch | frames/s | of fp32 | MFU | peak MB | of fp32 | estimate / measured |",
        "| --- | ---: | ---: | ---: | ---: | ---: | ---: |",
    ]
    peaks = {name: memory_of(size, name) for name in names}
    for name, median in medians.items():
        trainer = takers[name].trainer
        steps = trainer.pattern.num_steps(FRAMES)
        flops = count_training_flops(
            trainer.state.model.config, batch_size=WINDOWS, num_steps=steps
        )
        peak, estimate = peaks[name]
        lines.append(
            f"| {name} | {WINDOWS * FRAMES / median:.0f} | {medians['fp32'] / median:.2f} "
            f"| {flops / median / rate:.2f} | {peak:.0f} | {peak / peaks['fp32'][0]:.2f} "
            f"| {estimate / peak:.2f} |"
        )
    return "\n".join(lines)


def main():
    torch.set_num_threads(1)
    parser = argparse.ArgumentParser()
    parser.add_argument("size")
    parser.add_argument("--turns", type=int, default=7)
    parser.add_argument("--only", nargs="*", default=[])
    parser.add_argument("--memory-of")
    given = parser.parse_args()
    if given.memory_of:
        measure_memory(given.size, given.memory_of)
        return
    names = [name for name in SWITCHES if name == "fp32" or name in (given.only or SWITCHES)]
    sys.stdout.write(measure(given.size, names, given.turns) + "\n")


if __name__ == "__main__":
    main()
