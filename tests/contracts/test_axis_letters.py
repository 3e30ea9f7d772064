"""Every shape in a signature is spelled with the letters of the legend, one meaning each."""

import ast
import re
from pathlib import Path

import melodac

ROOT = Path(__file__).resolve().parents[2]
ARRAY_TYPES = {"Float", "Float32", "Float64", "Int", "Int64", "UInt16", "Bool", "Shaped", "Complex"}
LEGEND = set(re.findall(r"(?:^|\s{2,})([A-Z]) [a-z]", melodac.__doc__ or ""))


def shapes_of(source):
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.Subscript) and isinstance(node.value, ast.Name):
            is_shape = node.value.id in ARRAY_TYPES and isinstance(node.slice, ast.Tuple)
            if is_shape and isinstance(node.slice.elts[-1], ast.Constant):
                yield node.slice.elts[-1].value


def strangers(shape):
    letters = re.findall(r"[A-Za-z_]\w*", shape)
    return [name for name in letters if name not in LEGEND | {"_"}]  # _ is any axis


def test_the_legend_is_read():
    assert {"B", "K", "T", "S", "V", "U"} <= LEGEND


def test_a_stranger_is_caught():
    source = 'def f(x: Float[Tensor, "B Q T"]) -> None: ...'
    assert [strangers(shape) for shape in shapes_of(source)] == [["Q"]]


def test_every_axis_letter_is_in_the_legend():
    for file in sorted((ROOT / "src").rglob("*.py")):
        for shape in shapes_of(file.read_text()):
            assert not strangers(shape), f"{file.name}: {shape!r} uses {strangers(shape)}"


def test_the_notation_page_prints_the_same_legend():
    page = (ROOT / "docs" / "notation.md").read_text()
    rows = dict(re.findall(r"\| `([A-Z])` \| ([^|]+?) (?=\|)", page))
    assert set(rows) == LEGEND
    for letter, meaning in rows.items():
        assert f"{letter} {meaning}" in (melodac.__doc__ or "")
