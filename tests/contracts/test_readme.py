"""The pages tell the truth: their commands, parameters, paths, links and tables are those of the code."""

import re
from collections import Counter
from pathlib import Path

import pytest
from ruamel.yaml import YAML

from melodac.doctor.diagnosis import CHECKS
from melodac.models.config import SIZES
from melodac.tokens.delay import PATTERN_NAMES, build_pattern
from pipeline import paths
from tests.contracts.code_deps import OBSERVERS, build_graph, closure, file_of

ROOT = Path(__file__).resolve().parents[2]
DOCS = sorted(str(page.relative_to(ROOT)) for page in (ROOT / "docs").glob("*.md"))
PAGES = ["README.md", "CONTRIBUTING.md", "CHANGELOG.md", *DOCS]
MAX_LINES = {"README.md": 200, "CONTRIBUTING.md": 135, "CHANGELOG.md": 80}
RECORDS = {"CHANGELOG.md", "docs/log.md"}
"""Dated pages: what they name was true on their day."""
COMMANDS = r"(?<!\w)(melodac|make) ([a-z]+)"
WALKS = {
    "One update, from a window to changed weights": ("train",),
    "One checkpoint, from training to demos": ("train", "evaluate", "demos"),
    "One audio file, from ingest to shard": ("ingest", "normalize", "encode", "train"),
}
"""Title of each walk and the stages it goes through; the last one reads the shard."""


def read(page):
    return (ROOT / page).read_text()


def code_of(page):
    """Commands of a page: lines of its code blocks without comments, and code within its text."""
    blocks = re.findall(r"^```(?:bash|sh)\n(.*?)^```", read(page), re.MULTILINE | re.DOTALL)
    lines = [line.split("#")[0].strip() for block in blocks for line in block.splitlines()]
    prose = re.sub(r"^```.*?^```", "", read(page), flags=re.MULTILINE | re.DOTALL)
    return [line for line in lines if line] + re.findall(r"`([^`\n]+)`", prose)


def used(page, program):
    """First words after a program in the commands of a page."""
    found = [re.match(COMMANDS, command) for command in code_of(page)]
    return {match[2] for match in found if match and match[1] == program}


def links(page):
    return re.findall(r"\]\(([^)#]+)\)", read(page)) + re.findall(r'src="([^"]+)"', read(page))


def walk(title):
    """Files that a walk in CONTRIBUTING.md passes."""
    body = re.search(rf"^## {title}\n(.*?)^## ", read("CONTRIBUTING.md"), re.MULTILINE | re.DOTALL)
    assert body, title
    return re.findall(r"`((?:src|pipeline)/[\w/]+\.py)`", body[1])


@pytest.mark.parametrize("page", PAGES)
def test_every_make_target_exists(page):
    targets = set(re.findall(r"^([a-z]+):", read("Makefile"), re.MULTILINE))
    assert used(page, "make") <= targets


@pytest.mark.parametrize("page", PAGES)
def test_every_melodac_command_exists(page):
    source = read("pipeline/commands/cli.py")
    for name in used(page, "melodac"):
        assert re.search(rf"def {name}\b|name=\"{name}\"|command\(\"{name}\"", source), name


def test_the_pages_show_commands():
    assert {"repro", "test"} <= used("README.md", "make")
    assert {"run", "doctor", "generate", "verify"} <= used("README.md", "melodac")
    assert {"scan", "import", "export"} <= used("docs/formats.md", "melodac")


@pytest.mark.parametrize("page", [page for page in PAGES if page not in RECORDS])
def test_every_override_names_a_known_key(page):
    params = YAML(typ="safe").load(read("params.yaml"))
    for section, key in re.findall(r"-S '?([a-z]+)\.([a-z_]+)=", read(page)):
        assert key in params[section], f"{section}.{key}"


@pytest.mark.parametrize("page", [page for page in PAGES if page not in RECORDS])
def test_every_parameter_in_the_text_is_a_known_one(page):
    params = YAML(typ="safe").load(read("params.yaml"))
    for name in re.findall(r"`([a-z]+(?:\.[a-z_0-9]+)+)(?:=[^`]*|\.\*|: [^`]*)?`", read(page)):
        section, *keys = name.split(".")
        value = params.get(section)
        for key in keys if value is not None else []:
            if key in {"py", "yaml", "json", "csv", "md"}:
                break
            assert key in value, name
            value = value[key]


@pytest.mark.parametrize("page", PAGES)
def test_every_link_to_a_file_leads_to_one(page):
    for target in links(page):
        if not target.startswith("http"):
            assert ((ROOT / page).parent / target).exists(), target


@pytest.mark.parametrize("page", DOCS)
def test_readme_links_every_page_once(page):
    assert Counter(links("README.md"))[page] == 1


@pytest.mark.parametrize("page", MAX_LINES)
def test_page_is_short(page):
    assert len(read(page).splitlines()) <= MAX_LINES[page]


def test_ci_runs_the_readme_s_test_command():
    assert "make test" in read(".ci/run")
    assert "test" in used("README.md", "make")


@pytest.mark.parametrize("page", [page for page in PAGES if page not in RECORDS])
def test_every_path_in_the_text_exists(page):
    outputs = {str(value) for value in vars(paths).values() if isinstance(value, Path)}
    for name in re.findall(r"`((?:src|pipeline|tests|docs|data|\.ci)/[\w./-]*)`", read(page)):
        is_output = name in outputs or any(out.startswith(name) for out in outputs)
        assert (ROOT / name).exists() or is_output or "index.html" in name, name


def test_every_file_that_contributing_names_exists():
    """Also by its name alone, as files of one folder are named after the first of them."""
    names = {
        file.name for folder in ("src", "pipeline", "tests") for file in (ROOT / folder).rglob("*")
    }
    for name in re.findall(r"`([\w.-]+\.(?:py|yaml|toml|md|txt|html))`", read("CONTRIBUTING.md")):
        assert (ROOT / name).is_file() or name in names, name


@pytest.mark.parametrize("page", [page for page in PAGES if page not in RECORDS])
def test_every_program_that_is_started_exists(page):
    for command in code_of(page):
        for name in re.findall(r"\b(?:pipeline|tests|src)/[\w/]+\.py\b", command):
            assert (ROOT / name).is_file(), name


@pytest.fixture(scope="module")
def graph():
    return build_graph()


@pytest.mark.parametrize("title", WALKS)
def test_every_file_of_a_walk_is_code_of_its_stages(graph, title):
    watching = {file_of(module) for module in OBSERVERS}
    reached = set().union(*(closure(graph, stage) for stage in WALKS[title]))
    files = walk(title)
    assert len(files) > 10
    assert [file for file in files if file not in reached | watching] == []


def test_the_tree_is_the_tree():
    tree = re.search(
        r"^## Where things live\n(.*?)^Imports", read("CONTRIBUTING.md"), re.MULTILINE | re.DOTALL
    )
    assert tree
    for package in (*(ROOT / "src/melodac").iterdir(), *(ROOT / "pipeline").iterdir()):
        if (package / "__init__.py").is_file():
            assert f"{package.name}/" in tree[1], package.name


def test_the_table_of_delay_patterns_is_the_code_s():
    rows = dict(
        re.findall(
            r"^\| `(\w+)` \| ([\d ]+|one code per step.*?) \|$",
            read("docs/training.md"),
            re.MULTILINE,
        )
    )
    assert tuple(rows) == PATTERN_NAMES
    for name, delays in rows.items():
        if not build_pattern(name).is_flat:
            assert delays == " ".join(map(str, build_pattern(name).delays))


def test_the_table_of_sizes_is_the_code_s():
    rows = re.findall(
        r"^\| `(\w+)` \| (\d+) \| (\d+) \| (\d+) / (\d+) \| (\d+) \|",
        read("docs/training.md"),
        re.MULTILINE,
    )
    assert {name: tuple(map(int, sizes)) for name, *sizes in rows} == {
        name: shape[:5] for name, shape in SIZES.items()
    }


@pytest.mark.parametrize("page", ["README.md", "docs/training.md"])
def test_the_checks_of_the_doctor_are_counted(page):
    assert re.findall(r"(\d+) checks", read(page)) == [str(len(CHECKS))]


def test_pre_commit_runs_what_make_test_runs_before_pytest():
    recipe = re.search(r"^test:.*\n((?:\t.*\n)+)", read("Makefile"), re.MULTILINE)
    assert recipe
    commands = [line.strip().replace("$(BIN)", ".venv/bin") for line in recipe[1].splitlines()]
    assert commands.pop() == ".venv/bin/python -m pytest"
    config = YAML(typ="safe").load(read(".pre-commit-config.yaml"))
    assert [repo["repo"] for repo in config["repos"]] == ["local"]
    hooks = [hook["entry"].removeprefix("env ") for hook in config["repos"][0]["hooks"]]
    assert hooks == commands
