"""Judgement of every update before it changes a weight: accept, skip, roll back, or stop.

An update is refused if loss or gradient norm is not finite, or lies far above the median of the
last accepted ones, in units of their median absolute deviation. The loss is compared in nats and
the gradient norm as a logarithm, so a rise counts the same at any level; norms below `clip_norm`
count as `clip_norm`, since clipping leaves those gradients unchanged. Only accepted values enter
the statistics, so a refused update cannot move the threshold for the next. All numbers are plain
floats of the whole update, so every rank decides alike.

Source:
    Rousseeuw and Croux 1993, "Alternatives to the Median Absolute Deviation", for the constant;
    OLMo-core `SkipStepOptimizer` for skipping updates by a rolling window (there mean and standard
    deviation, which one accepted NaN or spike spoils).
"""

import json
import math
from collections import deque
from collections.abc import Iterable, Mapping
from statistics import median
from typing import Any, Literal, NamedTuple

from pydantic import NonNegativeInt, ValidationError

from melodac.config import Section
from melodac.errors import CheckpointMismatchError, DivergenceError
from melodac.training.config import StabilityConfig
from melodac.training.events import Event

ENOUGH = 16
"""Accepted values from which the median deviation is used: with 8, one of 200 sound values with
heavy tails lies 8 deviations out, with 16 one of 1000."""

LEAP = math.log(100.0)
"""Rise above the largest accepted value that is refused while there are too few for a median."""

_CONSISTENT = 1.4826
"""Standard deviation of a normal distribution over its median absolute deviation."""


class Outliers:
    """Outlier test of one quantity against its last accepted values."""

    def __init__(self, window: int, *, least: float, harmless: float = -math.inf) -> None:
        """Start without accepted values.

        Args:
            window: Number of values kept.
            least: Lower bound of the deviation; without noise every ripple would be an outlier.
            harmless: Level that can do no harm: accepted values below it count as this level.
        """
        self._least = least
        self._harmless = harmless
        self._enough = min(ENOUGH, window)
        self._known: deque[float] = deque(maxlen=window)

    @property
    def is_full(self) -> bool:
        """True if as many values are known as the window holds."""
        return len(self._known) == self._known.maxlen

    @property
    def level(self) -> float:
        """Median of the known values; there must be one."""
        return median(self._known)

    @property
    def values(self) -> list[float]:
        """Known values, oldest first."""
        return list(self._known)

    def add(self, value: float) -> None:
        """Add an accepted, finite value."""
        self._known.append(value)

    def replace(self, values: Iterable[float]) -> None:
        """Replace all known values."""
        self._known = deque(values, self._known.maxlen)

    def objection(self, name: str, value: float, sigma: float) -> str | None:
        """Return the reason why a value is an outlier; None if it is none.

        Args:
            name: Name of the value, for the sentence.
            value: A finite value.
            sigma: Robust standard deviations above the median that are still accepted.
        """
        if not self._known:
            return None
        if len(self._known) < self._enough:
            leap = value - max(*self._known, self._harmless)
            return f"{name} leaps up by {leap:.3g}, more than {LEAP:.3g}" if leap > LEAP else None
        # each value is raised to the harmless level, not only the median: otherwise the spread of
        # harmless values would count too
        known = [max(value, self._harmless) for value in self._known]
        level = median(known)
        spread = median(abs(value - level) for value in known)
        excess = (value - level) / max(_CONSISTENT * spread, self._least)
        if excess <= sigma:
            return None
        return (
            f"{name} is {excess:.1f} deviations above the median {level:.4g} of the last "
            f"{len(known)} accepted updates, more than {sigma:g}"
        )


RELEASE = 0.8
"""Share of its limit below which an alarm ends: hysteresis, so that it does not flicker."""

_SENTENCES = {
    "clip_frac": "{:.0%} of the updates are clipped, more than {:.0%}: lower train.learning_rate "
    "or raise train.clip_norm",
    "skip_frac": "{:.0%} of the updates are refused, more than {:.0%}: lower train.learning_rate, "
    "or raise train.stability.sigma if the losses are sound",
    "update_ratio": "an update is {:.3g} of the weights, more than {:.3g}: lower "
    "train.learning_rate or warm up for longer",
    "loss_rise": "the median loss is {:.3g} nats above its lowest, more than {:.3g}: the run may "
    "be diverging, lower train.learning_rate",
}


class Alarms:
    """Alarms that have begun and not ended."""

    def __init__(self) -> None:
        self._ringing: set[str] = set()

    @property
    def ringing(self) -> list[str]:
        """Names of the alarms that have begun and not ended."""
        return sorted(self._ringing)

    def replace(self, ringing: Iterable[str]) -> None:
        """Replace the active alarms."""
        self._ringing = set(ringing)

    def end(self, name: str) -> None:
        """End an alarm, so that it may be raised again."""
        self._ringing.discard(name)

    def check(self, update: int, name: str, value: float, limit: float) -> list[Event]:
        """Return the event of an alarm that begins now; nothing if it is active or not due."""
        if value <= limit:
            if value < RELEASE * limit or value == 0.0:
                self.end(name)
            return []
        if name in self._ringing:
            return []
        self._ringing.add(name)
        reason = _SENTENCES[name].format(value, limit)
        return [Event("alarm", update, reason, {"alarm": name, name: value})]


ABSURD_NATS = 100.0
"""Loss that no working model has, 14 times that of a uniform guess: refused from update 1 on."""

RISE_NATS = 0.5
"""Rise of the median loss above its lowest value, in nats, that raises an alarm."""

_LEAST_NATS = 0.1
"""Lower bound of the loss's deviation, in nats."""

_LEAST_LOG_NORM = 0.4
"""Lower bound of the log gradient norm's deviation, a factor of 1.5: a hard but sound window has
six times the norm of its neighbours, and clipping bounds its effect."""

_LEAST_NORM = 1e-30
"""Norm in place of 0, so that an all-zero gradient has a logarithm."""

Verdict = Literal["accept", "skip", "roll_back", "stop"]


class Judgement(NamedTuple):
    """Decision on an update whose gradients are known, with the reason."""

    verdict: Verdict
    reason: str = ""

    def event(self, update: int, loss: float, grad_norm: float) -> Event:
        """Return the event of a refused update for the log, whatever the consequence."""
        values = {"verdict": self.verdict, "loss": loss, "grad_norm": grad_norm}
        return Event("skip", update, f"update refused: {self.reason}", values)


class StabilityController:
    """Rules that refuse an update, with the history of the last updates that they need."""

    def __init__(self, config: StabilityConfig, *, clip_norm: float) -> None:
        """Start without history.

        Args:
            config: Windows, limits and alarms.
            clip_norm: Gradient norm from which gradients are clipped. A smaller norm is harmless
                however small the norms before were: a memorised model has norms of 0.001, and 0.1
                is sound.
        """
        self.config = config
        self.rollbacks = 0
        self._losses = Outliers(config.window, least=_LEAST_NATS)
        self._log_norms = Outliers(
            config.window, least=_LEAST_LOG_NORM, harmless=math.log(clip_norm)
        )
        self._is_skipped: deque[bool] = deque(maxlen=config.window)
        self._is_clipped: deque[bool] = deque(maxlen=config.window)
        self._skips_in_a_row = 0
        self._rolled_back_to: int | None = None
        self._lowest: float | None = None
        self._alarms = Alarms()

    @property
    def learning_rate_scale(self) -> float:
        """Factor on the scheduled learning rate, smaller after each rollback."""
        return self.config.rollback_learning_rate_ratio**self.rollbacks

    @property
    def is_healthy(self) -> bool:
        """True if the last update was accepted: only such a state is worth rolling back to."""
        return self._skips_in_a_row == 0

    @property
    def rollback_below(self) -> int | None:
        """Update that the next rollback target must lie below; None if any target will do.

        Until a whole window of updates is accepted after a rollback, its target is under suspicion
        too, and the next rollback goes further back.
        """
        return None if self._losses.is_full else self._rolled_back_to

    @property
    def skip_frac(self) -> float:
        """Refused updates among the last `window`, as a share of `window`."""
        return sum(self._is_skipped) / self.config.window

    @property
    def clip_frac(self) -> float:
        """Share of clipped updates among the last `window` accepted ones."""
        return sum(self._is_clipped) / max(1, len(self._is_clipped))

    def judge(self, loss: float, grad_norm: float, *, loss_scale: float = 1.0) -> Judgement:
        """Decide on an update before it is applied, and record the decision.

        Args:
            loss: Nats per code of the whole update.
            grad_norm: Norm of its gradient before clipping.
            loss_scale: Factor of the loss for float16. Above 1, the scaler repairs an overflow of
                the gradient by halving the factor, so the update does not count as skipped.
        """
        # finiteness is checked first: every comparison with NaN is false
        if not (math.isfinite(loss) and math.isfinite(grad_norm)):
            if math.isfinite(loss) and loss_scale > 1.0:
                return Judgement("skip", f"the gradient overflows at loss scale {loss_scale:g}")
            return self._refuse(f"loss is {loss:.6g}, gradient norm is {grad_norm:.6g}")
        log_norm = math.log(max(grad_norm, _LEAST_NORM))
        objection = self._object(loss, log_norm) if self.config.sigma else None
        if objection is not None:
            return self._refuse(objection)
        self._losses.add(loss)
        self._log_norms.add(log_norm)
        self._is_skipped.append(False)
        self._skips_in_a_row = 0
        return Judgement("accept")

    def accepted(self, update: int, *, is_clipped: bool, update_ratio: float | None) -> list[Event]:
        """Record an applied update and return the alarms that begin with it.

        Args:
            update: Number of the update.
            is_clipped: True if its gradient norm was above `clip_norm`.
            update_ratio: Norm of the change of the weights over that of the weights; None if it
                was not measured.
        """
        self._is_clipped.append(is_clipped)
        has_window = len(self._is_clipped) == self.config.window
        clip_frac = self.clip_frac if has_window else 0.0
        levels = {
            "clip_frac": (clip_frac, self.config.clip_frac_alarm),
            "skip_frac": (self.skip_frac, self.config.max_skip_frac / 2.0),
            "loss_rise": (self._rise_nats(), RISE_NATS),
        }
        if update_ratio is not None:
            levels["update_ratio"] = (update_ratio, self.config.update_ratio_alarm)
        return [
            event
            for name, (value, limit) in levels.items()
            for event in self._alarms.check(update, name, value, limit)
        ]

    def context_changed(self) -> None:
        """Forget the levels of loss and gradient: windows of another length have other levels."""
        self._losses.replace([])
        self._log_norms.replace([])
        self._lowest = None
        self._alarms.end("loss_rise")

    def rolled_back(self, update: int, *, to: int) -> Event:
        """Reset the history after a rollback and lower the learning rate.

        The history goes too: a level that lies in the music and not in the weights will come back
        and must not be refused forever.

        Args:
            update: Number of the update that was refused last.
            to: Update of the checkpoint whose weights, optimizer state and EMA weights are back.
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
        """Return the state that the next judgement depends on, as JSON values."""
        return {
            "losses": self._losses.values,
            "log_norms": self._log_norms.values,
            "is_skipped": list(self._is_skipped),
            "is_clipped": list(self._is_clipped),
            "skips_in_a_row": self._skips_in_a_row,
            "rollbacks": self.rollbacks,
            "rolled_back_to": self._rolled_back_to,
            "lowest": self._lowest,
            "alarms": self._alarms.ringing,
            "is_healthy": self.is_healthy,
        }

    def restore(self, state: Mapping[str, Any]) -> None:
        """Restore the state that `state()` returned.

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
        self._losses.replace(found.losses)
        self._log_norms.replace(found.log_norms)
        self._is_skipped = deque(found.is_skipped, self.config.window)
        self._is_clipped = deque(found.is_clipped, self.config.window)
        self._skips_in_a_row = found.skips_in_a_row
        self.rollbacks = found.rollbacks
        self._rolled_back_to = found.rolled_back_to
        self._lowest = found.lowest
        self._alarms.replace(found.alarms)

    def _object(self, loss: float, log_norm: float) -> str | None:
        if loss > ABSURD_NATS:
            return f"loss {loss:.4g} nats is above {ABSURD_NATS:g}, more than any model has"
        sigma = self.config.sigma
        return self._losses.objection(f"loss {loss:.4g} nats", loss, sigma) or (
            self._log_norms.objection(f"log gradient norm {log_norm:.4g}", log_norm, sigma)
        )

    def _rise_nats(self) -> float:
        level = self._losses.level
        if self._losses.is_full:
            self._lowest = level if self._lowest is None else min(self._lowest, level)
        return 0.0 if self._lowest is None else level - self._lowest

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


class _State(Section):
    """Schema of `StabilityController.state()`."""

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


def divergence(update: int, reason: str, *, rollbacks: int) -> DivergenceError:
    """Build the error that ends a run which cannot recover: the rollback limit is reached."""
    return DivergenceError(
        f"update {update} is refused and the run went back {rollbacks} times already: {reason}. "
        "Refused updates change no weight, so the checkpoints are good: lower "
        "train.learning_rate, warm up for longer, or look at the windows of this update"
    )
