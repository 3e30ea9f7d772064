"""Random numbers by purpose: one seed, one independent stream for each use.

A stream is named, so adding a new use of chance never moves an old one. The global generator of
torch, which dropout and initialisation draw from, is lent for a block and given back untouched.
Training, sampling and the pipeline may import this file.
"""

import hashlib
from collections.abc import Generator
from contextlib import contextmanager

import torch
from torch import Tensor


def derive_seed(seed: int, purpose: str, *indices: int) -> int:
    """A 63-bit seed for one purpose, the same on every machine and Python.

    Args:
        seed: Seed of the whole run.
        purpose: Name of the use, such as "dropout".
        indices: Further coordinates, such as an epoch or an item.
    """
    text = "/".join([str(seed), purpose, *map(str, indices)])
    return int.from_bytes(hashlib.sha256(text.encode()).digest()[:8], "big") >> 1


def build_generator(
    seed: int, purpose: str, *indices: int, device: torch.device | str = "cpu"
) -> torch.Generator:
    """A generator of its own for one purpose."""
    return torch.Generator(device=device).manual_seed(derive_seed(seed, purpose, *indices))


@contextmanager
def seeded(seed: int, purpose: str, *, device: torch.device | str = "cpu") -> Generator[None]:
    """Run a block under the purpose's own global stream; the caller's global state is restored."""
    with borrowed_generators(initial_states(seed, purpose, device), device):
        yield


def initial_states(seed: int, purpose: str, device: torch.device | str) -> dict[str, Tensor]:
    """States of the global generators at the start of a purpose's stream, by device type."""
    kinds = {"cpu", torch.device(device).type}
    return {
        kind: build_generator(seed, purpose, device=device if kind != "cpu" else "cpu").get_state()
        for kind in sorted(kinds)
    }


@contextmanager
def borrowed_generators(states: dict[str, Tensor], device: torch.device | str) -> Generator[None]:
    """Run a block with the global generators at `states`, which then hold where the block ended.

    The block's draws advance `states` in place of the process's own generators, so nothing
    outside can disturb the stream and the stream disturbs nothing outside.
    """
    device = torch.device(device)
    devices = [] if device.type == "cpu" else [device]
    with torch.random.fork_rng(devices):  # pyright: ignore[reportUnknownMemberType]  untyped in torch
        torch.set_rng_state(states["cpu"])
        if device.type == "cuda":
            torch.cuda.set_rng_state(states["cuda"], device)
        yield
        states["cpu"] = torch.get_rng_state()
        if device.type == "cuda":
            states["cuda"] = torch.cuda.get_rng_state(device)
