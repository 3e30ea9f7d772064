"""Fingerprints change exactly with what they stand for."""

import os

from pipeline.identity import code_version, fingerprint_code, fingerprint_inputs


def test_inputs_are_told_apart_by_name_size_and_content(tmp_path):
    (tmp_path / "a").write_text("one")
    seen = {fingerprint_inputs([tmp_path])}
    (tmp_path / "a").write_text("two")
    seen.add(fingerprint_inputs([tmp_path]))
    (tmp_path / "a").rename(tmp_path / "b")
    seen.add(fingerprint_inputs([tmp_path]))
    assert len(seen) == 3


def test_the_same_inputs_have_the_same_fingerprint(tmp_path):
    (tmp_path / "a").write_text("one")
    assert fingerprint_inputs([tmp_path]) == fingerprint_inputs([tmp_path])


def test_a_name_need_not_be_utf8(tmp_path):
    (tmp_path / os.fsdecode(b"caf\xe9.wav")).write_text("one")
    assert fingerprint_inputs([tmp_path]) != fingerprint_inputs([tmp_path / "nothing"])


def test_a_missing_input_is_no_error(tmp_path):
    assert fingerprint_inputs([tmp_path / "nothing"])


def test_code_fingerprint_depends_on_the_packages_named():
    assert fingerprint_code(["tokens"]) != fingerprint_code(["tokens", "training"])
    assert fingerprint_code(["training", "tokens"]) == fingerprint_code(["tokens", "training"])


def test_code_version_names_the_release():
    assert code_version().startswith("0.")
