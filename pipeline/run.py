"""Run one stage: `python pipeline/run.py <stage>`. This is the `cmd` of every stage in dvc.yaml.

A file path, not a module name or console script, so that queued and temporary experiments execute
the code of the copy they run in: this file puts its own checkout first on sys.path. Exit codes: 0
done, 1 failed with one line of explanation, 2 wrong parameters, 130/143 stopped by a signal.
"""

import logging
import sys
import time
from importlib import import_module
from pathlib import Path

CHECKOUT = Path(__file__).resolve().parents[1]
sys.path[:0] = [str(CHECKOUT), str(CHECKOUT / "src")]

from pipeline.processes.environment import set_up_environment  # noqa: E402  needs the path above

set_up_environment()  # before anything that imports torch or sends telemetry

from melodac.errors import ConfigError, MelodacError  # noqa: E402  needs the path above
from pipeline import logs, paths  # noqa: E402
from pipeline.dag import stage_inputs  # noqa: E402
from pipeline.identity import code_version, fingerprint_inputs  # noqa: E402
from pipeline.params import Params, hash_params, load_params  # noqa: E402
from pipeline.processes import launch  # noqa: E402
from pipeline.processes.signals import StoppedError  # noqa: E402
from pipeline.records import Outcome, write_json  # noqa: E402
from pipeline.watch import bridge  # noqa: E402

STAGES = ("ingest", "normalize", "encode", "index", "overfit", "train", "evaluate", "demos")
STOPPED_BY_SIGINT = 130

log = logging.getLogger("pipeline")


def run_stage(stage: str, params: Params) -> Outcome:
    """Run one stage between its two log lines and write its metrics."""
    module = import_module(f"pipeline.stages.{stage}")
    log.info(
        "%s: start, code %s, params %s, input %s",
        stage,
        code_version(),
        hash_params(params),
        fingerprint_inputs(stage_inputs(stage, params.ingest.source)),
    )
    started_s = time.monotonic()
    outcome = module.run(params)
    write_json(paths.metrics_of(stage), dict(outcome.metrics))
    counts = ", ".join(f"{count} {name}" for name, count in outcome.counts.items())
    skipped = ", ".join(f"{count} {reason}" for reason, count in outcome.skipped.items())
    log.info(
        "%s: done in %.1f s, %s, skipped: %s",
        stage,
        time.monotonic() - started_s,
        counts,
        skipped or "none",
    )
    return outcome


def _run(stage: str, params: Params, *, is_first: bool) -> None:
    """Do the work of this process; only the first one reports to Prefect and writes metrics."""
    if is_first:
        bridge.run_stage(stage, lambda: run_stage(stage, params))
    else:
        import_module(f"pipeline.stages.{stage}").run(params)


def main(arguments: list[str]) -> int:
    """Validate the parameters, run the stage, and turn errors into one line and an exit code."""
    logs.set_up_logging()
    if len(arguments) != 1 or arguments[0] not in STAGES:
        log.error("usage: python pipeline/run.py <stage>, one of: %s", ", ".join(STAGES))
        return 2
    stage = arguments[0]
    try:
        params = load_params(paths.PARAMS)
        if launch.is_launcher(stage, params.runtime):
            return launch.run_processes(Path(__file__), stage, params.runtime)
        with launch.joined(stage, params.runtime) as is_first:
            _run(stage, params, is_first=is_first)
    except ConfigError as error:
        for line in str(error).splitlines():
            log.error("%s", line)
        return 2
    except MelodacError as error:
        log.error("%s: %s", stage, error)
        return 1
    except StoppedError as stop:
        log.error("%s: %s", stage, stop)
        return stop.exit_code
    except KeyboardInterrupt:
        log.error("%s: stopped", stage)
        return STOPPED_BY_SIGINT
    return 0


if __name__ == "__main__":
    launch.leave(main(sys.argv[1:]))
