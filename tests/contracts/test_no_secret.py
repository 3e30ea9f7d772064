"""What is tracked is source: no key, no archive, no program state that executes when it is read."""

import re
import subprocess
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
ARCHIVES = {".zip", ".tar", ".gz", ".tgz", ".xz", ".7z", ".rar", ".pt", ".pth", ".pkl", ".ckpt"}
KEYS = {
    "private key": rb"-----BEGIN [A-Z ]*PRIVATE KEY-----",
    "GitHub": rb"\bgh[pousr]_[A-Za-z0-9]{36}",
    "Hugging Face": rb"\bhf_[A-Za-z0-9]{30,}",
    "AWS": rb"\bAKIA[0-9A-Z]{16}\b",
    "Slack": rb"\bxox[abprs]-[0-9A-Za-z-]{10,}",
    "OpenAI": rb"\bsk-[A-Za-z0-9_-]{20,}",
    "W&B": rb"(?i)wandb[\w ]{0,20}(?:key|login)\W{1,5}[0-9a-f]{40}\b",
    "address with a password": rb"https?://[^/\s:@]+:[^/\s:@]+@(?![\w.-]*\.example\b)",
    "assignment": rb"(?i)\b(?:api_key|apikey|secret|password|token)\s*[:=]\s*[\"'][A-Za-z0-9+/_-]{24,}[\"']",
}
"""Shapes of keys that live services hand out; no host ends in `.example` (RFC 2606)."""


@pytest.fixture(scope="module")
def tracked():
    listed = subprocess.run(["git", "ls-files", "-z"], cwd=ROOT, capture_output=True, check=True)
    names = [name for name in listed.stdout.decode().split("\0") if name]
    return [ROOT / name for name in names if (ROOT / name).is_file()]


def keys_in(content):
    if b"\0" in content[:4096]:
        return []  # sound, weights: no text
    return [name for name, shape in KEYS.items() if re.search(shape, content)]


def test_nothing_like_a_key_is_tracked(tracked):
    found = {
        str(file.relative_to(ROOT)): keys
        for file in tracked
        if file != Path(__file__) and (keys := keys_in(file.read_bytes()))
    }
    assert found == {}


def test_no_archive_is_tracked(tracked):
    assert [file.name for file in tracked if file.suffix in ARCHIVES] == []


def test_a_key_is_noticed():
    examples = {
        "GitHub": b"ghp_" + b"a1" * 18,
        "Hugging Face": b"hf_" + b"a" * 34,
        "AWS": b"AKIA" + b"A" * 16,
        "OpenAI": b"sk-" + b"a" * 40,
        "W&B": b"WANDB_API_KEY=" + b"a" * 40,
        "private key": b"-----BEGIN RSA PRIVATE KEY-----",
        "address with a password": b"https://user:word@host/",
        "assignment": b'password = "' + b"a" * 30 + b'"',
        "Slack": b"xoxb-" + b"1" * 12,
    }
    assert set(examples) == set(KEYS)
    for name, example in examples.items():
        assert name in keys_in(example), name
