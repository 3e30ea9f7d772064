"""Laws and faults of checkpoints."""

import json
import os
import random
import resource
import shutil
from contextlib import contextmanager
from pathlib import Path

import pytest
import torch

from melodac.errors import CheckpointCorruptError, CheckpointMismatchError, OutputError
from melodac.training.checkpoint import (
    check_identity,
    is_valid_checkpoint,
    latest_checkpoint,
    open_checkpoint,
    write_checkpoint,
)

CONFIG = {"model": {"dim": 4, "layers": [1, 2]}, "data": "abc"}


def write(directory, update):
    generator = torch.Generator().manual_seed(update)
    tensors = {
        "model": {"weight": torch.randn(3, 4, generator=generator).T},
        "optimizer": {"step/weight": torch.tensor(float(update))},
    }
    state = {"epoch": 2, "loss": 0.1 + update}
    return write_checkpoint(directory, update, tensors=tensors, state=state, config=CONFIG)


def test_what_is_read_is_what_was_written(tmp_path):
    checkpoint = open_checkpoint(write(tmp_path, 7))
    expected = torch.randn(3, 4, generator=torch.Generator().manual_seed(7)).T
    assert torch.equal(checkpoint.read_tensors("model")["weight"], expected)
    assert checkpoint.state == {"epoch": 2, "loss": 7.1}
    assert checkpoint.config == CONFIG
    assert checkpoint.update == 7


def test_equal_content_gives_equal_bytes(tmp_path):
    one, other = write(tmp_path / "one", 3), write(tmp_path / "other", 3)
    for path in one.iterdir():
        assert path.read_bytes() == (other / path.name).read_bytes()


def test_latest_is_the_highest_update_whatever_the_times(tmp_path):
    for update in (200, 30, 1000):
        os.utime(write(tmp_path, update), (update % 7, update % 7))
    assert latest_checkpoint(tmp_path).checkpoint.update == 1000


def test_an_empty_or_absent_directory_has_no_checkpoint(tmp_path):
    assert latest_checkpoint(tmp_path).checkpoint is None
    assert latest_checkpoint(tmp_path / "absent").checkpoint is None


@pytest.mark.parametrize(
    "name", ["model.safetensors", "optimizer.safetensors", "state.json", "config.json"]
)
def test_a_missing_file_is_named(tmp_path, name):
    folder = write(tmp_path, 1)
    (folder / name).unlink()
    with pytest.raises(CheckpointCorruptError, match=name):
        open_checkpoint(folder)


def test_every_flipped_bit_is_noticed(tmp_path):
    folder = write(tmp_path, 1)
    generator = random.Random(0)
    for _ in range(300):
        path = generator.choice(sorted(folder.iterdir()))
        content = path.read_bytes()
        damaged = bytearray(content)
        damaged[generator.randrange(len(content))] ^= 1 << generator.randrange(8)
        path.write_bytes(damaged)
        assert not is_valid_checkpoint(folder), path.name
        path.write_bytes(content)
    assert is_valid_checkpoint(folder)


def test_every_truncation_is_noticed(tmp_path):
    folder = write(tmp_path, 1)
    for path in sorted(folder.iterdir()):
        content = path.read_bytes()
        for size in {0, 1, len(content) // 2, len(content) - 1}:
            path.write_bytes(content[:size])
            assert not is_valid_checkpoint(folder), (path.name, size)
        path.write_bytes(content)
    assert is_valid_checkpoint(folder)


def damage_bytes(folder):
    (folder / "model.safetensors").write_bytes(b"x" * 100)


def damage_manifest(folder):
    (folder / "manifest.json").unlink()


def replace_by_file(folder):
    shutil.rmtree(folder)
    folder.write_bytes(b"")


def renumber(folder):
    shutil.rmtree(folder)
    shutil.copytree(folder.with_name("00000002"), folder)


@pytest.mark.parametrize("damage", [damage_bytes, damage_manifest, replace_by_file, renumber])
def test_a_damaged_newest_falls_back_with_a_warning(tmp_path, damage):
    for update in (1, 2, 3):
        write(tmp_path, update)
    damage(tmp_path / "00000003")
    checkpoint, warnings = latest_checkpoint(tmp_path)
    assert checkpoint.update == 2
    assert len(warnings) == 1
    assert "00000003 is skipped" in warnings[0]


def test_only_damaged_checkpoints_are_never_a_fresh_start(tmp_path):
    for update in (1, 2):
        damage_bytes(write(tmp_path, update))
    with pytest.raises(CheckpointCorruptError, match="holds 2 checkpoints and none is valid"):
        latest_checkpoint(tmp_path)


def test_a_file_that_was_never_written_is_refused_by_name(tmp_path):
    checkpoint = open_checkpoint(write(tmp_path, 1))
    with pytest.raises(CheckpointMismatchError, match=r"was written without ema\.safetensors"):
        checkpoint.read_tensors("ema")


def test_an_entry_that_was_never_written_is_refused_by_name(tmp_path):
    checkpoint = open_checkpoint(write(tmp_path, 1))
    assert checkpoint.entry("epoch") == 2
    with pytest.raises(CheckpointMismatchError, match="was written without 'best'"):
        checkpoint.entry("best")


def test_another_format_version_is_refused(tmp_path):
    path = write(tmp_path, 1) / "manifest.json"
    manifest = json.loads(path.read_text()) | {"format_version": 99}
    path.write_text(json.dumps(manifest, indent=1, sort_keys=True) + "\n")
    with pytest.raises(CheckpointCorruptError, match="format version 99"):
        open_checkpoint(path.parent)


def test_identity_names_every_differing_key(tmp_path):
    checkpoint = open_checkpoint(write(tmp_path, 1))
    check_identity(checkpoint, CONFIG | {"model": {"layers": (1, 2), "dim": 4}})
    with pytest.raises(CheckpointMismatchError) as caught:
        check_identity(checkpoint, {"model": {"dim": 8, "layers": [1, 2]}, "seed": 0})
    message = str(caught.value)
    assert "model.dim: checkpoint 4, this run 8" in message
    assert "data: checkpoint 'abc', this run '(absent)'" in message
    assert "seed: checkpoint '(absent)', this run 0" in message
    assert "model.layers" not in message


def test_a_damaged_checkpoint_of_the_same_update_is_replaced(tmp_path):
    damage_bytes(write(tmp_path, 4))
    assert is_valid_checkpoint(write(tmp_path, 4))


def test_a_full_disk_leaves_earlier_checkpoints(tmp_path, monkeypatch):
    write(tmp_path, 1)

    def fail(descriptor):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "fsync", fail)
    with pytest.raises(OutputError, match="No space left on device"):
        write(tmp_path, 2)
    monkeypatch.undo()
    assert latest_checkpoint(tmp_path).checkpoint.update == 1
    write(tmp_path, 2)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["00000001", "00000002"]


@contextmanager
def largest_file(size_bytes):
    """Lets no file grow beyond so many bytes, as a full disk does, but for real.

    Over before the test is: what reports its end may write to a file that is larger.
    """
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (size_bytes, before[1]))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)


@pytest.mark.parametrize("size_bytes", [0, 1, 8, 20, 50, 100, 120])
def test_no_room_for_a_file_leaves_nothing_half_written(tmp_path, size_bytes):
    write(tmp_path, 1)
    with (
        largest_file(size_bytes),
        pytest.raises(OutputError, match=r"00000002 cannot be written: .*earlier checkpoints are"),
    ):
        write(tmp_path, 2)
    assert [path.name for path in tmp_path.iterdir()] == ["00000001"]
    assert is_valid_checkpoint(tmp_path / "00000001")
    assert is_valid_checkpoint(write(tmp_path, 2))


def killed_at(call, directory, update):
    """Write in a forked process that dies at the given system call; whether it got that far."""
    child = os.fork()
    if child == 0:
        calls = 0

        def die_or_do(original):
            def replacement(*arguments, **keywords):
                nonlocal calls
                calls += 1
                if calls == call:
                    os._exit(9)
                return original(*arguments, **keywords)

            return replacement

        for name in ("fsync", "rename", "mkdir", "open"):
            setattr(os, name, die_or_do(getattr(os, name)))
        write(directory, update)
        os._exit(0)
    return os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 9


def test_a_kill_at_any_call_leaves_only_whole_checkpoints(tmp_path):
    call, deaths = 1, 0
    while True:
        directory = tmp_path / str(call)
        write(directory, 1)
        if not killed_at(call, directory, 2):
            break
        deaths += 1
        checkpoint, warnings = latest_checkpoint(directory)
        assert checkpoint.update in {1, 2}
        assert warnings == ()
        write(directory, 2)
        assert sorted(path.name for path in directory.iterdir()) == ["00000001", "00000002"]
        call += 1
    assert deaths >= 10


def test_files_are_synced_before_the_name_and_the_directory_after(tmp_path, monkeypatch):
    events = []
    sync, rename = os.fsync, os.rename

    def note_sync(descriptor):
        events.append(Path(f"/proc/self/fd/{descriptor}").readlink().name)
        sync(descriptor)

    def note_rename(source, target):
        events.append("rename")
        rename(source, target)

    monkeypatch.setattr(os, "fsync", note_sync)
    monkeypatch.setattr(os, "rename", note_rename)
    write(tmp_path, 5)
    named = events.index("rename")
    assert set(events[:named]) == {
        "model.safetensors",
        "optimizer.safetensors",
        "state.json",
        "config.json",
        "manifest.json",
        ".unfinished-00000005",
    }
    assert events[named + 1 :] == [tmp_path.name]
