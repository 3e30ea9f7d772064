"""One stage in several processes: started here through torchrun, or joined if torchrun started us.

`runtime.processes` above 1 makes the train stage start itself that many times, so `dvc repro` is
all a user needs. Under a torchrun of the user's own, on one machine or several, it joins that
process group. Process 0 alone holds the lock, writes files and reports; the others log warnings
only. The exit code is that of the work, as with one process. torch is imported when it is needed:
most stages have one process.
"""

import ctypes
import logging
import os
import signal
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import timedelta
from pathlib import Path
from typing import NoReturn

from melodac.errors import ConfigError, TrainingError
from pipeline.params import RuntimeParams
from pipeline.processes.signals import StoppedError

STAGES = ("train",)
"""Stages that can run in several processes."""
STARTED_BY_TORCHRUN = "TORCHELASTIC_RUN_ID"
"""Environment variable that torchrun sets in every process it starts."""
GRACE_S = 300
"""Seconds after a signal to finish the update and write the checkpoint."""
TIMEOUT_S = 1800
"""Longest wait for another process in seconds; it may be writing a checkpoint."""
_PR_SET_PDEATHSIG = 1
"""Option of Linux's `prctl`: signal this process when its parent dies (linux/prctl.h)."""
_CPP_LOG = "TORCH_CPP_LOG_LEVEL"
"""Log level of torch's C++ code, which warns about host names and about intended options; read
once, when torch is loaded."""

log = logging.getLogger("pipeline")


def is_launcher(stage: str, runtime: RuntimeParams) -> bool:
    """Check whether this process should start the stage several times rather than run it."""
    return stage in STAGES and runtime.processes > 1 and os.environ.get(STARTED_BY_TORCHRUN) is None


def run_processes(program: Path, stage: str, runtime: RuntimeParams) -> int:
    """Run `program stage` in several processes; return the exit code of the work.

    A signal is passed on to all of them; they have `GRACE_S` to save their state. If one dies, the
    others are stopped. torchrun picks a free port.
    """
    os.environ.setdefault(_CPP_LOG, "ERROR")
    from torch.distributed import run as torchrun
    from torch.distributed.elastic.multiprocessing import SignalException
    from torch.distributed.elastic.multiprocessing.errors import ChildFailedError

    _hush("torch.distributed.elastic")
    # torchrun would set 1 and warn about it
    os.environ.setdefault("OMP_NUM_THREADS", str(runtime.threads or 1))
    arguments = [
        "--standalone",
        f"--nproc-per-node={runtime.processes}",
        f"--shutdown-timeout={GRACE_S}",
        str(program),
        stage,
    ]
    log.info("%s: %d processes, %s", stage, runtime.processes, runtime.sharding)
    try:
        torchrun.run(torchrun.parse_args(arguments))
    except SignalException as stopped:
        return 128 + stopped.sigval
    except ChildFailedError as failed:
        rank, failure = failed.get_first_failure()
        return _tell_end(stage, rank, failure.exitcode)
    return 0


@contextmanager
def joined(stage: str, runtime: RuntimeParams) -> Iterator[bool]:
    """Join the processes that torchrun started, if it did; yield True in process 0.

    A stage that runs in one process only, or too few devices, is refused with `ConfigError`.

    Raises:
        TrainingError: If another process ended, so that this one cannot continue.
    """
    if os.environ.get(STARTED_BY_TORCHRUN) is None:
        yield True
        return
    rank = _join(stage, runtime)
    try:
        yield rank == 0
        _take_leave()
    except StoppedError as stopped:
        if stopped.is_orderly:
            _take_leave()
        raise
    except RuntimeError as error:
        if not _is_lost_connection(error):
            raise
        raise TrainingError(
            f"process {rank} cannot go on: another process of the run ended, see what it said; "
            "the last checkpoint is good, start again to resume"
        ) from error


def leave(exit_code: int) -> NoReturn:
    """End this process with an exit code.

    A process of several ends at once, without the interpreter's own clean-up: about one in twenty
    was aborted there, after its work was done, when a thread of gloo let go of a tensor
    (pytorch/pytorch#179291).
    """
    if os.environ.get(STARTED_BY_TORCHRUN) is None:
        sys.exit(exit_code)
    logging.shutdown()
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(exit_code)


def _hush(package: str) -> None:
    """Silence a package's loggers: a failed process logs its own error, torchrun adds a page."""
    for name in list(logging.root.manager.loggerDict):
        if name.startswith(package):  # each has a level of its own
            logging.getLogger(name).setLevel(logging.CRITICAL)


def _tell_end(stage: str, rank: int, exit_code: int) -> int:
    """Convert to a shell's exit code; log the death of a killed process, which could not."""
    if exit_code > 0:
        return exit_code
    log.error(
        "%s: process %d was killed by %s; the last checkpoint is good, start again to resume",
        stage,
        rank,
        signal.Signals(-exit_code).name,
    )
    return 128 - exit_code


def _join(stage: str, runtime: RuntimeParams) -> int:
    os.environ.setdefault(_CPP_LOG, "ERROR")
    import torch
    from torch import distributed

    if stage not in STAGES:
        raise ConfigError(f"{stage} is the work of one process, start it without torchrun")
    _end_with_the_launcher()
    backend = "gloo"
    if runtime.device != "cpu" and torch.cuda.is_available():
        torch.cuda.set_device(_own_device(torch.cuda.device_count()))
        # gloo still carries CPU tensors, such as the stop signal
        backend = "cpu:gloo,cuda:nccl"
    distributed.init_process_group(backend, timeout=timedelta(seconds=TIMEOUT_S))
    rank = distributed.get_rank()
    if rank:
        _speak_of_trouble_only(rank)
    return rank


def _own_device(num_devices: int) -> int:
    local_rank, local_size = (int(os.environ[key]) for key in ("LOCAL_RANK", "LOCAL_WORLD_SIZE"))
    if local_size > num_devices:
        raise ConfigError(
            f"{local_size} processes on a machine with {num_devices} CUDA devices: one each, lower "
            "runtime.processes or set runtime.device to cpu"
        )
    return local_rank


def _end_with_the_launcher() -> None:
    """Have Linux send SIGTERM if the launcher is killed, which then passes on no signal."""
    if sys.platform == "linux":
        ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, signal.SIGTERM)


def _speak_of_trouble_only(rank: int) -> None:
    for handler in logging.getLogger().handlers:
        handler.setLevel(logging.WARNING)
        handler.setFormatter(
            logging.Formatter(
                f"%(asctime)s %(levelname)-7s process {rank}: %(message)s", "%H:%M:%S"
            )
        )


def _take_leave() -> None:
    """Wait for all processes to exit together: torchrun stops the rest at the first error exit."""
    import torch
    from torch import distributed

    try:
        distributed.all_reduce(torch.zeros(()))
    except RuntimeError as error:
        log.warning("left without the other processes: %s", error)
    distributed.destroy_process_group()


def _is_lost_connection(error: RuntimeError) -> bool:
    from torch import distributed

    # gloo raises a plain RuntimeError; its source path is in every message
    return isinstance(error, distributed.DistError) or "gloo" in str(error)
