"""The README tells the truth: its commands exist, its links lead somewhere."""

import re
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
README = (ROOT / "README.md").read_text()
CODE_BLOCKS = re.findall(r"^```(?:bash|sh)\n(.*?)^```", README, re.MULTILINE | re.DOTALL)
COMMANDS = [line.split("#")[0].strip() for block in CODE_BLOCKS for line in block.splitlines()]


def test_every_make_target_exists():
    targets = set(re.findall(r"^([a-z]+):", (ROOT / "Makefile").read_text(), re.MULTILINE))
    used = {command.split()[1] for command in COMMANDS if command.startswith("make ")}
    assert used
    assert used <= targets


def test_every_melodac_command_exists():
    source = (ROOT / "pipeline" / "commands" / "cli.py").read_text()
    used = {command.split()[1] for command in COMMANDS if command.startswith("melodac ")}
    assert used
    for name in used:
        assert re.search(rf"def {name}\b|name=\"{name}\"|command\(\"{name}\"", source), name


def test_every_override_names_a_known_key():
    params = (ROOT / "params.yaml").read_text()
    for section, key in re.findall(r"-S '?([a-z]+)\.([a-z_]+)=", README):
        body = re.search(rf"^{section}:.*?(?=^\w|\Z)", params, re.MULTILINE | re.DOTALL)
        assert body, section
        assert re.search(rf"^  {key}:", body.group(), re.MULTILINE), f"{section}.{key}"


def test_every_link_to_a_file_leads_to_one():
    for target in re.findall(r"\]\(([^)#]+)\)", README) + re.findall(r'src="([^"]+)"', README):
        if not target.startswith("http"):
            assert (ROOT / target).exists(), target


def test_ci_runs_the_readme_s_test_command():
    assert "make test" in (ROOT / ".ci" / "run").read_text()
    assert "make test" in COMMANDS
