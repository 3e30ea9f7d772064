"""What fails is told before DVC starts."""

import shutil

import pytest

from melodac.errors import ConfigError, UnreadableAudioError
from pipeline.watch.flows import check_request
from tests.pipeline.real_prefect import ROOT, melodac


@pytest.fixture
def params_only(tmp_path, monkeypatch):
    """A folder with our params.yaml and a source folder."""
    shutil.copy(ROOT / "params.yaml", tmp_path)
    (tmp_path / "dvc.yaml").write_text("stages: {}")
    (tmp_path / "data" / "sample").mkdir(parents=True)
    monkeypatch.chdir(tmp_path)
    return tmp_path


def test_options_are_applied_before_the_check(params_only):
    check_request(["-S", "train.seed=7", "--set-param=train.delay=dia", "train"])
    check_request(["-Sparams.yaml:train.delay=[0,1,2,3,4,5,6,7,8]", "-S", "other.yaml:a.b=1"])


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["-S", "train.size=3"], "train.size = 3"),
        (["--set-param=train.updates=-5"], "train.updates = -5"),
        (["-S", "train.nokey=1"], "nokey"),
        (["-S", "+train.extra=1"], "train.extra"),
        (["--queue", "-S", "train.updates=100,-5"], "train.updates = -5"),
        (["-S", "train.seed"], "train.seed"),
        (["-S", "train.seed=1,"], "train.seed"),
    ],
)
def test_wrong_options_are_told_by_key(params_only, arguments, message):
    with pytest.raises(ConfigError) as caught:
        check_request(arguments)
    assert message in str(caught.value)
    assert "/tmp" not in str(caught.value)


def test_a_missing_source_folder_is_told(params_only):
    with pytest.raises(UnreadableAudioError, match=r"ingest\.source = 'no/such': no such folder"):
        check_request(["-S", "ingest.source=no/such"])


def test_wrong_params_and_missing_music_have_their_exit_codes(params_only):
    wrong = melodac("run", "-S", "train.size=3")
    assert wrong.returncode == 2
    assert wrong.stderr.startswith("melodac: params.yaml: train.size = 3")
    missing = melodac("run", "-S", "ingest.source=no/such")
    assert missing.returncode == 1
    assert len(missing.stderr.splitlines()) == 1
