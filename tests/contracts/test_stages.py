"""dvc.yaml, params.yaml, the typed params, the paths and the code tell one story."""

from pathlib import Path

import pytest
from ruamel.yaml import YAML

from pipeline import paths
from pipeline.params import Params, load_params
from pipeline.run import STAGES
from tests.contracts.code_deps import ROOT, build_graph, closure, fold, is_code, unfold

DVC = YAML(typ="safe").load((ROOT / "dvc.yaml").read_text())


@pytest.fixture(scope="module")
def graph():
    return build_graph()


def declared(stage, key):
    entries = DVC["stages"][stage].get(key, [])
    return [next(iter(entry)) if isinstance(entry, dict) else entry for entry in entries]


def test_stage_order_is_the_runner_s():
    assert tuple(DVC["stages"]) == STAGES


@pytest.mark.parametrize("stage", STAGES)
def test_stage_declares_exactly_the_code_it_imports(graph, stage):
    code = unfold(declared(stage, "deps"))
    needed = closure(graph, stage)
    assert sorted(needed - code) == [], "imported, not declared"
    assert sorted(code - needed) == [], "declared, not imported"
    assert sorted(filter(is_code, declared(stage, "deps"))) == sorted(fold(needed))


@pytest.mark.parametrize("stage", STAGES)
def test_stage_is_started_by_the_shim(stage):
    assert DVC["stages"][stage]["cmd"] == f"python pipeline/run.py {stage}"


@pytest.mark.parametrize("stage", STAGES)
def test_stage_declares_only_known_params(stage):
    params = load_params(ROOT / "params.yaml")
    for key in declared(stage, "params"):
        value = params
        for part in key.split("."):
            value = getattr(value, part)


def test_no_stage_depends_on_runtime():
    assert not [s for s in STAGES if any(k.startswith("runtime") for k in declared(s, "params"))]


def test_every_other_section_is_some_stage_s():
    sections = {key.split(".")[0] for stage in STAGES for key in declared(stage, "params")}
    assert sections == set(Params.model_fields) - {"runtime"}


def test_every_output_path_is_in_paths():
    known = {str(value) for value in vars(paths).values() if isinstance(value, Path)}
    for stage in STAGES:
        for out in declared(stage, "outs"):
            assert out in known, f"{stage} writes {out}, paths.py does not know it"


@pytest.mark.parametrize("stage", STAGES)
def test_metrics_are_the_stage_s_own(stage):
    assert declared(stage, "metrics") == [str(paths.metrics_of(stage))]


@pytest.mark.parametrize("stage", STAGES)
def test_what_a_stage_reads_an_earlier_one_wrote(stage):
    earlier = STAGES[: STAGES.index(stage)]
    written = {out for other in earlier for out in declared(other, "outs")}
    for dep in declared(stage, "deps"):
        if dep.startswith("data/"):
            assert any(Path(dep) == Path(o) or Path(o) in Path(dep).parents for o in written), dep
