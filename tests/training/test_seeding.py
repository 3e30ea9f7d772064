"""Laws of the seeds: independent by purpose, and nobody else's generator moves."""

import torch

from melodac.training.seeding import derive_seed, seeded


def test_purposes_and_indices_have_streams_of_their_own():
    seeds = {
        derive_seed(seed, purpose, *indices)
        for seed in range(5)
        for purpose in ("dropout", "windows")
        for indices in ((), (0,), (1,), (0, 1))
    }
    assert len(seeds) == 5 * 2 * 4


def test_seeds_do_not_change_between_versions():
    assert derive_seed(0, "dropout", 3) == 7674056959200526490


def test_a_seeded_block_repeats_and_leaves_the_global_state():
    before = torch.get_rng_state()
    with seeded(1, "initialisation"):
        first = torch.rand(4)
    with seeded(1, "initialisation"):
        second = torch.rand(4)
    assert torch.equal(first, second)
    assert torch.equal(before, torch.get_rng_state())


def test_each_update_and_part_has_a_stream_of_its_own():
    drawn = set()
    for update in range(3):
        for part in range(2):
            with seeded(1, "dropout", update, part):
                drawn.add(float(torch.rand(())))
    assert len(drawn) == 6
