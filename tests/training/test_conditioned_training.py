"""Laws of training with tags: they are learned, nothing else learns of them, stops change nothing."""

import numpy as np
import pytest
import torch

from melodac.models.condition import encode_texts
from melodac.sampling.generate import generate
from melodac.sampling.guidance import Guided
from melodac.sampling.logits import SamplingSettings
from melodac.tokens.array import array_of_tracks
from melodac.tokens.delay import build_pattern
from melodac.tokens.windows import evaluation_windows
from melodac.training.data import TrainingData
from melodac.training.loss import score_windows, total_loss
from melodac.training.trainer import Callbacks
from tests.tiny import FRAMES, NUM_CODEBOOKS, TinyTrainer, change_config, tiny_model

PATTERN = build_pattern((0, 1), NUM_CODEBOOKS)
TAGS = (("low", "soft"), ("high", "loud"), ("low", "soft"), ("high", "loud"))
PLAIN = SamplingSettings(temperature=1.0, top_k=0, top_p=1.0)
LOW, HIGH = range(100, 132), range(600, 632)


def tracks_of(tags, seed):
    """Random codes of a low or a high range, as the tags say."""
    generator = np.random.default_rng(seed)
    ranges = [LOW if "low" in words else HIGH for words in tags]
    return array_of_tracks([
        (
            f"t{seed}{number}",
            generator.integers(codes[0], codes[-1] + 1, (48, NUM_CODEBOOKS)).astype(np.uint16),
        )
        for number, codes in enumerate(ranges)
    ])


@pytest.fixture
def build_reader(train_config):
    """A trainer of a model that reads tags; `frac`, `tag_dropout` and all else as asked for."""

    def build(directory=None, tags=TAGS, stop_at=None, text_bytes=64, **changes):
        given = {
            "condition": "tags", "unconditional_frac": 0.3, "tag_shuffle": True,
            "tag_dropout": 0.2, "dropout": 0.0, "schedule": "constant",
        }  # fmt: skip
        config = change_config(train_config, given | changes)
        model = tiny_model(config.dropout, text_bytes=text_bytes)
        data = TrainingData(
            tracks_of(TAGS, 1), tracks_of(TAGS, 2), FRAMES, train_tags=tags, validation_tags=tags
        )
        trainer = TinyTrainer(
            model, PATTERN, data, config=config, directory=directory, identity={"data": "x"}
        )
        if stop_at is not None:
            trainer.callbacks = Callbacks(should_stop=lambda: trainer.update == stop_at)
        return trainer

    return build


def weights_of(trainer):
    return dict(trainer.state.model.named_parameters())


def assert_same_weights(one, other):
    pairs = zip(weights_of(one).values(), weights_of(other).values(), strict=True)
    assert all(torch.equal(first, second) for first, second in pairs)


def loss_of(trainer, tags):
    data = trainer.data
    windows = evaluation_windows([int(n) for n in data.validation.lengths], FRAMES)
    scores = score_windows(
        trainer.state.model, PATTERN, data.validation, windows,
        frames=FRAMES, windows_per_batch=8, tags=tags,
    )  # fmt: skip
    return float(total_loss(scores.nats.sum(dim=0), scores.counts.sum(dim=0)))


@pytest.mark.slow
def test_tags_are_learned_followed_and_exaggerated(build_reader):
    """Right tags predict better than none, none better than wrong ones; guidance goes further."""
    trainer = build_reader(updates=150, windows_per_update=8, micro_batch=8, validate_every=150)
    trainer.run()
    right, null, wrong = (loss_of(trainer, tags) for tags in (TAGS, (), TAGS[1:] + TAGS[:1]))
    assert right < null - 0.02
    assert null < wrong - 0.05
    condition = encode_texts(["high, loud"] * 64, 64)

    def high_share(scale):
        voice = Guided(trainer.state.model, condition, scale, has_trained_null=True)
        codes = generate(voice, PATTERN, num_frames=1, seeds=range(64), settings=PLAIN)
        return float(((codes >= HIGH[0]) & (codes <= HIGH[-1])).float().mean())

    shares = [high_share(scale) for scale in (0.0, 1.0, 2.0)]
    assert shares[0] < shares[1] < shares[2]
    assert shares[0] < 0.75


@pytest.mark.parametrize("stop_at", [1, 8])
def test_a_stop_changes_nothing_of_what_is_drawn(build_reader, tmp_path, stop_at):
    whole = build_reader()
    whole.run()
    build_reader(tmp_path, stop_at=stop_at).run()
    resumed = build_reader(tmp_path)
    resumed.resume()
    resumed.run()
    assert_same_weights(whole, resumed)


def test_accumulation_reads_the_same_tags(build_reader):
    """Gradients of the first update, in one part and in four; sums in another order."""
    found = []
    for micro_batch in (4, 1):
        trainer = build_reader(micro_batch=micro_batch, updates=3)
        texts = [part.condition.text for part in trainer.gradients.reader.read(2).parts]
        width = max(text.shape[1] for text in texts)
        padded = [
            torch.nn.functional.pad(text, (0, width - text.shape[1]), value=256) for text in texts
        ]
        trainer.run()
        found.append((torch.cat(padded), weights_of(trainer)))
    (texts, weights), (other_texts, other_weights) = found
    assert torch.equal(texts, other_texts)
    for name, weight in weights.items():
        torch.testing.assert_close(other_weights[name], weight, rtol=2e-3, atol=2e-4, msg=name)


def test_a_model_without_texts_is_trained_as_if_there_were_no_tags(build_reader):
    one = build_reader(text_bytes=0, tags=(), condition="none", unconditional_frac=0.0)
    other = build_reader(text_bytes=0, condition="none", unconditional_frac=0.9, tag_dropout=0.5)
    for trainer in (one, other):
        trainer.run()
    assert_same_weights(one, other)


def test_dropping_everything_trains_what_a_track_without_tags_trains(build_reader):
    """One null: a dropped text and a text that never was leave the same weights."""
    dropped = build_reader(unconditional_frac=1.0)
    tagless = build_reader(tags=((), (), (), ()), unconditional_frac=0.0)
    for trainer in (dropped, tagless):
        trainer.run()
    assert_same_weights(dropped, tagless)


def test_validation_draws_nothing(build_reader):
    """All tags in their order, whatever training drops."""
    one, other = (build_reader(unconditional_frac=share) for share in (0.0, 1.0))
    assert loss_of(one, TAGS) == loss_of(other, TAGS)


def test_recomputed_activations_read_the_same_texts(build_reader):
    """What a block reads is made outside of it, and its gradient goes back there."""
    plain, recomputed = (
        build_reader(dropout=0.2, compute={"recompute": on}) for on in (False, True)
    )
    for trainer in (plain, recomputed):
        trainer.run()
    assert_same_weights(plain, recomputed)
