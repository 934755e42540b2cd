"""A result's provenance names settings, code, packages, host and time, in plain values."""

import hashlib
import json
import subprocess
from datetime import datetime
from pathlib import Path

import numpy as np
import pytest

from lsdflow import __version__, provenance


@pytest.fixture
def fresh_version():
    provenance.code_version.cache_clear()
    yield
    provenance.code_version.cache_clear()


def test_hash_of_settings_does_not_depend_on_the_order_of_keys():
    assert provenance.settings_hash({"a": 1, "b": [1, 2]}) == provenance.settings_hash({"b": [1, 2], "a": 1})


@pytest.mark.parametrize("other", [{"a": 2}, {"a": 1, "b": 1}, {"b": 1}, {"a": [1]}, {"a": "1"}, {"a": 1.5}, {}])
def test_hash_of_settings_differs_when_they_do(other):
    assert provenance.settings_hash({"a": 1}) != provenance.settings_hash(other)


def test_hash_of_settings_is_the_same_in_every_process():
    # SHA-256 of the sorted JSON text, not Python's hash, which is salted per process.
    expected = hashlib.sha256(b'{"a": 1}').hexdigest()[:16]
    assert provenance.settings_hash({"a": 1}) == expected


def test_hash_of_a_file_is_that_of_its_bytes(tmp_path):
    path = tmp_path / "file"
    path.write_bytes(b"abc")
    # The SHA-256 of "abc" (FIPS 180-2, appendix B.1).
    assert provenance.file_hash(path) == "ba7816bf8f01cfea"


def test_versions_are_those_of_imported_packages():
    versions = provenance.package_versions()
    assert versions["numpy"] == np.__version__
    assert versions["pytest"] == pytest.__version__


def test_provenance_holds_what_made_a_result():
    before = datetime.now().astimezone().replace(microsecond=0)
    made = provenance.provenance({"iterations": 3}, rule="train", seconds=1.5)
    assert made["settings"] == {"iterations": 3}
    assert made["settings_hash"] == provenance.settings_hash({"iterations": 3})
    assert made["code"].startswith(__version__)
    assert {"python", "packages", "host"} <= set(made)
    assert {"name", "system", "processor", "cores"} <= set(made["host"])
    assert (made["rule"], made["seconds"]) == ("train", 1.5)
    assert datetime.fromisoformat(made["finished"]) >= before


def test_provenance_copies_the_settings():
    settings = {"iterations": 3}
    made = provenance.provenance(settings)
    settings["iterations"] = 4
    assert made["settings"] == {"iterations": 3}


def test_what_is_written_reads_as_it_was_with_paths_as_text(tmp_path):
    path = tmp_path / "new" / "folder" / "train.json"
    made = provenance.provenance({"sigma": [80.0, 80.0, 80.0]}, file=Path("a/b"))
    provenance.write_provenance(path, made)
    assert json.loads(path.read_text()) == {**made, "file": "a/b"}


def test_the_version_names_the_commit_where_there_is_one(fresh_version, monkeypatch):
    answer = subprocess.CompletedProcess([], 0, stdout="0123abc-dirty\n")
    monkeypatch.setattr(subprocess, "run", lambda *args, **options: answer)
    assert provenance.code_version() == f"{__version__} (0123abc-dirty)"


@pytest.mark.parametrize("error", [FileNotFoundError("git"), subprocess.CalledProcessError(128, "git")])
def test_the_version_stands_alone_without_git(fresh_version, monkeypatch, error):
    def fail(*args, **options):
        raise error

    monkeypatch.setattr(subprocess, "run", fail)
    assert provenance.code_version() == __version__
