"""No error is caught by a name that fits everything, and none disappears without a trace."""

import ast
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
FILES = sorted(file for folder in ("src", "pipeline") for file in (ROOT / folder).rglob("*.py"))
BROAD = {"Exception", "BaseException"}
TOLD_OTHERWISE = {
    "pipeline/processes/workers.py",  # sends whatever was raised to the parent process, which raises it again
    "pipeline/watch/tracking.py",  # warns: a run is worth more than its curves
}


def handlers(source):
    return [n for n in ast.walk(ast.parse(source)) if isinstance(n, ast.ExceptHandler)]


def is_broad(handler):
    caught = handler.type.elts if isinstance(handler.type, ast.Tuple) else [handler.type]
    return any(kind is None or (isinstance(kind, ast.Name) and kind.id in BROAD) for kind in caught)


def raises_again(handler):
    return any(isinstance(node, ast.Raise) and node.exc is None for node in ast.walk(handler))


def is_silent(handler):
    return all(isinstance(node, ast.Pass) for node in handler.body)


@pytest.mark.parametrize("file", FILES, ids=lambda file: str(file.relative_to(ROOT)))
def test_no_error_is_caught_without_its_name(file):
    if str(file.relative_to(ROOT)) in TOLD_OTHERWISE:
        return
    lines = [h.lineno for h in handlers(file.read_text()) if is_broad(h) and not raises_again(h)]
    assert lines == [], f"{file.name}: errors of every kind are caught here and not raised again"


@pytest.mark.parametrize("file", FILES, ids=lambda file: str(file.relative_to(ROOT)))
def test_no_error_is_passed_over(file):
    lines = [handler.lineno for handler in handlers(file.read_text()) if is_silent(handler)]
    assert lines == [], f"{file.name}: an error ends in `pass`; say what follows from it"


def test_a_blanket_is_noticed():
    blankets = ("except:", "except Exception:", "except (OSError, Exception) as error:")
    for line in blankets:
        (handler,) = handlers(f"try:\n    f()\n{line}\n    pass\n")
        assert is_broad(handler)
        assert is_silent(handler)
        assert not raises_again(handler)
    (named,) = handlers("try:\n    f()\nexcept OSError:\n    raise\n")
    assert not is_broad(named)
    assert raises_again(named)
