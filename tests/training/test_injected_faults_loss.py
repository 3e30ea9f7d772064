"""A run that met faults reaches the loss of one that met none, within what another seed changes."""

from statistics import mean, stdev

import numpy as np
import pytest

from melodac.tokens.array import array_of_tracks
from melodac.training.data import TrainingData
from tests.training.faults import install, refused

SEEDS = range(5)
UPDATES = 120
SCATTERED = {9: "nan loss", 23: "spike", 24: "one inf", 41: "gradient spike", 66: "one nan"}
BURST = dict.fromkeys((40, 41, 42), "nan gradient")


@pytest.fixture
def data():
    """Tracks that are soon learned: after each code comes the next of 8, with some slips."""
    draw = np.random.default_rng(0)

    def track(frames):
        first = (draw.integers(8) + np.arange(frames)) % 8
        slips = draw.integers(0, 8, (frames, 2))
        clean = np.stack([first, (5 * first + 3) % 8], axis=1)
        return np.where(draw.random((frames, 2)) < 0.1, slips, clean).astype(np.uint16)

    def tracks(*lengths):
        return array_of_tracks([(f"t{n}", track(n)) for n in lengths])

    return TrainingData(tracks(400, 230, 50, 170), tracks(190, 60), 8)


@pytest.mark.slow
@pytest.mark.parametrize(("plan", "rollbacks"), [(SCATTERED, 0), (BURST, 1)])
def test_faults_cost_no_more_loss_than_another_seed(
    build_trainer, monkeypatch, tmp_path, plan, rollbacks
):
    def losses(name):
        found = []
        for seed in SEEDS:
            folder = tmp_path / f"{name}{seed}"
            trainer = build_trainer(
                folder,
                seed=seed,
                updates=UPDATES,
                validate_every=UPDATES,
                checkpoint_every=10,
                learning_rate=2e-2,
                ema_decay=0.8,
            )
            trainer.run()
            assert refused(trainer) == (sorted(plan) if name == "faulty" else [])
            assert trainer.stability.rollbacks == (rollbacks if name == "faulty" else 0)
            found.append(trainer.validations[-1]["loss"])
        return found

    clean = losses("clean")
    install(monkeypatch, plan)
    faulty = losses("faulty")
    assert max(clean) < 1.0  # of 6.93 at the start, so there was something to lose
    assert abs(mean(faulty) - mean(clean)) < stdev(clean), (clean, faulty)
