"""Judges every update before it touches a weight: accept, skip, go back, or stop.

An update is refused when loss or gradient norm is not finite, or lies far above the median of the
last accepted ones in units of their median deviation. Differences of the loss are in nats and of
the gradient norm in logarithms, so a rise counts the same at any level. Only accepted values enter
the statistics: nothing that was refused can move what the next update is judged by. All numbers
are plain floats and come from the whole update, so every rank judges alike. Only the trainer
imports this file.
"""

import json
import math
from collections import deque
from collections.abc import Mapping
from statistics import median
from typing import Any, Literal, NamedTuple

from pydantic import NonNegativeInt, ValidationError

from melodac.config import Section
from melodac.errors import CheckpointMismatchError, DivergenceError
from melodac.training.events import Event
from melodac.training.sections import StabilityConfig

ENOUGH = 8
"""Accepted updates from which a median deviation means something."""

_CONSISTENT = 1.4826
"""Standard deviation of a normal distribution over its median absolute deviation."""

_LEAST_NATS = 0.1
"""Least deviation of the loss: a history without noise must not make every ripple an outlier."""

_LEAST_LOG_NORM = 0.4
"""Least deviation of the log gradient norm, a factor of 1.5: a hard but sound window has six times
the norm of its neighbours, and clipping bounds what it can do."""

_LEAP = math.log(100.0)
"""Rise above the largest accepted value that is refused while too few are known for a median."""

_ABSURD_NATS = 100.0
"""Loss that no working model has, 14 times that of a guess among 1024: refused from update 1."""

_RISE_NATS = 0.5
"""Rise of the median loss above the lowest it has been that raises an alarm."""

_RELEASE = 0.8
"""Share of its threshold below which an alarm may be raised again."""

Verdict = Literal["accept", "skip", "roll_back", "stop"]


class Judgement(NamedTuple):
    """What to do with an update whose gradients are known, and why."""

    verdict: Verdict
    reason: str = ""

    def event(self, update: int, loss: float, grad_norm: float) -> Event:
        """The line that a refused update leaves in the log, whatever follows from it."""
        values = {"verdict": self.verdict, "loss": loss, "grad_norm": grad_norm}
        return Event("skip", update, f"update refused: {self.reason}", values)


class _State(Section):
    """All that the next judgement depends on, as JSON."""

    losses: tuple[float, ...]
    log_norms: tuple[float, ...]
    is_skipped: tuple[bool, ...]
    is_clipped: tuple[bool, ...]
    skips_in_a_row: NonNegativeInt
    rollbacks: NonNegativeInt
    rolled_back_to: NonNegativeInt | None
    lowest: float | None
    alarms: tuple[str, ...]
    is_healthy: bool


class StabilityController:
    """The memory of a run's last updates, and the rules that refuse one."""

    def __init__(self, config: StabilityConfig) -> None:
        """Begin without any history.

        Args:
            config: Windows, limits and alarms.
        """
        self.config = config
        self.rollbacks = 0
        self._losses: deque[float] = deque(maxlen=config.window)
        self._log_norms: deque[float] = deque(maxlen=config.window)
        self._is_skipped: deque[bool] = deque(maxlen=config.window)
        self._is_clipped: deque[bool] = deque(maxlen=config.window)
        self._skips_in_a_row = 0
        self._rolled_back_to: int | None = None
        self._lowest: float | None = None
        self._alarms: set[str] = set()

    @property
    def learning_rate_scale(self) -> float:
        """Factor on the scheduled learning rate: smaller after each time the run went back."""
        return self.config.rollback_learning_rate_ratio**self.rollbacks

    @property
    def is_healthy(self) -> bool:
        """Whether the last update was accepted: only such a state is worth going back to."""
        return self._skips_in_a_row == 0

    @property
    def rollback_below(self) -> int | None:
        """Update the next target must lie below; None if any will do.

        Until a whole window of updates is accepted after a rollback, what it went back to is under
        suspicion itself, and the next one goes further back.
        """
        return self._rolled_back_to if len(self._losses) < self.config.window else None

    @property
    def skip_frac(self) -> float:
        """Refused updates among the last `window`, as a share of `window`."""
        return sum(self._is_skipped) / self.config.window

    @property
    def clip_frac(self) -> float:
        """Share of clipped updates among the last accepted ones."""
        return sum(self._is_clipped) / max(1, len(self._is_clipped))

    def judge(self, loss: float, grad_norm: float, *, loss_scale: float = 1.0) -> Judgement:
        """Decide on an update before it is taken, and remember the decision.

        Args:
            loss: Nats per code of the whole update.
            grad_norm: Norm of its gradient before clipping.
            loss_scale: Factor the loss was multiplied by for float16. An overflow of the gradient
                above 1 is the scaler's to repair by halving it and counts as no skip.
        """
        # finiteness first and apart: comparing with NaN is false whichever way it is asked
        if not (math.isfinite(loss) and math.isfinite(grad_norm)):
            if math.isfinite(loss) and loss_scale > 1.0:
                return Judgement("skip", f"the gradient overflows at loss scale {loss_scale:g}")
            return self._refuse(f"loss is {loss} and gradient norm is {grad_norm}")
        log_norm = math.log(max(grad_norm, 1e-30))
        objection = self._object_to_loss(loss) or self._object(
            f"log gradient norm {log_norm:.4g}", log_norm, self._log_norms, _LEAST_LOG_NORM
        )
        if objection is not None and self.config.sigma > 0.0:
            return self._refuse(objection)
        self._losses.append(loss)
        self._log_norms.append(log_norm)
        self._is_skipped.append(False)
        self._skips_in_a_row = 0
        return Judgement("accept")

    def accepted(self, update: int, *, is_clipped: bool, update_ratio: float) -> list[Event]:
        """What an update that was just taken gives reason to say; each alarm once an episode.

        Args:
            update: Its number.
            is_clipped: Whether its gradient was longer than `clip_norm`.
            update_ratio: Size of the change of the weights beside the weights.
        """
        self._is_clipped.append(is_clipped)
        is_full = len(self._is_clipped) == self.config.window
        level = median(self._losses)
        if len(self._losses) == self.config.window:
            self._lowest = level if self._lowest is None else min(self._lowest, level)
        rise = 0.0 if self._lowest is None else level - self._lowest
        limits = {
            "clip_frac": (self.clip_frac if is_full else 0.0, self.config.clip_frac_alarm),
            "skip_frac": (self.skip_frac, self.config.max_skip_frac / 2.0),
            "update_ratio": (update_ratio, self.config.update_ratio_alarm),
            "loss_rise": (rise, _RISE_NATS),
        }
        return [
            Event("alarm", update, _ADVICE[name].format(value, limit), {name: value})
            for name, (value, limit) in limits.items()
            if self._is_new_alarm(name, value, limit)
        ]

    def context_changed(self) -> None:
        """Forget the levels of loss and gradient: windows of another length have others."""
        self._losses.clear()
        self._log_norms.clear()
        self._lowest = None
        self._alarms.discard("loss_rise")

    def rolled_back(self, update: int, *, to: int) -> Event:
        """Begin anew after the run went back, with a smaller learning rate.

        The history goes too: if the refused level is in the music and not in the weights, it is
        met again and must not be refused for ever.

        Args:
            update: Number of the update that was refused last.
            to: Update of the checkpoint whose weights, moments and average are back.
        """
        self.context_changed()
        self._is_skipped.clear()
        self._is_clipped.clear()
        self._skips_in_a_row = 0
        self._rolled_back_to = to
        self.rollbacks += 1
        return Event(
            "rollback",
            update,
            f"weights, moments and average of update {to} are back, rollback {self.rollbacks} of "
            f"{self.config.max_rollbacks}; learning rates are scaled by "
            f"{self.learning_rate_scale:g} from here",
            {"to": to, "learning_rate_scale": self.learning_rate_scale},
        )

    def state(self) -> dict[str, Any]:
        """All that the next judgement depends on, as JSON values."""
        return {
            "losses": list(self._losses),
            "log_norms": list(self._log_norms),
            "is_skipped": list(self._is_skipped),
            "is_clipped": list(self._is_clipped),
            "skips_in_a_row": self._skips_in_a_row,
            "rollbacks": self.rollbacks,
            "rolled_back_to": self._rolled_back_to,
            "lowest": self._lowest,
            "alarms": sorted(self._alarms),
            "is_healthy": self.is_healthy,
        }

    def restore(self, state: Mapping[str, Any]) -> None:
        """Stand where `state()` stood.

        Raises:
            CheckpointMismatchError: If an entry is missing, left over or of another type.
        """
        try:
            found = _State.model_validate_json(json.dumps(dict(state)))
        except ValidationError as error:
            first = error.errors()[0]
            raise CheckpointMismatchError(
                f"the stability state of the checkpoint cannot be read: "
                f"{'.'.join(map(str, first['loc']))}: {first['msg']}; resume an older checkpoint"
            ) from error
        window = self.config.window
        self._losses = deque(found.losses, window)
        self._log_norms = deque(found.log_norms, window)
        self._is_skipped = deque(found.is_skipped, window)
        self._is_clipped = deque(found.is_clipped, window)
        self._skips_in_a_row = found.skips_in_a_row
        self.rollbacks = found.rollbacks
        self._rolled_back_to = found.rolled_back_to
        self._lowest = found.lowest
        self._alarms = set(found.alarms)

    def _object_to_loss(self, loss: float) -> str | None:
        if loss > _ABSURD_NATS:
            return f"loss {loss:.4g} nats is above {_ABSURD_NATS:g}, more than any model has"
        return self._object(f"loss {loss:.4g} nats", loss, self._losses, _LEAST_NATS)

    def _object(self, name: str, value: float, history: deque[float], least: float) -> str | None:
        if not history:
            return None
        if len(history) < ENOUGH:
            rise = value - max(history)
            return (
                f"{name} leaps by {rise:.3g}, to be at most {_LEAP:.3g}" if rise > _LEAP else None
            )
        middle = median(history)
        deviation = max(_CONSISTENT * median(abs(known - middle) for known in history), least)
        excess = (value - middle) / deviation
        if excess <= self.config.sigma:
            return None
        return (
            f"{name} is {excess:.1f} deviations above the median {middle:.4g} of the last "
            f"{len(history)} accepted updates, sigma is {self.config.sigma:g}"
        )

    def _refuse(self, reason: str) -> Judgement:
        self._is_skipped.append(True)
        self._skips_in_a_row += 1
        skips = sum(self._is_skipped)
        if self._skips_in_a_row >= self.config.max_skips_in_a_row:
            cap = f"{self._skips_in_a_row} updates in a row are refused"
        elif skips > self.config.max_skip_frac * self.config.window:
            cap = f"{skips} of the last {self.config.window} updates are refused"
        else:
            return Judgement("skip", reason)
        may_go_back = self.rollbacks < self.config.max_rollbacks
        return Judgement("roll_back" if may_go_back else "stop", f"{reason}; {cap}")

    def _is_new_alarm(self, name: str, value: float, limit: float) -> bool:
        if value > limit:
            is_new = name not in self._alarms
            self._alarms.add(name)
            return is_new
        if value < _RELEASE * limit:
            self._alarms.discard(name)
        return False


_ADVICE = {
    "clip_frac": "{:.0%} of the updates are clipped, more than {:.0%}: lower train.learning_rate "
    "or raise train.clip_norm",
    "skip_frac": "{:.0%} of the updates are refused, more than {:.0%}: lower train.learning_rate, "
    "or raise train.stability.sigma if the losses are sound",
    "update_ratio": "an update is {:.3g} of the weights, more than {:.3g}: lower "
    "train.learning_rate or warm up for longer",
    "loss_rise": "the median loss is {:.3g} nats above its lowest, more than {:.3g}: the run may "
    "be diverging, lower train.learning_rate",
}


def divergence(update: int, reason: str, *, rollbacks: int) -> DivergenceError:
    """The error that ends a run at an update that leaves no way on."""
    return DivergenceError(
        f"update {update} is refused and {rollbacks} rollbacks are behind the run: {reason}. "
        "No weight was changed and the last checkpoint is good: lower train.learning_rate, warm up "
        "for longer, or look at the windows of this update"
    )
