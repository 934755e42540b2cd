"""What all scripts share: names of what a job starts from, and how a job ends that cannot go on."""

from __future__ import annotations

import errno
import json
import os
from types import SimpleNamespace

import pytest

from lsdflow.errors import UserError
from lsdflow_job import job, params_hash, result_folder


class Named(dict):
    """As Snakemake's own lists of wildcards: iterates over the values, and has items."""

    def __iter__(self):
        return iter(self.values())


@pytest.fixture
def snakemake(tmp_path) -> SimpleNamespace:
    """What Snakemake hands to a script, as far as it matters."""
    return SimpleNamespace(
        rule="train",
        params={"seed": 3},
        wildcards=Named({"setup": "lsd", "region": "test"}),
        input=[],
        output=[str(tmp_path / "lsd" / "result.csv")],
        log=[str(tmp_path / "job.log")],
        threads=1,
    )


def test_job_logs_and_writes_what_made_its_result(snakemake, tmp_path, capsys):
    with job(snakemake) as notes:
        print("working")
        notes["device"] = "cpu"
    assert (tmp_path / "job.log").read_text() == "working\n"
    assert capsys.readouterr().out == ""
    content = json.loads((tmp_path / "lsd" / "provenance" / "train-test.json").read_text())
    assert content["settings"] == {"seed": 3} and content["device"] == "cpu" and content["seconds"] >= 0


@pytest.mark.parametrize(
    ("error", "message"),
    [
        (UserError("labels must be integers"), "labels must be integers"),
        (OSError(errno.ENOSPC, "No space left on device"), "No space left on device"),
        (RuntimeError("[enforce fail at inline_container.cc:672] . unexpected pos 64 vs 0"), "free some disk space"),
    ],
)
def test_mistake_or_full_disk_ends_with_one_message(snakemake, tmp_path, capsys, error, message):
    with pytest.raises(SystemExit) as ended, job(snakemake):
        raise error
    assert ended.value.code == 1
    shown = capsys.readouterr().err
    assert shown.count("error in train: ") == 1 and message in shown
    assert message in (tmp_path / "job.log").read_text()
    assert "Traceback" not in shown + (tmp_path / "job.log").read_text()
    assert not (tmp_path / "lsd").exists()


def test_fault_of_the_program_keeps_its_traceback(snakemake, tmp_path):
    with pytest.raises(ZeroDivisionError), job(snakemake):
        1 / 0  # noqa: B018
    assert "ZeroDivisionError" in (tmp_path / "job.log").read_text()


def test_hash_of_params_follows_settings_files_and_folders(snakemake, tmp_path):
    file, folder = tmp_path / "file", tmp_path / "store.zarr"
    file.write_text("a")
    (folder / "0").mkdir(parents=True)
    (folder / "0" / "c").write_text("voxels")
    paths = [str(file), str(folder)]
    seen = [params_hash(snakemake, *paths)]
    assert params_hash(snakemake, *paths) == seen[0]

    snakemake.params["seed"] = 4
    seen.append(params_hash(snakemake, *paths))
    file.write_text("b")
    seen.append(params_hash(snakemake, *paths))
    os.utime(folder / "0" / "c", (1, 1))
    seen.append(params_hash(snakemake, *paths))
    (folder / "0" / "d").write_text("")
    seen.append(params_hash(snakemake, *paths))
    assert len(set(seen)) == len(seen)


@pytest.mark.parametrize(
    ("output", "folder"),
    [
        ("a/b/c.csv", "a/b"),
        ("a/test.zarr", "a"),
        ("a/test.zarr/zarr.json", "a"),
        ("a/test/chunk-0-of-2.json", "a/test"),
    ],
)
def test_folder_of_a_result_lies_outside_of_stores(output, folder):
    assert str(result_folder(output)) == folder
