"""Figures of the house: how many files there are, how long, how entangled. `house.py [CHECKOUT ...]`.

Prints one Markdown table with a column for each checkout; without arguments for this one.
"""

import ast
import sys
from collections import Counter
from pathlib import Path
from statistics import median, quantiles

ROOT = Path(__file__).resolve().parents[2]
SHORT_LINES = 60


def modules_of(root):
    """Every module below src and pipeline by its dotted name."""
    found = {}
    for base, folder in ((root / "src", "melodac"), (root, "pipeline")):
        for file in sorted((base / folder).rglob("*.py")):
            found[".".join(file.relative_to(base).with_suffix("").parts)] = file
    return found


def imports_of(tree, modules):
    """Modules of the house that a module imports, wherever in it the import stands."""
    names = set()
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            names |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and node.module:
            inside = {f"{node.module}.{alias.name}" for alias in node.names}
            names |= inside & modules.keys() or {node.module}
    return names & modules.keys()


def function_lengths(tree):
    """Lines of every function, from its `def` to its end."""
    kinds = (ast.FunctionDef, ast.AsyncFunctionDef)
    for node in ast.walk(tree):
        if isinstance(node, kinds) and node.end_lineno is not None:
            yield node.end_lineno - node.lineno + 1


def measure(root):
    """Every figure of one checkout, by its name."""
    modules = modules_of(root)
    trees = {name: ast.parse(file.read_text()) for name, file in modules.items()}
    lines = {name: len(file.read_text().splitlines()) for name, file in modules.items()}
    arrows = {name: imports_of(tree, modules) - {name} for name, tree in trees.items()}
    importers = Counter(target for targets in arrows.values() for target in targets)
    folders = Counter(file.parent.relative_to(root) for file in modules.values())
    largest, num_files = folders.most_common(1)[0]
    inside = Counter(
        modules[name].parent.relative_to(root)
        for name, targets in arrows.items()
        for target in targets
        if modules[name].parent == modules[target].parent
    )
    files = [name for name in modules if not name.endswith("__init__")]
    lengths = [length for tree in trees.values() for length in function_lengths(tree)]
    return {
        "files of src and pipeline": len(modules),
        "lines": sum(lines.values()),
        "files with one importer": sum(importers[name] == 1 for name in files),
        f"files under {SHORT_LINES} lines": sum(lines[name] < SHORT_LINES for name in files),
        "longest file, lines": max(lines.values()),
        "largest folder": f"{largest}: {num_files}",
        "lines of dvc.yaml": len((root / "dvc.yaml").read_text().splitlines()),
        "function length, median": round(median(lengths)),
        "function length, 90th percentile": round(quantiles(lengths, n=10)[-1]),
        "arrows, all": sum(len(targets) for targets in arrows.values()),
        **{f"arrows inside {folder}": count for folder, count in sorted(inside.items())},
    }


def format_table(columns):
    """A row for each figure that any checkout has."""
    names = dict.fromkeys(name for column in columns.values() for name in column)
    yield f"| figure | {' | '.join(columns)} |"
    yield f"| --- |{' ---: |' * len(columns)}"
    for name in names:
        cells = (str(column.get(name, "")) for column in columns.values())
        yield f"| {name} | {' | '.join(cells)} |"


if __name__ == "__main__":
    roots = [Path(name) for name in sys.argv[1:]] or [ROOT]
    for line in format_table({root.resolve().name: measure(root) for root in roots}):
        sys.stdout.write(line + "\n")
