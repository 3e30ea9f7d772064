"""The code each stage imports, and a command that writes it into dvc.yaml: `make deps`.

DVC does not follow imports, so a stage whose list forgets a module would serve stale results.
"""

from pathlib import Path

import grimp
from ruamel.yaml import YAML

ROOT = Path(__file__).resolve().parents[2]

# What only watches or names a run, and what only carries values that DVC compares by itself
# (params by `params:`, paths by `outs:`): a change here must not retrain a model.
OBSERVERS = {
    "pipeline.dag", "pipeline.identity", "pipeline.logs", "pipeline.params", "pipeline.paths",
    "pipeline.run", "pipeline.watch.bridge", "pipeline.watch.tracking",
    "melodac.config", "melodac.errors",
}  # fmt: skip


def build_graph():
    return grimp.build_graph("pipeline", "melodac", cache_dir=None)


def closure(graph, stage):
    """Files of every module the stage reaches; what only an observer reaches is not its own."""
    reached, waiting = set(), [f"pipeline.stages.{stage}"]
    while waiting:
        module = waiting.pop()
        if module not in reached | OBSERVERS:
            reached.add(module)
            waiting.extend(graph.find_modules_directly_imported_by(module))
    return {file_of(module) for module in reached if not is_package(module)}


def file_of(module):
    folder = "src/" if module.startswith("melodac") else ""
    return folder + module.replace(".", "/") + ".py"


def is_package(module):
    return (ROOT / file_of(module)).with_suffix("").is_dir()


def write_deps(path=ROOT / "dvc.yaml"):
    yaml = YAML()
    yaml.width = 120
    dvc = yaml.load(path.read_text())
    graph = build_graph()
    for name, stage in dvc["stages"].items():
        data = [dep for dep in stage["deps"] if not dep.endswith(".py")]
        stage["deps"] = data + sorted(closure(graph, name))
    with path.open("w") as file:
        yaml.dump(dvc, file)


if __name__ == "__main__":
    write_deps()
