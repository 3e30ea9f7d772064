"""Laws of tags on their way from the catalogue to the model, and of what a checkpoint may be asked."""

import json
import re
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch

from melodac.errors import ConfigError, ModelError, SamplingError, StoreCorruptError
from melodac.models.config import LanguageModelConfig
from melodac.models.language_model import LanguageModel
from melodac.sampling.logits import SamplingSettings
from melodac.tokens.delay import build_pattern
from melodac.training.checkpoint import Checkpoint
from pipeline import paths
from pipeline.experiment.dataset import read_dataset
from pipeline.experiment.model import Trained, build_model, describe_run, read_tags
from pipeline.listening import instrument as generation
from pipeline.listening.instrument import NOTHING, Instrument, Request, write_clips
from pipeline.params import load_params
from pipeline.records import read_json, write_json
from pipeline.stages import index
from tests.pipeline.music_folder import ROOT, params_for
from tests.pipeline.token_workplace import lay_out, make_header

PLAIN = SamplingSettings(temperature=1.0, top_k=0, top_p=1.0)
TAGS = (
    {"tags": "folk, fiddle", "key": "G major"},
    {"description": "1.flac", "title": "Barn"},
    {},
    {"tempo_bpm": "108"},
    {"genre": "jazz"},
)


@pytest.fixture
def workplace(tmp_path, monkeypatch):
    """Five tracks with tags, encoded and indexed; the current folder is theirs."""
    monkeypatch.chdir(tmp_path)

    def build(tags=TAGS):
        lay_out(make_header(), tags=tags)
        index.run(params_for("music", index={"window_frames": 32, "min_track_frames": 32}))
        return read_dataset("concatenated")

    return build


def train_params(**changes):
    return load_params(ROOT / "params.yaml").train.model_copy(update=changes)


def test_tags_stand_in_the_order_of_the_split(workplace):
    dataset = workplace()
    assert dataset.index.splits["train"] == tuple(dataset.split("train").track_ids)
    assert dataset.tags("train") == (("folk", "fiddle", "key G major"), (), ())
    assert dataset.tags("validation") == (("tempo_bpm 108",),)
    assert dataset.tags("test") == (("jazz",),)


def test_tags_without_a_track_of_the_index_are_refused(workplace):
    dataset = workplace()
    texts = read_json(paths.INDEX_TAGS)
    del texts[dataset.index.splits["train"][0]]
    write_json(paths.INDEX_TAGS, texts)
    with pytest.raises(StoreCorruptError, match=r"lacks track 0{16} of the train split: run the"):
        dataset.tags("train")


def test_no_tags_are_read_unless_asked_for(workplace):
    dataset = workplace()
    assert read_tags(train_params(condition="none"), dataset, "train") == ()
    assert read_tags(train_params(condition="tags"), dataset, "test") == (("jazz",),)


def test_music_without_any_tag_cannot_be_trained_with_tags(workplace):
    dataset = workplace(tags=({},) * 5)
    with pytest.raises(ConfigError, match=r"no track of the train split has a tag that says how"):
        read_tags(train_params(condition="tags"), dataset, "train")


@pytest.mark.parametrize("condition", ["none", "tags"])
def test_other_tags_are_another_run_only_for_a_model_that_reads_them(workplace, condition):
    dataset = workplace()
    model = build_model(
        train_params(condition=condition),
        build_pattern("parallel", 2),
        dataset,
        dropout=0.0,
        seed=0,
    )
    before = describe_run(model, dataset)
    texts = read_json(paths.INDEX_TAGS)
    write_json(paths.INDEX_TAGS, texts | {dataset.index.splits["train"][0]: ["polka"]})
    after = describe_run(model, dataset)
    differing = {key for key in before if before[key] != after[key]}
    assert differing == ({"tags_sha256"} if condition == "tags" else set())
    assert json.loads(json.dumps(before)) == before


@pytest.fixture
def build_instrument():
    """A model as a checkpoint of the train stage gives it; it is never decoded here."""

    def build(*, reads_text=True, unconditional_frac=0.15):
        text = {"memory_dim": 8, "text_layers": 1, "text_bytes": 40} if reads_text else {}
        shape = LanguageModelConfig(
            num_codebooks=2, dim=16, num_layers=1, num_heads=2, num_kv_heads=1, head_dim=8,
            ff_dim=32, dropout=0.0, rope_base=10_000.0, **text,
        )  # fmt: skip
        torch.manual_seed(0)
        model = LanguageModel(shape).eval()
        with torch.no_grad():
            for weight in model.parameters():
                weight.mul_(4)
        config = {"train": {"unconditional_frac": unconditional_frac}}
        checkpoint = Checkpoint(Path("none"), 1, config, {}, frozenset())
        trained = Trained(model, build_pattern("parallel", 2), None, checkpoint)
        return Instrument(trained, None, torch.device("cpu"))

    return build


def play(instrument, request):
    return instrument.play(num_frames=6, seeds=[1, 2], settings=PLAIN, request=request)


def test_a_prompt_and_its_guidance_are_heard(build_instrument):
    instrument = build_instrument()
    requests = [NOTHING, Request("folk"), Request("jazz"), Request("folk", guidance=4.0)]
    played = [play(instrument, request) for request in requests]
    for first in range(4):
        assert torch.equal(played[first], play(instrument, requests[first]))
        for second in range(first):
            assert not torch.equal(played[first], played[second])


@pytest.mark.parametrize(
    ("made", "request_", "message"),
    [
        ({"reads_text": False}, Request("folk"), r"reads codes alone, it cannot play to 'folk'"),
        ({"reads_text": False}, Request(guidance=2.0), r"guidance 2 needs a model that reads texts"),
        ({}, Request(guidance=2.0), r"guidance 2 says how strictly to follow a prompt: give one"),
        ({"unconditional_frac": 0.0}, Request("folk", 2.0), r"compares with the null condition"),
        ({"unconditional_frac": 0.0}, NOTHING, r"never played without a text .*: give a prompt"),
    ],
)  # fmt: skip
def test_what_a_checkpoint_cannot_do_is_refused_in_one_line(
    build_instrument, made, request_, message
):
    with pytest.raises(SamplingError, match=message) as caught:
        play(build_instrument(**made), request_)
    assert "\n" not in str(caught.value)


def test_a_prompt_that_does_not_fit_is_refused_and_not_cut(build_instrument):
    with pytest.raises(ModelError, match="a text has 41 bytes, the model reads 40: shorten it"):
        play(build_instrument(), Request("x" * 41))


def test_guidance_of_the_demos_is_judged_before_anything_is_played(build_instrument):
    build_instrument().check_guidance(3.0)
    build_instrument(reads_text=False).check_guidance(1.0)
    for made in ({"reads_text": False}, {"unconditional_frac": 0.0}):
        with pytest.raises(SamplingError, match="guidance 3"):
            build_instrument(**made).check_guidance(3.0)


def test_tags_beyond_the_model_s_room_are_left_out_of_what_is_shown(build_instrument):
    assert build_instrument().text_of(["folk", "x" * 60, "jazz"]) == "folk, jazz"
    assert build_instrument(reads_text=False).text_of(["folk"]) == ""


def test_two_prompts_leave_two_files(build_instrument, monkeypatch, tmp_path):
    written = []
    monkeypatch.setattr(generation, "write_flac", lambda path, *_, **__: written.append(path.name))
    monkeypatch.setattr(Instrument, "frames_in", lambda *_: 4)
    monkeypatch.setattr(Instrument, "decode", lambda *_: None)
    instrument = replace(build_instrument(), codec=SimpleNamespace(sample_rate_hz=44100))
    for request in (
        NOTHING,
        Request("Folk, slow"),
        Request("Folk; slow"),
        Request("Folk, slow", 3.0),
    ):
        write_clips(instrument, tmp_path, seconds=1.0, seeds=[7], settings=PLAIN, request=request)
    assert len(set(written)) == 4
    assert written[0] == "seed7_t1.flac"
    assert re.fullmatch("folk-slow_[0-9a-f]{6}_g3_seed7_t1.flac", written[3])
