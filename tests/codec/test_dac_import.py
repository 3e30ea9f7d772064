"""`dac` imports whatever the state of torchaudio, and other errors stay visible."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

SOURCE = Path(__file__).resolve().parents[2] / "src"
CUDA = (
    "Detected that PyTorch and TorchAudio were compiled with different CUDA versions. "
    "PyTorch has CUDA version 13.0 whereas TorchAudio has CUDA version 12.8."
)
TORCHAUDIO = {
    "present": "__version__ = '2.13.0'",
    "unloadable": "import torchaudio.part\nraise OSError('libc10_cuda.so: cannot open shared object')",
    "other CUDA version": f"import torchaudio.part\nraise RuntimeError({CUDA!r})",
}
IMPORT_DAC = """
import sys
from melodac.codec.architecture import dac_model_class
dac_model_class()
left = sorted(name for name in sys.modules if name.split('.')[0] == 'torchaudio')
print('left:', *left)
"""


HIDE_TORCHAUDIO = """
import sys
class Absent:
    def find_spec(self, name, path=None, target=None):
        if name == 'torchaudio':
            raise ModuleNotFoundError('No module named torchaudio', name=name)
sys.meta_path.insert(0, Absent())
"""


def run_with(packages: Path, code: str) -> subprocess.CompletedProcess[str]:
    """Run code in a fresh interpreter that finds `packages` first."""
    environment = os.environ | {"PYTHONPATH": os.pathsep.join([str(packages), str(SOURCE)])}
    return subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, env=environment
    )


def fake_torchaudio(folder: Path, code: str) -> Path:
    (folder / "torchaudio").mkdir()
    (folder / "torchaudio" / "__init__.py").write_text(code)
    (folder / "torchaudio" / "part.py").write_text("")
    return folder


@pytest.mark.parametrize("state", TORCHAUDIO)
def test_dac_imports_beside_torchaudio(state, tmp_path):
    result = run_with(fake_torchaudio(tmp_path, TORCHAUDIO[state]), IMPORT_DAC)
    assert result.returncode == 0, result.stderr
    expected = "left: torchaudio" if state == "present" else "left:"
    assert result.stdout.strip() == expected


def test_dac_imports_without_torchaudio(tmp_path):
    result = run_with(tmp_path, HIDE_TORCHAUDIO + IMPORT_DAC)
    assert result.returncode == 0, result.stderr
    assert result.stdout.strip() == "left:"


@pytest.mark.parametrize(
    ("code", "error"),
    [
        ("raise RuntimeError('out of licences')", "out of licences"),
        ("import a_package_that_is_missing", "a_package_that_is_missing"),
    ],
)
def test_other_errors_of_torchaudio_pass_through(code, error, tmp_path):
    only_probe = "from melodac.codec.architecture import dac_model_class\ndac_model_class()\n"
    result = run_with(fake_torchaudio(tmp_path, code), only_probe)
    assert result.returncode == 1
    assert error in result.stderr
