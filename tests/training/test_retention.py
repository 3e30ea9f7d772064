"""Laws of which checkpoints stay and which one a run goes back to."""

import json

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from melodac.errors import CheckpointCorruptError, DivergenceError, OutputError
from melodac.training.checkpoint import open_checkpoint, write_checkpoint
from melodac.training.state import choose_rollback, is_healthy, prune_checkpoints

TENSOR_MB = 0.4


def write(directory, update, *, healthy=True, size_mb=0.0):
    count = int(size_mb * 1e6 / 4) + 1
    return write_checkpoint(
        directory,
        update,
        tensors={"model": {"weight": torch.full((count,), float(update))}},
        state={"stability": {"is_healthy": healthy}},
        config={},
    )


def damage(folder):
    (folder / "model.safetensors").write_bytes(b"x")


def updates(directory):
    return sorted(int(path.name) for path in directory.iterdir())


def expected_to_stay(healthy, *, keep, keep_mb):
    """The rule in words, one checkpoint after the other from the newest."""
    stay, used_mb = [], 0.0
    for position, (update, _) in enumerate(sorted(healthy.items(), reverse=True)):
        if position >= 2:
            used_mb += TENSOR_MB
        if position < 2 or (position < keep and (keep_mb == 0 or used_mb <= keep_mb)):
            stay.append(update)
    good = [update for update, is_good in healthy.items() if is_good]
    return sorted({*stay, *([max(good)] if good else [])})


@settings(max_examples=30)
@given(
    st.dictionaries(st.integers(0, 999), st.booleans(), max_size=6),
    st.integers(2, 6),
    st.integers(0, 2),
)
def test_what_stays_is_the_newest_and_the_newest_healthy(tmp_path_factory, healthy, keep, keep_mb):
    directory = tmp_path_factory.mktemp("checkpoints")
    for update, is_good in healthy.items():
        folder = directory / f"{update:08d}"
        folder.mkdir()
        (folder / "state.json").write_text(json.dumps({"stability": {"is_healthy": is_good}}))
        with (folder / "model.safetensors").open("wb") as file:
            file.truncate(int(TENSOR_MB * 1e6) - (folder / "state.json").stat().st_size)
    prune_checkpoints(directory, keep=keep, keep_mb=keep_mb)
    assert updates(directory) == expected_to_stay(healthy, keep=keep, keep_mb=keep_mb)


def test_no_limit_of_bytes_keeps_as_many_as_the_count(tmp_path):
    for update in range(6):
        write(tmp_path, update, size_mb=0.6)
    prune_checkpoints(tmp_path, keep=4)
    assert updates(tmp_path) == [2, 3, 4, 5]
    prune_checkpoints(tmp_path, keep=4, keep_mb=1)
    assert updates(tmp_path) == [3, 4, 5]


def test_the_newest_two_stay_however_large(tmp_path):
    for update in range(3):
        write(tmp_path, update, size_mb=1.2)
    prune_checkpoints(tmp_path, keep=9, keep_mb=1)
    assert updates(tmp_path) == [1, 2]


def test_a_long_burst_never_pushes_out_the_last_healthy_checkpoint(tmp_path):
    write(tmp_path, 0)
    for update in range(1, 9):
        write(tmp_path, update, healthy=update == 3)
        prune_checkpoints(tmp_path, keep=2)
    assert updates(tmp_path) == [3, 7, 8]
    assert choose_rollback(tmp_path).update == 3


def test_a_file_that_carries_a_number_is_pruned_like_a_folder(tmp_path):
    (tmp_path / "00000001").write_bytes(b"")
    for update in (2, 3):
        write(tmp_path, update)
    prune_checkpoints(tmp_path, keep=2)
    assert updates(tmp_path) == [2, 3]


def test_pruning_an_absent_folder_does_nothing(tmp_path):
    prune_checkpoints(tmp_path / "absent", keep=2)


def test_a_checkpoint_that_cannot_be_removed_is_an_error(tmp_path, monkeypatch):
    for update in range(3):
        write(tmp_path, update)

    def refuse(path):
        raise PermissionError(13, "Permission denied")

    monkeypatch.setattr("shutil.rmtree", refuse)
    with pytest.raises(OutputError, match=r"cannot be removed: .*Permission denied"):
        prune_checkpoints(tmp_path, keep=2)


def test_the_run_goes_back_to_the_newest_healthy_one(tmp_path):
    for update, healthy in ((0, True), (5, True), (9, False)):
        write(tmp_path, update, healthy=healthy)
    assert choose_rollback(tmp_path).update == 5


def test_a_damaged_one_is_never_gone_back_to(tmp_path):
    write(tmp_path, 1)
    damage(write(tmp_path, 2))
    assert choose_rollback(tmp_path).update == 1


def test_each_further_rollback_goes_further_back_as_long_as_there_is_more(tmp_path):
    for update in (0, 5, 9):
        write(tmp_path, update)
    assert choose_rollback(tmp_path, below=9).update == 5
    assert choose_rollback(tmp_path, below=5).update == 0
    assert choose_rollback(tmp_path, below=0).update == 0


@pytest.mark.parametrize("prepare", ["nothing", "unhealthy", "damaged"])
def test_a_run_with_nothing_to_go_back_to_stops_with_a_reason(tmp_path, prepare):
    if prepare == "unhealthy":
        write(tmp_path, 1, healthy=False)
    if prepare == "damaged":
        damage(write(tmp_path, 1))
    with pytest.raises(DivergenceError, match="no checkpoint that is valid and was written in"):
        choose_rollback(tmp_path)


def test_a_checkpoint_without_a_verdict_is_not_healthy(tmp_path):
    folder = write(tmp_path, 1)
    for content in ("", "{}", "[]", '{"stability": null}', '{"stability": {"is_healthy": 1}}'):
        (folder / "state.json").write_text(content)
        assert not is_healthy(folder)
    assert not is_healthy(tmp_path / "absent")


def test_a_forged_verdict_of_health_does_not_make_a_checkpoint_valid(tmp_path):
    write(tmp_path, 1)
    folder = write(tmp_path, 2, healthy=False)
    (folder / "state.json").write_text('{"stability": {"is_healthy": true}}')
    with pytest.raises(CheckpointCorruptError):
        open_checkpoint(folder)
    assert choose_rollback(tmp_path).update == 1
