"""Random numbers by purpose: one seed, one independent stream for each use.

A stream is named, so a new use of randomness never changes an old one. torch's global generator,
from which dropout and initialisation draw, is set for a block and restored afterwards.
"""

import hashlib
from collections.abc import Generator
from contextlib import contextmanager

import torch


def derive_seed(seed: int, purpose: str, *indices: int) -> int:
    """Return a 63-bit seed for one purpose, equal on every machine and Python.

    Args:
        seed: Seed of the whole run.
        purpose: Name of the use, such as "dropout".
        indices: Further coordinates, such as an epoch or an item.
    """
    text = "/".join([str(seed), purpose, *map(str, indices)])
    # >> 1: the seed fits a signed 64-bit integer
    return int.from_bytes(hashlib.sha256(text.encode()).digest()[:8], "big") >> 1


def build_generator(
    seed: int, purpose: str, *indices: int, device: torch.device | str = "cpu"
) -> torch.Generator:
    """Build a separate generator for one purpose."""
    return torch.Generator(device=device).manual_seed(derive_seed(seed, purpose, *indices))


@contextmanager
def seeded(
    seed: int, purpose: str, *indices: int, device: torch.device | str = "cpu"
) -> Generator[None]:
    """Run a block with the global generators seeded for one purpose; restore them afterwards."""
    device = torch.device(device)
    with torch.random.fork_rng([] if device.type == "cpu" else [device]):  # pyright: ignore[reportUnknownMemberType]  untyped in torch
        torch.set_rng_state(build_generator(seed, purpose, *indices).get_state())
        if device.type == "cuda":
            generator = build_generator(seed, purpose, *indices, device=device)
            torch.cuda.set_rng_state(generator.get_state(), device)
        yield
