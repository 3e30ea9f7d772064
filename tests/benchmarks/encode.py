"""Speed of coding on one thread: the bundled codec, and DAC beside the plain calls of its package.

    python tests/benchmarks/encode.py bundled|official [--seconds 12] [--rounds 3] [--all-cores] music.ogg

Times are processor seconds, so that a busy machine distorts them little; the ways take turns and the
least of each is kept. The ceiling is the arithmetic of all matrix products and convolutions at the
rate of a large matrix product, timed between them.

`bundled` encodes and decodes with the weights of the package. `official` encodes at the size of the
release with stand-in weights; `compress` measures the loudness first, which is a Python loop where
torchaudio's library cannot be loaded: timed with and without.
"""

import argparse
import copy
import importlib.util
import os
import sys
import time
import types
import warnings
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import torch
from torch import Tensor, nn
from torch.nn import functional
from torch.utils.flop_counter import FlopCounterMode

sys.path.insert(0, str(Path(__file__).parents[1] / "reference"))  # run as a script, not a module

from official_codec import OFFICIAL, build_spread

from melodac.audio.files.read import read_audio
from melodac.codec.architecture import DacArchitecture, build_dac, dac_model_class
from melodac.codec.dac import DacCodec
from melodac.codec.load import load_codec


def seconds(work: Callable[[], object]) -> float:
    start = time.process_time()
    work()
    return time.process_time() - start


def build_plain(folded: nn.Module, architecture: DacArchitecture) -> nn.Module:
    """Build the DAC of the package, weight norm, Snake and all, with the weights of `folded`."""
    kwargs = architecture.model_dump()
    kwargs |= {name: list(kwargs[name]) for name in ("encoder_rates", "decoder_rates")}
    plain = build_dac(**kwargs).eval()
    weights = folded.state_dict()
    for name, module in plain.named_modules():
        if hasattr(module, "weight_g"):
            weight = weights.pop(f"{name}.weight")
            axes = tuple(range(1, weight.ndim))
            weights[f"{name}.weight_v"] = weight
            weights[f"{name}.weight_g"] = weight.norm(dim=axes, keepdim=True)
    plain.load_state_dict(weights)
    return plain


def compress(
    plain: nn.Module, audio: Tensor, window_s: float, *, with_loudness: bool = False
) -> Tensor:
    dac_model_class()  # audiotools imports torchaudio, which may need the stand-in
    from audiotools import AudioSignal

    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        signal = AudioSignal(audio[None], 44_100)
        loudness = AudioSignal.loudness
        if not with_loudness:
            AudioSignal.loudness = lambda self: torch.full((1,), -16.0)
        try:
            return plain.compress(signal, win_duration=window_s, normalize_db=None).codes
        finally:
            AudioSignal.loudness = loudness


def give_lfilter() -> None:
    """Let audiotools measure loudness as it does where torchaudio's library cannot be loaded.

    PyPI's torchaudio beside a CPU build of torch is such a place: its filter is then a Python loop.
    """
    dac_model_class()
    from audiotools.core import loudness

    if hasattr(loudness.torchaudio, "functional"):
        return
    found = importlib.util.find_spec("torchaudio")
    folder = Path(found.submodule_search_locations[0]) if found else Path()
    extension = types.ModuleType("torchaudio._extension")
    extension._IS_TORCHAUDIO_EXT_AVAILABLE = False
    sys.modules["torchaudio._extension"] = extension
    path = folder / "functional" / "filtering.py"
    spec = importlib.util.spec_from_file_location("torchaudio_filtering", path)
    filtering = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(filtering)
    del sys.modules["torchaudio._extension"]
    loudness.torchaudio.functional = types.SimpleNamespace(lfilter=filtering.lfilter)


def count_conv_flops(encoder: nn.Module, num_samples: int) -> int:
    total = 0

    def count(layer: nn.Conv1d, _: object, output: Tensor) -> None:
        nonlocal total
        total += 2 * layer.in_channels * layer.kernel_size[0] * output.numel()

    hooks = [
        layer.register_forward_hook(count)
        for layer in encoder.modules()
        if isinstance(layer, nn.Conv1d)
    ]
    with torch.inference_mode():
        encoder(torch.zeros(1, 1, num_samples))
    for hook in hooks:
        hook.remove()
    return total


def share_equal(codes: Tensor, whole: Tensor) -> float:
    frames = min(codes.shape[-1], whole.shape[-1])
    return float((codes[..., :frames] == whole[..., :frames]).float().mean())


def time_all_cores(ways: dict[str, Callable[[], Tensor]], duration_s: float) -> str:
    """Wall time of two recordings on all cores: ours side by side as the stage does, theirs in turn.

    Theirs has all cores as torch's threads, which is how the package is called.
    """

    def side_by_side() -> None:
        torch.set_num_threads(1)
        with ThreadPoolExecutor(2) as pool:
            list(pool.map(lambda _: ways["melodac, compiled"](), range(2)))

    def in_turn(name: str) -> Callable[[], None]:
        def work() -> None:
            torch.set_num_threads(os.cpu_count() or 1)
            for _ in range(2):
                ways[name]()

        return work

    theirs = [name for name in ways if "compress" in name]
    takers = {"melodac, compiled": side_by_side} | {name: in_turn(name) for name in theirs}
    speeds = {}
    for name, work in takers.items():
        work()
        start = time.perf_counter()
        work()
        speeds[name] = 2 * duration_s / (time.perf_counter() - start)
    lines = [
        f"two recordings, {os.cpu_count()} cores, wall time",
        "| way | x real time | melodac is faster by |",
        "| --- | ---: | ---: |",
    ]
    ours = speeds["melodac, compiled"]
    lines += [f"| {name} | {speed:.2f} | {ours / speed:.2f} |" for name, speed in speeds.items()]
    return "\n".join(lines)


def parse() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("size", choices=("bundled", "official"))
    parser.add_argument("music", type=Path)
    parser.add_argument("--seconds", type=int, default=12)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--all-cores", action="store_true", help="wall time on a quiet machine")
    return parser.parse_args()


def ways_to_encode(
    model: nn.Module, architecture: DacArchitecture, audio: Tensor
) -> dict[str, Callable[[], Tensor]]:
    def codec(chunk_frames: int, *, is_compiled: bool) -> DacCodec:
        return DacCodec(
            copy.deepcopy(model),
            architecture,
            name="any",
            weights_sha256="0" * 64,
            chunk_frames=chunk_frames,
            is_compiled=is_compiled,
        )

    eager, compiled = codec(128, is_compiled=False), codec(256, is_compiled=True)
    plain = build_plain(eager.model, architecture)
    padded = functional.pad(audio, (0, -audio.shape[1] % architecture.hop))[None]

    def whole() -> Tensor:
        with torch.inference_mode():
            return plain.encode(padded)[1]

    return {
        "dac, whole file": whole,
        "melodac, compiled": lambda: compiled.encode(audio),
        "melodac, eager": lambda: eager.encode(audio),
        "dac compress, 1 s": lambda: compress(plain, audio, 1.0),
        "dac compress, 5 s": lambda: compress(plain, audio, 5.0),
        "dac compress, 1 s, its loudness included": lambda: compress(
            plain, audio, 1.0, with_loudness=True
        ),
    }


def time_in_turn(
    ways: dict[str, Callable[[], Tensor]], rounds: int
) -> tuple[dict[str, float], float]:
    """Return the least seconds of every way, and the FLOP a second of a matrix product."""
    left, right = torch.randn(2, 1024, 1024)
    times: dict[str, list[float]] = {name: [] for name in ways}
    gemms: list[float] = []
    for _ in range(rounds):
        for name, way in ways.items():
            times[name].append(seconds(way))
            gemms.append(seconds(lambda: [left @ right for _ in range(5)]) / 5)
    return {name: min(taken) for name, taken in times.items()}, 2 * 1024**3 / min(gemms)


def heading(size: str, duration_s: float, rounds: int, gemm_rate: float) -> str:
    return (
        f"{size}: torch {torch.__version__}, 1 thread, {duration_s:.0f} s, best of {rounds}; "
        f"GEMM {gemm_rate / 1e9:.0f} GFLOP/s"
    )


def measure_bundled(audio: Tensor, rounds: int) -> list[str]:
    codec, duration_s = load_codec("bundled"), audio.shape[1] / 44_100
    codes = codec.encode(audio)
    ways = {"encode": lambda: codec.encode(audio), "decode": lambda: codec.decode(codes)}
    flops: dict[str, int] = {}
    for name, way in ways.items():
        with FlopCounterMode(display=False) as counter:
            way()
        flops[name] = counter.get_total_flops()
    times, gemm_rate = time_in_turn(ways, rounds)
    lines = [
        heading("bundled", duration_s, rounds, gemm_rate),
        "| way | x real time | MFLOP a second of audio | of ceiling |",
        "| --- | ---: | ---: | ---: |",
    ]
    for name, taken in times.items():
        lines.append(
            f"| {name} | {duration_s / taken:.0f} | {flops[name] / duration_s / 1e6:.0f} | "
            f"{flops[name] / gemm_rate / taken:.2f} |"
        )
    return lines


def measure_official(audio: Tensor, rounds: int, *, is_all_cores: bool) -> list[str]:
    model, duration_s = build_spread(OFFICIAL, audio[:, : 4 * 44_100]), audio.shape[1] / 44_100
    ways = ways_to_encode(model, OFFICIAL, audio)
    if is_all_cores:
        return [f"official: {time_all_cores(ways, duration_s)}"]
    codes = {name: way() for name, way in ways.items()}  # compiles, and warms up
    times, gemm_rate = time_in_turn(ways, rounds)
    flops = count_conv_flops(model.encoder, 44_032) * 44_100 / 44_032
    speeds = {name: duration_s / taken for name, taken in times.items()}
    lines = [
        heading("official", duration_s, rounds, gemm_rate)
        + f"; {flops / 1e9:.1f} GFLOP a second of audio",
        "| way | x real time | of ceiling | x compress, 1 s | x the same with its loudness | "
        "codes equal to whole file |",
        "| --- | ---: | ---: | ---: | ---: | ---: |",
    ]
    for name, speed in speeds.items():
        lines.append(
            f"| {name} | {speed:.2f} | {speed * flops / gemm_rate:.2f} | "
            f"{speed / speeds['dac compress, 1 s']:.2f} | "
            f"{speed / speeds['dac compress, 1 s, its loudness included']:.2f} | "
            f"{share_equal(codes[name], codes['dac, whole file']):.5f} |"
        )
    return lines


def main() -> None:
    args = parse()
    torch.set_num_threads(1)
    samples, _ = read_audio(args.music, max_duration_s=3600.0)
    audio = torch.from_numpy(samples[:1, : args.seconds * 44_100])
    if args.size == "bundled":
        lines = measure_bundled(audio, args.rounds)
    else:
        give_lfilter()
        lines = measure_official(audio, args.rounds, is_all_cores=args.all_cores)
    sys.stdout.write("\n".join(lines) + "\n")


if __name__ == "__main__":
    main()
