"""Things that go wrong slowly: each is said once when it begins, and again only after it ended."""

from collections.abc import Iterable

from melodac.training.events import Event

RELEASE = 0.8
"""Share of its limit below which an alarm has ended; a value at the limit must not chatter."""

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
    """Which alarms are ringing."""

    def __init__(self) -> None:
        self._ringing: set[str] = set()

    @property
    def ringing(self) -> list[str]:
        """Names of the alarms that have begun and not ended."""
        return sorted(self._ringing)

    def replace(self, ringing: Iterable[str]) -> None:
        """Let exactly these ring."""
        self._ringing = set(ringing)

    def end(self, name: str) -> None:
        """Let an alarm ring no more, so that it may be raised again."""
        self._ringing.discard(name)

    def check(self, update: int, name: str, value: float, limit: float) -> list[Event]:
        """The event of an alarm that begins now; nothing if it was ringing or is not due."""
        if value <= limit:
            if value < RELEASE * limit or value == 0.0:
                self.end(name)
            return []
        if name in self._ringing:
            return []
        self._ringing.add(name)
        reason = _SENTENCES[name].format(value, limit)
        return [Event("alarm", update, reason, {"alarm": name, name: value})]
