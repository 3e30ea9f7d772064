"""The code each stage imports, and a command that writes it into dvc.yaml: `make deps`.

DVC does not follow imports, so a stage whose list forgets a module would serve stale results. A
folder stands for its modules where a stage imports all of them.
"""

import io
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


def fold(files):
    """The same files, with a folder in place of all its modules wherever none is missing."""
    named = set()
    for file in sorted(files):
        whole = [folder for folder in folders_of(file) if modules_in(folder) <= files]
        named.add(f"{whole[-1]}/" if whole else file)
    return {name.rstrip("/") for name in named}


def folders_of(file):
    """Folders that hold a file, from its own up to the packages of the library."""
    parents = [str(parent) for parent in Path(file).parents]
    return [folder for folder in parents if folder not in {".", "src", "src/melodac", "pipeline"}]


def modules_in(folder):
    """Every module below a folder; what an `__init__.py` says changes nothing."""
    return {
        str(file.relative_to(ROOT))
        for file in (ROOT / folder).rglob("*.py")
        if file.name != "__init__.py"
    }


def is_code(dep):
    """Whether a dependency of a stage is a module or a folder of modules."""
    return dep.startswith(("src/", "pipeline/")) and (dep.endswith(".py") or bool(modules_in(dep)))


def unfold(deps):
    """The modules that dependencies stand for."""
    code = [dep for dep in deps if is_code(dep)]
    return {file for dep in code for file in ([dep] if dep.endswith(".py") else modules_in(dep))}


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
        data = [dep for dep in stage["deps"] if not is_code(dep)]
        stage["deps"] = data + sorted(fold(closure(graph, name)))
    text = io.StringIO()
    yaml.dump(dvc, text)
    path.write_text("".join(f"{line.rstrip()}\n" for line in text.getvalue().splitlines()))


if __name__ == "__main__":
    write_deps()
