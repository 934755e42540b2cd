"""Runs that were killed or ran out of disk: what is whole is kept, the rest made again, the numbers stay the same."""

from __future__ import annotations

import json
import os
import re
import resource
import shutil
import signal
import subprocess
import time
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import torch
from workflow_runs import Answer, Project, copy, environment, write_config

from lsdflow.blocks import BlockGrid
from lsdflow.volumes import open_volume

VOLUME = "resources/volumes/cube.zarr"
TARGETS = "results/resume/targets/train-0/chunk-0-of-1.json"
MODEL = "results/resume/models/net/0"
CHECKPOINT = f"{MODEL}/checkpoint.pt"
PREDICTIONS = "results/resume/predictions/net/0"
PREDICTED = [f"{PREDICTIONS}/test/chunk-{chunk}-of-2.json" for chunk in range(2)]
FRAGMENTS = "results/resume/segmentations/net/0/test/fragments/chunk-0-of-1.json"
CONFIG = {
    "experiment": "resume",
    "volumes": {
        "cube": {
            "shape": [64, 32, 32],
            "voxel_size": [10, 10, 10],
            "simulate": {"seed": 1, "objects_per_um3": 400},
        }
    },
    "split": {
        "train": [{"volume": "cube", "roi": {"z": [0, 32]}}],
        "validation": {"volume": "cube", "roi": {"z": [32, 48]}},
        "test": {"volume": "cube", "roi": {"z": [48, 64]}},
    },
    "targets": {"sigma": 40, "block_shape": [16, 16, 32]},
    "networks": {
        "tiny": {
            "architecture": "residual_unet",
            "num_fmaps": 4,
            "fmap_inc_factor": 2,
            "downsample_factors": [[2, 2, 2]],
        }
    },
    "network": "tiny",
    "setups": {"net": {"inputs": ["raw"], "outputs": ["affinities", "lsds"]}},
    "training": {
        "iterations": 40,
        "crop_shape": [16, 16, 16],
        "checkpoint_every": 10,
        "log_every": 7,
        # Before the first saved state, so that what goes on has a validation behind it.
        "validate_every": 8,
        "validation_shape": [16, 16, 16],
        "augment": {"elastic": 0.5},
    },
    "replicates": [0],
    "prediction": {"block_shape": [8, 16, 16], "context": [4, 4, 4], "chunks": 2},
    "segmentation": {"block_shape": [16, 32, 32], "context": [0, 0, 0], "minimum_seed_distance": 5},
    "raw_watershed": {"enabled": False},
}


@pytest.fixture(scope="module")
def config(tmp_path_factory) -> Path:
    return write_config(tmp_path_factory.mktemp("config") / "resume.yaml", CONFIG)


@pytest.fixture(scope="module")
def uninterrupted(project, config, tmp_path_factory) -> Path:
    """The folder of a run that nothing disturbed, as far as the fragments of the test region."""
    folder = tmp_path_factory.mktemp("uninterrupted")
    answer = project.run(folder, config, arguments=[*PREDICTED, FRAGMENTS])
    assert answer.code == 0, answer.text
    return folder


def kill_when(path: Path, project: Project, folder: Path, config: Path, target: str) -> None:
    """Run the workflow until ``path`` exists, then kill all of its processes."""
    command = project.command(folder, [config], target)
    silent = {"stdout": subprocess.DEVNULL, "stderr": subprocess.DEVNULL}
    running = subprocess.Popen(command, env=environment(), cwd=folder, start_new_session=True, **silent)
    try:
        while not path.exists():
            assert running.poll() is None, f"it ended before {path} was there"
            time.sleep(0.002)
    finally:
        if running.poll() is None:
            os.killpg(running.pid, signal.SIGKILL)
        running.wait()
    # A killed Snakemake leaves its lock; its own message names this command.
    assert "--unlock" in project.run(folder, config, arguments=[target]).text
    assert project.run(folder, config, arguments=["--unlock"]).code == 0


@pytest.fixture(scope="module")
def killed_twice(project, config, tmp_path_factory) -> Path:
    """A folder in which a run was killed while it wrote the volume, another one in its training, and one finished."""
    folder = tmp_path_factory.mktemp("killed")
    kill_when(folder / VOLUME / "raw", project, folder, config, CHECKPOINT)
    assert "simulating volume cube" in project.run(folder, config, arguments=["-n", CHECKPOINT]).text
    kill_when(folder / MODEL / "state.pt", project, folder, config, CHECKPOINT)
    assert not (folder / CHECKPOINT).exists()
    answer = project.run(folder, config, arguments=[CHECKPOINT])
    assert answer.code == 0, answer.text
    return folder


def test_volume_that_was_cut_off_is_made_again(killed_twice, uninterrupted):
    for part in ("raw", "labels"):
        made, expected = (open_volume(folder / VOLUME, part).read() for folder in (killed_twice, uninterrupted))
        np.testing.assert_array_equal(made, expected)


def test_killed_training_goes_on_to_the_very_same_numbers(killed_twice, uninterrupted):
    log = (killed_twice / "results/resume/logs/train/net/0.log").read_text()
    begin = int(re.search(r"going on from iteration (\d+)", log)[1])
    assert 0 < begin < 40 and begin % 10 == 0
    made, expected = (
        torch.load(f / CHECKPOINT, weights_only=True, map_location="cpu") for f in (killed_twice, uninterrupted)
    )
    assert made["iteration"] == expected["iteration"]
    made, expected = made["weights"], expected["weights"]
    assert made.keys() == expected.keys()
    assert all(torch.equal(made[name], expected[name]) for name in made)
    for table, times in (("log.csv", ["seconds", "waited"]), ("validation.csv", ["seconds"])):
        made, expected = (pd.read_csv(f / MODEL / table).drop(columns=times) for f in (killed_twice, uninterrupted))
        pd.testing.assert_frame_equal(made, expected, check_exact=True)
    assert list(made["iteration"]) == [8, 16, 24, 32, 40] and made["voi_sum"].notna().all()
    assert not (killed_twice / MODEL / "state.pt").exists()


def test_prediction_does_missing_blocks_only(project, config, uninterrupted, tmp_path):
    folder = copy(uninterrupted, tmp_path / "run")
    store = folder / PREDICTIONS / "test.zarr"
    affinities = open_volume(store, "affinities", mode="r+")
    expected = affinities.read()
    (folder / PREDICTED[0]).unlink()
    (store / "done" / "2.done").unlink()
    block = BlockGrid(affinities.roi, CONFIG["prediction"]["block_shape"])[2]
    affinities.data[(slice(None), *block.slices)] = 0
    answer = project.run(folder, config, arguments=PREDICTED)
    assert answer.code == 0, answer.text
    done = json.loads((folder / PREDICTED[0]).read_text())
    assert (done["blocks"], done["computed"]) == ([0, 1, 2, 3], 1)
    np.testing.assert_array_equal(open_volume(store, "affinities").read(), expected)


def test_targets_do_missing_blocks_only(project, config, uninterrupted, tmp_path):
    folder = copy(uninterrupted, tmp_path / "run")
    store = folder / "results/resume/targets/train-0.zarr"
    lsds = open_volume(store, "lsds", mode="r+")
    expected = lsds.read()
    (folder / TARGETS).unlink()
    (store / "done" / "1.done").unlink()
    block = BlockGrid(lsds.roi, CONFIG["targets"]["block_shape"])[1]
    lsds.data[(slice(None), *block.slices)] = 0
    answer = project.run(folder, config, arguments=[TARGETS])
    assert answer.code == 0, answer.text
    done = json.loads((folder / TARGETS).read_text())
    assert (done["blocks"], done["computed"]) == ([0, 1, 2, 3], 1)
    np.testing.assert_array_equal(open_volume(store, "lsds").read(), expected)
    assert re.search(
        r"targets: 4/4 blocks", (folder / "results/resume/logs/lsd_targets/train-0/0-of-1.log").read_text()
    )


def test_new_network_makes_all_blocks_again(project, config, uninterrupted, tmp_path):
    folder = copy(uninterrupted, tmp_path / "run")
    longer = write_config(tmp_path / "longer.yaml", {"training": {"iterations": 41}})
    answer = project.run(folder, config, longer, arguments=[FRAGMENTS])
    assert answer.code == 0, answer.text
    for path in (*PREDICTED, FRAGMENTS):
        done = json.loads((folder / path).read_text())
        assert done["computed"] == len(done["blocks"]) > 0, path


def limit_files(size: int) -> None:
    """Let this process and those it starts write no larger file; Snakemake copies its rule files, of 20 kB."""
    resource.setrlimit(resource.RLIMIT_FSIZE, (size, size))


def test_disk_full_while_a_volume_is_written_leaves_none(project, config, tmp_path):
    answer = project.run(tmp_path, config, arguments=[VOLUME], before=lambda: limit_files(30_000))
    check_full(answer, "simulate_volume")
    assert not (tmp_path / VOLUME).exists()
    assert project.plan(tmp_path, config, targets=[VOLUME]).rules == {"simulate_volume"}


def test_disk_full_while_training_leaves_no_checkpoint(project, config, uninterrupted, tmp_path):
    folder = copy(uninterrupted, tmp_path / "run")
    shutil.rmtree(folder / MODEL)
    answer = project.run(folder, config, arguments=[CHECKPOINT], before=lambda: limit_files(30_000))
    check_full(answer, "train")
    assert not (folder / CHECKPOINT).exists() and not (folder / MODEL / "state.pt").exists()
    assert project.plan(folder, config, targets=[CHECKPOINT]).rules == {"train"}


def check_full(answer: Answer, rule: str) -> None:
    """Failed because a file could not be written, and said so without a traceback."""
    assert answer.code != 0
    assert f"error in {rule}: a file cannot be written" in answer.text and "disk space" in answer.text, answer.text
    assert "Traceback" not in answer.text
