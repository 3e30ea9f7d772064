"""params.yaml is refused whole and clearly when anything in it is wrong."""

from pathlib import Path

import pytest

from melodac.errors import ConfigError
from pipeline.params import MAX_SIZE_BYTES, hash_params, load_params

TEXT = (Path(__file__).resolve().parents[2] / "params.yaml").read_text()


@pytest.fixture
def write(tmp_path):
    def write_text(text, encoding="utf-8"):
        path = tmp_path / "params.yaml"
        path.write_bytes(text.encode(encoding))
        return path

    return write_text


def changed(old, new):
    assert TEXT.count(old) == 1, f"{old!r} must stand once in params.yaml"
    return TEXT.replace(old, new)


def test_the_repository_s_params_are_valid(write):
    assert load_params(write(TEXT)).train.delay == "musicgen"


@pytest.mark.parametrize(
    ("old", "new", "told"),
    [
        ("  size: nano ", "  sise: nano ", r"train\.sise = 'nano': unknown key, did you mean size\?"),
        ("  size: nano ", "  zzz: nano ", r"train\.zzz = 'nano': unknown key, known here: .*delay"),
        ("  duration_s: 6.0", "  duration_s: -7.0", r"demos\.duration_s = -7\.0: .*greater than 0"),
        ("  duration_s: 6.0", "  duration_s: .nan", r"demos\.duration_s"),
        ("  duration_s: 6.0", "  duration_s: .inf", r"demos\.duration_s"),
        ("  duration_s: 6.0", "  duration_s: '7'", r"demos\.duration_s = '7': .*valid number"),
        ("  duration_s: 6.0", "  duration_s:    ", r"demos\.duration_s = None"),
        ("  micro_batch: 4 ", "  micro_batch: 3 ", r"micro_batch \(3\) must divide windows_per"),
        ("  dropout: 0.1 ", "  # ropout: 0.1 ", r"train\.dropout: missing"),
        ("  weights: bundled", "  weights: 24khz", r"codec\.weights = '24khz': .*'bundled' or '44khz'"),
        ("  delay: musicgen", "  delay: [0, -1]", r"train\.delay\.1 = -1: .*greater than or equal to 0"),
        ("  validation_frac: 0.1", "  validation_frac: 1.1", r"validation_frac = 1\.1: .*less than"),
        ("  seeds: [0, 1]", "  seeds: []", r"demos\.seeds"),
        ("  window_frames: 520", "  window_frames: 256", r"a stage of 520 frames, index\.window_fr"),
        ("  guidance: 1.0", "  guidance: 3.0", r"guidance is 3\.0, but train\.condition is none"),
        ("codec:\n", "codecs:\n", r"codecs = .*: unknown key, did you mean codec\?"),
    ],
)  # fmt: skip
def test_wrong_value_is_named(write, old, new, told):
    with pytest.raises(ConfigError, match=told):
        load_params(write(changed(old, new)))


def test_muon_is_refused_where_matrices_are_cut(write):
    text = TEXT
    for old, new in (("optimizer: adamw", "optimizer: muon"), ("processes: 1", "processes: 2")):
        text = text.replace(old, new)
    assert load_params(write(text)).runtime.sharding == "ddp"
    with pytest.raises(ConfigError, match="muon needs whole matrices"):
        load_params(write(text.replace("sharding: ddp", "sharding: fsdp")))


def test_all_errors_are_told_at_once(write):
    text = changed("  duration_s: 6.0", "  duration_s: -1").replace("  size: nano", "  sise: nano")
    with pytest.raises(ConfigError) as caught:
        load_params(write(text))
    told = str(caught.value)
    assert all(key in told for key in ("demos.duration_s", "train.sise", "train.size"))
    assert len(told.splitlines()) == 3


@pytest.mark.parametrize(
    ("text", "told"),
    [
        ("", "expected sections"),
        ("- a\n- b\n", "expected sections"),
        ("a: 1\na: 2\n", "line 2: found duplicate key"),
        ("a: &x 1\nb: *x\n", "aliases"),
        ("\ta: 1\n", "line 1"),
        ("a: " + "1" * MAX_SIZE_BYTES, "at most"),
    ],
)
def test_broken_yaml_is_one_line(write, text, told):
    with pytest.raises(ConfigError, match=told) as caught:
        load_params(write(text))
    assert len(str(caught.value).splitlines()) == 1


def test_other_encodings_are_refused(write):
    with pytest.raises(ConfigError, match="UTF-8"):
        load_params(write(TEXT, encoding="utf-16"))


def test_missing_file_is_one_line(tmp_path):
    with pytest.raises(ConfigError, match="cannot be read"):
        load_params(tmp_path / "params.yaml")


def test_hash_follows_the_experiment_not_the_runtime(write):
    base = hash_params(load_params(write(TEXT)))
    assert hash_params(load_params(write(changed("  workers: 0", "  workers: 1")))) == base
    assert hash_params(load_params(write(changed("  updates: 1500 ", "  updates: 1501 ")))) != base
