"""`melodac plan`: forecast of the train stage, without training or writing anything.

The schedules are those of the trainer; the time is measured on real windows of the index.
"""

from melodac.tokens.store.header import StoreHeader
from melodac.training.distributed import Ranks
from melodac.training.planning.cost import PassTimes, RunShape, forecast_run, time_passes
from melodac.training.planning.memory import memory_guard, say_what_needs_less
from melodac.training.schedule import (
    format_schedule,
    schedule_table,
    schedule_warnings,
)
from melodac.training.step import GradientAccumulator
from pipeline.experiment.model import describe_run
from pipeline.experiment.training_run import describe_shape, name_run_directory, set_up_training
from pipeline.params import Params


def plan(params: Params) -> list[str]:
    """Format the forecast for the terminal: schedules, cost of the run, warnings.

    Params or data that training would refuse raise the same error here.
    """
    model, pattern, data, dataset = set_up_training(
        params, dropout=params.train.dropout, seed=params.train.seed
    )
    config = params.train.trainer_config()
    shape = describe_shape(model.config, pattern, data, params)
    # this one process forecasts a run of any number of processes
    gradients = GradientAccumulator(model, pattern, data, config, ranks=Ranks())
    experiment = {**describe_run(model, dataset), "train": params.train.model_dump(mode="json")}
    found = forecast_run(
        shape,
        device=gradients.device,
        directory=name_run_directory("train", experiment),
        times=_time(gradients, shape),
    )
    epoch_after = gradients.reader.order.epoch_after
    table = schedule_table(config, data.window_frames, epoch_after=epoch_after)
    warnings = (
        *schedule_warnings(config),
        *found.warnings,
        *_demo_warnings(params, dataset.header),
    )
    return [
        *format_schedule(table).splitlines(),
        "",
        *found.lines,
        *(f"warning: {line}" for line in warnings),
    ]


def _time(gradients: GradientAccumulator, shape: RunShape) -> PassTimes:
    """Time passes in this one process; running out of memory raises the same error as training."""
    guard = memory_guard(
        lambda: "a trial pass",
        lambda: say_what_needs_less(shape.memory._replace(world_size=1)),
    )
    with guard, gradients.compute.active():
        return time_passes(gradients)


def _demo_warnings(params: Params, header: StoreHeader) -> list[str]:
    """Warn if demo clips are longer than any training window."""
    frames = round(params.demos.duration_s * header.sample_rate_hz / header.hop)
    stages = [frames for _, frames in params.train.context] or [params.index.window_frames]
    if frames <= max(stages):
        return []
    return [
        f"demos of {params.demos.duration_s:g} s are {frames} frames, windows have {max(stages)}: "
        "what is played after that was never trained; lengthen index.window_frames or listen for it"
    ]
