"""The repository keeps the shape its style guide promises."""

import ast
import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
TOP_LEVEL = {
    "pyproject.toml", "README.md", "dvc.yaml", "params.yaml", "Makefile", "constraints.txt",
    "prefect.toml", "pipeline", "src", "data", "tests", "docs", "CONTRIBUTING.md", "CHANGELOG.md",
}  # fmt: skip
MAX_LINES = 450


def tracked_files():
    listed = subprocess.run(
        ["git", "ls-files", "-z"], cwd=ROOT, capture_output=True, text=True, check=True
    )
    return [ROOT / name for name in listed.stdout.split("\0") if name]


def python_files(*folders):
    return sorted(file for folder in folders for file in (ROOT / folder).rglob("*.py"))


def test_top_level_is_the_fixed_one():
    seen = {file.relative_to(ROOT).parts[0] for file in tracked_files()}
    assert {name for name in seen if not name.startswith(".")} <= TOP_LEVEL | {"dvc.lock"}


@pytest.mark.parametrize(
    "file",
    python_files("src", "pipeline", "tests", "data"),
    ids=lambda file: str(file.relative_to(ROOT)),
)
def test_file_is_short(file):
    assert len(file.read_text().splitlines()) < MAX_LINES


@pytest.mark.parametrize(
    "file", python_files("src", "pipeline"), ids=lambda file: str(file.relative_to(ROOT))
)
def test_module_says_what_lives_in_it(file):
    tree = ast.parse(file.read_text())
    assert ast.get_docstring(tree), f"{file.name} has no module docstring"
    if file.name == "__init__.py":
        assert len(tree.body) == 1, "an __init__ holds a docstring only"


def test_no_file_knows_one_machine():
    own_path = re.compile(r"(/home/|/root/|/mnt/|/media/|/work/)[a-zA-Z]")
    text_suffixes = {".py", ".md", ".yaml", ".toml", ".txt", ".csv", ".json", ".html", ""}
    for file in tracked_files():
        if file.suffix in text_suffixes and file != Path(__file__) and file.exists():
            found = own_path.search(file.read_text(errors="replace"))
            assert found is None, f"{file.relative_to(ROOT)}: {found.group() if found else ''}"


def test_every_test_file_is_collected():
    named_as_tests = python_files("tests")
    helpers = {"conftest.py", "__init__.py"}
    for file in named_as_tests:
        holds_tests = re.search(r"^def test_", file.read_text(), re.MULTILINE)
        if holds_tests and file.name not in helpers:
            assert file.name.startswith("test_"), f"{file} holds tests that nobody runs"


def test_importing_the_library_changes_nothing_else():
    modules = [
        ".".join(file.relative_to(ROOT / "src").with_suffix("").parts)
        for file in python_files("src/melodac")
        if file.name != "__init__.py"
    ]
    script = (
        "import importlib, logging, os, sys\n"
        "import torch, numpy, matplotlib, librosa\n"  # theirs: what they set is not ours
        "before = dict(os.environ), list(logging.getLogger().handlers)\n"
        f"for name in {modules!r}: importlib.import_module(name)\n"
        "after = dict(os.environ), list(logging.getLogger().handlers)\n"
        "sys.exit(0 if before == after else f'import changed {before} into {after}')\n"
    )
    environment = {**os.environ, "PYTHONPATH": str(ROOT / "src")}
    done = subprocess.run(
        [sys.executable, "-c", script], env=environment, capture_output=True, text=True
    )
    assert done.returncode == 0, done.stderr
