"""The ear's table: rows of known sounds, what is missing and why, and the count that sums it up."""

from types import SimpleNamespace

import numpy as np
import pytest
import torch

from melodac.audio.files.write import write_flac
from melodac.errors import CheckpointMismatchError, CodecError, EvaluationError
from melodac.evaluation.bootstrap import Bootstrap
from melodac.evaluation.proxies import SHORTEST_S, Proxy
from melodac.models.config import LanguageModelConfig
from melodac.models.language_model import LanguageModel
from melodac.tokens.delay import build_pattern
from pipeline import paths
from pipeline.experiment.dataset import read_dataset
from pipeline.experiment.model import Trained
from pipeline.listening.ear import BROKEN, SAMPLED, EarStudy, RowName
from pipeline.listening.ear_table import EarCell, EarTable, compare_by_ear, missing_table
from pipeline.listening.instrument import Instrument
from pipeline.params import EvaluateParams
from pipeline.stages import evaluate, index
from tests.evaluation.sounds import RATE_HZ, band
from tests.pipeline import token_workplace
from tests.pipeline.music_folder import params_for

FRAMES = 400
BOOTSTRAP = Bootstrap(samples=100, seed=0)


class ToneCodec:
    """A codec whose code 0 is a pitch: every frame sounds what it holds."""

    sample_rate_hz, hop, num_codebooks = RATE_HZ, 512, 2

    def decode(self, codes):
        hz = 100.0 + 2.0 * codes[:, 0].repeat_interleave(self.hop, dim=-1)
        phase = torch.cumsum(hz / self.sample_rate_hz, dim=-1)
        return 0.1 * torch.sin(2 * torch.pi * phase).float()


@pytest.fixture(scope="module")
def indexed(tmp_path_factory):
    """A folder as the index stage leaves it; two groups in each held-out split."""
    folder = tmp_path_factory.mktemp("indexed")
    splits = ("train", "validation", "validation", "test", "test")
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(folder)
        patch.setattr(token_workplace, "SPLITS", splits)
        token_workplace.lay_out(token_workplace.make_header(), lengths=(FRAMES,) * 5)
        index.run(params_for("music", index={"window_frames": 32, "min_track_frames": 32}))
    return folder


@pytest.fixture
def dataset(indexed, monkeypatch):
    monkeypatch.chdir(indexed)
    return read_dataset("concatenated")


@pytest.fixture
def make_study(dataset):
    torch.manual_seed(0)
    shape = LanguageModelConfig(
        num_codebooks=2, dim=16, num_layers=1, num_heads=2, num_kv_heads=1, head_dim=8,
        ff_dim=32, dropout=0.0, rope_base=10_000.0,
    )  # fmt: skip
    model = LanguageModel(shape).eval()
    pattern = build_pattern("parallel", 2)
    checkpoint = SimpleNamespace(config={"train": {"unconditional_frac": 0.0}})
    trained = Trained(model, pattern, dataset.layout, checkpoint)
    instrument = Instrument(trained, ToneCodec(), torch.device("cpu"))

    def make(recorded=(), **changes):
        asked = {
            "windows_per_batch": 2, "bootstrap_samples": 100, "clips": 3, "clip_s": 1.5,
            "prefix_s": 0.5, "temperature": 1.0, "top_k": 0, "top_p": 1.0,
        } | changes  # fmt: skip
        return EarStudy(
            dataset,
            instrument,
            EvaluateParams(**asked),
            groups={f"{track:016x}": str(track) for track in range(5)},
            recorded=frozenset(recorded),
        )

    return make


def record(track, seed):
    audio = band(seconds=FRAMES * 512 / RATE_HZ, seed=seed)
    paths.NORMALIZED_AUDIO.mkdir(parents=True, exist_ok=True)
    write_flac(paths.NORMALIZED_AUDIO / f"{track:016x}.flac", audio, RATE_HZ, subtype="PCM_16")
    return audio


def test_the_shortest_clip_that_params_allow_is_heard_also_in_whole_frames():
    (bound,) = [m.ge for m in EvaluateParams.model_fields["clip_s"].metadata if hasattr(m, "ge")]
    assert int(bound * RATE_HZ / 512) * 512 / RATE_HZ > SHORTEST_S


@pytest.mark.parametrize("row", RowName)
def test_every_row_has_clips_of_one_length_and_is_the_same_every_time(make_study, row):
    study = make_study(recorded=["nothing of these"])
    first, second = (list(study.sounds(row)) for _ in range(2))
    assert {audio.shape for _, audio in first} == {(1, study.frames * 512)}
    assert [unit for unit, _ in first] == [unit for unit, _ in second]
    for (_, one), (_, other) in zip(first, second, strict=True):
        np.testing.assert_array_equal(one, other)


def test_the_truth_is_the_recording_after_the_beginning_that_is_given(make_study):
    audio = {track: record(track, seed=track) for track in (3, 4)}
    study = make_study(recorded=[f"{track:016x}" for track in audio])
    start = study.prefix_frames * 512
    for unit, heard in list(study.truth())[:2]:
        expected = audio[int(unit)][:, start : start + study.frames * 512]
        np.testing.assert_allclose(heard, expected, atol=1e-4)


def test_a_group_gives_a_second_clip_only_after_every_other_gave_one(make_study):
    assert [unit for unit, _ in make_study(clips=4).truth()] == ["3", "4", "3", "4"]


def test_shuffled_frames_are_those_of_the_truth(make_study):
    study = make_study()
    for (_, shuffled), (_, truth) in zip(
        study.sounds(RowName.SHUFFLED), study.truth(), strict=True
    ):
        assert np.abs(shuffled - truth).max() > 0.05
        assert np.sqrt(np.square(shuffled).mean()) == pytest.approx(
            np.sqrt(np.square(truth).mean()), rel=0.1
        )


def test_noise_is_as_loud_as_the_clips(make_study):
    study = make_study()
    for (_, noise), (_, truth) in zip(study.sounds(RowName.NOISE), study.truth(), strict=True):
        assert np.sqrt(np.square(noise).mean()) == pytest.approx(
            np.sqrt(np.square(truth).mean()), rel=0.05
        )


def test_a_row_that_fails_is_missing_with_its_reason_and_the_others_stand(make_study, monkeypatch):
    study = make_study()

    def fail(*_, **__):
        raise CodecError("no voice today")

    monkeypatch.setattr(EarStudy, "_free_runs", fail)
    table = compare_by_ear(study, BOOTSTRAP)
    assert table.reasons() == {
        "free_runs": "no voice today",
        "round_trip": "there is no recording to compare with: the codes were imported, the truth "
        "is itself a round trip",
    }
    distances = table.distances()
    assert set(distances["free_runs"].values()) == {None}
    assert None not in distances["continuations"].values()
    assert table.counts()["ear_free_runs_apart"] is None
    assert table.counts()["ear_continuations_apart"] is not None


def test_tracks_too_short_for_a_clip_leave_the_ear_without_numbers(make_study):
    table = compare_by_ear(make_study(clip_s=5.0), BOOTSTRAP)
    assert set(table.reasons()) == set(RowName)
    assert "lower evaluate.clip_s" in table.reasons()["free_runs"]
    assert set(table.counts().values()) == {None}


def test_spans_of_tracks_too_short_are_named(make_study):
    with pytest.raises(EvaluationError, match=r"no test track has 474 frames"):
        next(make_study(clip_s=5.0).truth())


def test_a_codec_that_is_not_there_is_the_reason_of_every_row(monkeypatch, caplog):
    def fail(*_):
        raise CheckpointMismatchError("codes of another codec")

    monkeypatch.setattr(evaluate, "build_instrument", fail)
    params = params_for("music", runtime={"device": "cpu", "threads": 1})
    table = evaluate._hear(None, None, params)
    assert set(table.reasons().values()) == {"codes of another codec"}
    assert "codes of another codec" in caplog.text


def make_table(model, margin, broken=1.0):
    rows = dict.fromkeys(RowName, (broken, None)) | {RowName.FREE_RUNS: (model, margin)}
    return EarTable(
        tuple(
            EarCell(row.value, proxy.value, distance, distance - 0.1, distance + 0.1, margin=margin)
            for row, (distance, margin) in rows.items()
            for proxy in Proxy
        )
    )


@pytest.mark.parametrize(
    ("model", "margin", "nearer", "apart"),
    [(0.5, 0.3, 6, 6), (0.9, 0.01, 6, 6), (0.9, -0.05, 6, 0), (1.0, -0.1, 0, 0), (1.5, None, 0, 0)],
)
def test_nearer_is_a_smaller_distance_and_apart_a_margin_above_zero(model, margin, nearer, apart):
    counts = make_table(model, margin).counts()
    assert (counts["ear_free_runs_nearer"], counts["ear_free_runs_apart"]) == (nearer, apart)


def test_the_margin_is_over_the_nearest_broken_row_and_of_what_the_model_plays_alone(make_study):
    table = compare_by_ear(make_study(), BOOTSTRAP)
    distances = table.distances()
    for cell in table.cells:
        assert (cell.margin is not None) == (cell.row in SAMPLED), cell
        if cell.margin is not None:
            least = min(distances[row][cell.proxy] for row in BROKEN) - cell.distance
            assert cell.margin <= least + 1e-4, cell


def test_a_missing_table_has_no_number_anywhere():
    table = missing_table("why")
    assert len(table.cells) == len(RowName) * len(Proxy)
    assert {cell.distance for cell in table.cells} == {None}
    assert table.as_csv().splitlines()[1] == "continuations,log_mel,,,,,,0,0,why"
