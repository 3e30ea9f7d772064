"""Between a stage and whoever watches it: runs the work, exactly once, whatever the watcher does.

The result and the exit code are those of the work, never those of Prefect.
"""

from collections.abc import Callable

from pipeline.records import Outcome


def run_stage(stage: str, work: Callable[[], Outcome]) -> Outcome:  # noqa: ARG001
    """Run the work of one stage."""
    return work()
