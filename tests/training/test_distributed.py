"""Laws of processes that work as one: who has what, what is common, what is refused by all alike."""

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import nn

from melodac.errors import ConfigError
from melodac.training.checkpoint import own_share, whole_tensor
from melodac.training.distributed import Ranks
from tests.training.ranks import run_together
from tests.training.ranks_worker import Task

worlds = st.integers(1, 8)


@given(worlds, st.integers(1, 8))
def test_every_part_of_an_update_has_exactly_one_process(world_size, parts_each):
    num_parts = world_size * parts_each
    shares = [Ranks(rank, world_size).share(num_parts) for rank in range(world_size)]
    assert {len(share) for share in shares} == {parts_each}
    assert [part for share in shares for part in share] == list(range(num_parts))


@given(worlds, st.integers(0, 40))
def test_items_are_dealt_out_whole_and_nearly_evenly(world_size, num_items):
    dealt = [Ranks(rank, world_size).deal(num_items) for rank in range(world_size)]
    assert sorted(item for items in dealt for item in items) == list(range(num_items))
    assert max(map(len, dealt)) - min(map(len, dealt)) <= 1


@given(worlds, st.integers(1, 6), st.integers(1, 48))
def test_an_update_that_cannot_be_dealt_out_evenly_is_refused(world_size, micro_batch, windows):
    ranks = Ranks(world_size - 1, world_size)
    if windows % (micro_batch * world_size) == 0:
        ranks.check_share(windows, micro_batch)
        ranks.share(windows // micro_batch)
        return
    with pytest.raises(ConfigError) as refused:
        ranks.check_share(windows, micro_batch)
    for number in (windows, micro_batch, world_size):
        assert f"({number})" in str(refused.value)


def test_parts_that_cannot_be_dealt_out_are_refused():
    with pytest.raises(ConfigError, match=r"3 parts .* 2 processes"):
        Ranks(0, 2).share(3)


def test_one_process_is_all_there_is():
    ranks = Ranks.current("fsdp")
    assert (ranks.rank, ranks.world_size, ranks.is_first) == (0, 1, True)
    assert list(ranks.share(3)) == list(ranks.deal(3)) == [0, 1, 2]
    ranks.check_share(6, 2)
    tensor = torch.ones(2)
    assert ranks.sum(tensor) is tensor
    assert ranks.max(3) == 3
    assert not ranks.any(flag=False)
    ranks.check_equal("a", "code")
    assert ranks.from_first(lambda: 5) == 5
    assert ranks.full_tensors({"a": tensor})["a"] is tensor


def test_one_process_trains_the_model_itself():
    ranks, model = Ranks(), nn.Linear(2, 2)
    assert ranks.wrap(model) is model
    with ranks.whole(model) as whole, ranks.accumulating(model, is_last=False):
        assert whole is model


def test_a_whole_tensor_is_its_own_share():
    tensor = torch.arange(3)
    assert own_share(tensor, torch.zeros(3)) is tensor
    assert whole_tensor(tensor) is not None


def test_three_processes_decide_alike():
    """Summed, shared and refused in the same words by every process, and none is left waiting."""
    (heard,) = run_together(Task(world_size=3))
    answers = [one.answers for one in heard]
    assert [one.error for one in heard] == [""] * 3
    assert [a["who"] for a in answers] == [(0, 3, True), (1, 3, False), (2, 3, False)]
    assert [part for a in answers for part in a["share"]] == list(range(12))
    assert [a["deal"] for a in answers] == [[0, 3], [1, 4], [2]]
    for same, expected in {
        "sum": [3.0, 3.0],
        "max": 20,
        "any": [True, False],
        "from_first": "said by 0",
        "refused by first": "OutputError: disk of 0 is full",
        "equal": "",
        "still together": 3.0,
    }.items():
        assert [a[same] for a in answers] == [expected] * 3
    refusals = {a["unequal"] for a in answers}
    assert len(refusals) == 1
    assert "process 1 has another code than process 0" in refusals.pop()
    assert [a["full"] for a in answers] == [["a"], [], []]
