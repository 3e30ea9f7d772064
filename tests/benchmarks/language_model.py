"""Speed of a named model size on one thread: training against the GEMM rate, and generation.

    python tests/benchmarks/language_model.py [size]

Times are processor seconds, so that a busy machine distorts them little; the GEMM is timed between
the passes of the model, in the same run.
"""

import statistics
import sys
import time

import torch
from torch.nn import functional

from melodac.models.config import build_config
from melodac.models.language_model import LanguageModel
from melodac.sampling.generate import generate
from melodac.sampling.logits import SamplingSettings
from melodac.tokens.delay import build_pattern
from melodac.training.planning.estimates import count_training_flops

BATCH_SIZE, STEPS, FRAMES = 8, 264, 603


def seconds(work):
    start = time.process_time()
    work()
    return time.process_time() - start


def measure_training(model):
    sequence = torch.randint(0, 1024, (BATCH_SIZE, 9, STEPS))
    left, right = torch.randn(2, 1024, 1024)

    def update():
        model.zero_grad()
        logits = model(sequence).transpose(1, 2).flatten(0, 2)
        functional.cross_entropy(logits, sequence.transpose(1, 2).flatten()).backward()

    passes, gemms = [], []
    for _ in range(9):
        passes.append(seconds(update))
        gemms.append(seconds(lambda: [left @ right for _ in range(10)]) / 10)
    per_pass, gemm_rate = statistics.median(passes[1:]), 2 * 1024**3 / statistics.median(gemms)
    flops = count_training_flops(model.config, batch_size=BATCH_SIZE, num_steps=STEPS)
    return (
        f"training: {per_pass * 1e3:.0f} ms a pass, {BATCH_SIZE * STEPS / per_pass:.0f} steps/s, "
        f"GEMM {gemm_rate / 1e9:.0f} GFLOP/s, MFU {flops / per_pass / gemm_rate:.2f}"
    )


def measure_generation(model, delay, num_frames, **settings):
    taken = seconds(
        lambda: generate(
            model,
            build_pattern(delay),
            num_frames=num_frames,
            seeds=range(BATCH_SIZE),
            settings=SamplingSettings(**settings),
        )
    )
    rate = BATCH_SIZE * num_frames / taken
    return f"generation, {delay}, {settings}: {taken:.2f} s, {rate:.0f} frames/s"


def main():
    torch.set_num_threads(1)
    size = sys.argv[1] if len(sys.argv) > 1 else "nano"
    model = LanguageModel(build_config(size, num_codebooks=9, dropout=0.1))
    lines = [measure_training(model)]
    for temperature, top_k, top_p in [(1.0, 0, 1.0), (0.0, 0, 1.0), (1.0, 250, 1.0), (1.0, 0, 0.9)]:
        chosen = {"temperature": temperature, "top_k": top_k, "top_p": top_p}
        lines.append(measure_generation(model, "musicgen", FRAMES, **chosen))
    lines.append(
        measure_generation(model, "flat", FRAMES // 9, temperature=1.0, top_k=0, top_p=1.0)
    )
    sys.stdout.write("\n".join(lines) + "\n")


if __name__ == "__main__":
    main()
