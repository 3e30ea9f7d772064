"""Every failure of the earlier systems has its guard, and every guard a test that exists."""

import ast
import re
from collections import Counter
from functools import cache
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
LIST = ROOT / "tests" / "contracts" / "prior_failures.md"
NUMBERS = {"D": 39, "R": 26, "H": 18, "O": 15}
"""Failures of each system in the research this list answers."""
TEST = re.compile(r"`(tests/[\w/]+\.py)::(\w+)`")
FILE = re.compile(r"`((?:src|pipeline|tests)/[\w/]+\.\w+)`")


def rows():
    """Cells of every row of every table."""
    lines = [line for line in LIST.read_text().splitlines() if re.match(r"\| [DRHO]\d", line)]
    return [[cell.strip() for cell in line.strip("|").split("|")] for line in lines]


@cache
def names_in(name):
    tree = ast.parse((ROOT / name).read_text())
    return {node.name for node in ast.walk(tree) if isinstance(node, ast.FunctionDef)}


def lies_in(test):
    """Where a test of that name is, for who moved it."""
    files = sorted(str(file.relative_to(ROOT)) for file in (ROOT / "tests").rglob("test_*.py"))
    return ", ".join(file for file in files if test in names_in(file)) or "nowhere"


def missing_tests(cell):
    """Named tests that are not there, and where they are."""
    return [
        f"{file}::{test} is {lies_in(test)}"
        for file, test in TEST.findall(cell)
        if not (ROOT / file).is_file() or test not in names_in(file)
    ]


def test_every_failure_has_exactly_one_row():
    counted = Counter(row[0] for row in rows())
    expected = {f"{letter}{n}" for letter, last in NUMBERS.items() for n in range(1, last + 1)}
    assert set(counted) == expected
    assert set(counted.values()) == {1}


@pytest.mark.parametrize("row", rows(), ids=lambda row: row[0])
def test_every_row_says_what_failed_and_what_guards(row):
    assert len(row) == 4
    assert all(row)


@pytest.mark.parametrize("row", rows(), ids=lambda row: row[0])
def test_every_named_test_exists(row):
    cell = row[3]
    if cell.startswith("cannot happen: "):
        files = FILE.findall(cell)
        assert files, f"{row[0]} names no file that makes it so"
        assert [file for file in files if not (ROOT / file).is_file()] == []
        return
    assert TEST.findall(cell), f"{row[0]} names no test"
    assert missing_tests(cell) == []
    assert re.sub(r"[\s,]", "", TEST.sub("", cell)) == "", f"{row[0]} has words beside its tests"


def test_a_test_that_is_not_there_is_noticed():
    here = "tests/contracts/test_prior_failures.py"
    assert missing_tests(f"`{here}::test_every_named_test_exists`") == []
    assert missing_tests(f"`{here}::test_of_nothing`") == [f"{here}::test_of_nothing is nowhere"]
    moved = missing_tests("`tests/contracts/test_layout.py::test_every_named_test_exists`")
    assert moved[0].endswith(f" is {here}")
    assert missing_tests("`tests/contracts/test_absent.py::test_x`") != []


def test_most_rows_have_a_test_and_most_of_those_are_about_training():
    tested = [row for row in rows() if TEST.search(row[3])]
    training = [
        row
        for row in tested
        if re.search(r"tests/(training|overfit|doctor|models|sampling)/", row[3])
    ]
    assert len(tested) >= 90
    assert len(training) >= 40
