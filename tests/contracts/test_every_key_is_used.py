"""No key of params.yaml is silently changed, and none is written for nobody to read."""

import ast
from pathlib import Path

import pytest
from ruamel.yaml import YAML

from melodac.config import Section
from pipeline.params import Params, load_params

ROOT = Path(__file__).resolve().parents[2]
DEFINITIONS = {"pipeline/params.py", "src/melodac/training/config.py"}


def keys_of(section):
    for name, field in section.model_fields.items():
        if isinstance(field.annotation, type) and issubclass(field.annotation, Section):
            yield from keys_of(field.annotation)
        else:
            yield f"{section.__name__}.{name}"


def attributes_read():
    """Every `.name` that some file other than the definitions loads."""
    names = set()
    for folder in ("src", "pipeline"):
        for file in (ROOT / folder).rglob("*.py"):
            if str(file.relative_to(ROOT)) not in DEFINITIONS:
                names |= {
                    node.attr
                    for node in ast.walk(ast.parse(file.read_text()))
                    if isinstance(node, ast.Attribute) and isinstance(node.ctx, ast.Load)
                }
    return names


@pytest.fixture(scope="module")
def read():
    return attributes_read()


@pytest.mark.parametrize("key", sorted(set(keys_of(Params))))
def test_every_key_is_read_by_code(read, key):
    assert key.split(".")[-1] in read, f"{key} is in params.yaml and no code reads it"


def test_a_value_is_used_as_it_is_written(tmp_path):
    """Also one that an earlier system rounded: 601 frames, no multiple of anything."""
    text = (ROOT / "params.yaml").read_text()
    assert "window_frames: 520       #" in text
    path = tmp_path / "params.yaml"
    path.write_text(text.replace("window_frames: 520       #", "window_frames: 601       #"))
    written = YAML(typ="safe").load(path.read_text())
    assert written["index"]["window_frames"] == 601
    assert load_params(path).model_dump(mode="json") == written
