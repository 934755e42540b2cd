"""A training from files, in one process and in two that share each batch."""

import json
import os
import signal
import subprocess
import sys
import time
from dataclasses import asdict, replace
from pathlib import Path

import numpy as np
import pytest
import torch

from lsdflow.errors import UserError
from lsdflow.targets import BlockTargets
from lsdflow.training_job import TrainingJob, run
from lsdflow.volumes import Roi, Volume, write_volume

WORKFLOW = Path(__file__).parents[2] / "workflow"
NETWORK = {"architecture": "residual_unet", "num_fmaps": 4, "fmap_inc_factor": 2, "downsample_factors": [[2, 2, 2]]}
ENTRY = {
    "inputs": ["raw"],
    "outputs": ["affinities", "lsds"],
    "network": NETWORK,
    "distances": [1],
    "losses": {"affinities": "mse", "lsds": "mse"},
    "loss_weights": {"affinities": 1.0, "lsds": 1.0},
    "malis": {"after": 1, "shape": [64, 64, 64], "relabel": True},
}
TRAINING = {
    "iterations": 4,
    "crop_shape": [8, 8, 8],
    "batch_size": 2,
    "accumulate": 1,
    "processes": 1,
    "learning_rate": 1e-2,
    "betas": [0.9, 0.99],
    "schedule": "constant",
    "warmup": 0,
    "clip": 1.0,
    "average": 0.5,
    "precision": "auto",
    "compile": False,
    "min_labelled": 0.5,
    "checkpoint_every": 100,
    "log_every": 2,
    "validate_every": 2,
    "validation_shape": [8, 16, 16],
    "snapshot_every": 0,
    "augment": {"elastic": 0.5, "jitter": [1, 1, 1], "control_point_spacing": [8, 8, 8]},
}


@pytest.fixture(scope="module")
def files(tmp_path_factory):
    """A small volume of four columns, and its targets."""
    folder = tmp_path_factory.mktemp("files")
    labels = np.ones((20, 24, 24), np.uint64)
    labels[:, 12:] += 1
    labels[:, :, 12:] += 2
    raw = np.where(np.diff(labels, axis=1, append=9) + np.diff(labels, axis=2, append=9), 40, 200).astype(np.uint8)
    whole = Volume(labels, (10.0,) * 3)
    grown, lsds = BlockTargets(whole, whole.roi, 30.0).compute(Roi.of_shape(labels.shape))
    write_volume(folder / "volume.zarr", "raw", Volume(raw, (10.0,) * 3))
    write_volume(folder / "volume.zarr", "labels", whole)
    write_volume(folder / "targets.zarr", "labels", Volume(grown, (10.0,) * 3))
    write_volume(folder / "targets.zarr", "lsds", Volume(lsds, (10.0,) * 3))
    return folder


def job_in(files, folder, **training):
    volume, box = str(files / "volume.zarr"), [[0, 0, 0], [20, 24, 24]]
    return TrainingJob(
        setup="mtlsd",
        setups={"mtlsd": ENTRY},
        checkpoints={},
        context=[2, 2, 2],
        regions=[{"volume": volume, "targets": str(files / "targets.zarr"), "roi": box, "probability": 1.0}],
        validation={"volume": volume, "roi": box, "in_sections": False},
        targets={"sigma": 30.0, "downsample": 1, "steps": 1, "only_xy": False},
        training={**TRAINING, **training},
        seed=3,
        folder=str(folder),
        fingerprint="a",
        provenance={},
        gpus=0,
        threads=2,
    )


def weights_in(folder):
    return torch.load(folder / "checkpoint.pt", weights_only=True)["weights"]


def assert_close(folder, other):
    weights, expected = weights_in(folder), weights_in(other)
    for name, value in expected.items():
        torch.testing.assert_close(weights[name], value, rtol=1e-3, atol=1e-5)


def test_two_processes_learn_what_one_does(files, tmp_path):
    assert run(job_in(files, tmp_path / "one")) == "cpu"
    assert run(job_in(files, tmp_path / "two", processes=2)) == "2 processes"
    assert_close(tmp_path / "two", tmp_path / "one")
    assert sorted(path.name for path in (tmp_path / "two").iterdir()) == sorted(
        path.name for path in (tmp_path / "one").iterdir()
    )


def test_two_processes_stop_at_a_signal_and_go_on_from_there(files, tmp_path):
    many = {"iterations": 60, "processes": 2, "validate_every": 0, "log_every": 5}
    run(job_in(files, tmp_path / "whole", **many))
    path = tmp_path / "begin.json"
    path.write_text(json.dumps(asdict(job_in(files, tmp_path / "cut", **many))))
    code = (
        "import json, sys; from lsdflow.training_job import *;run(TrainingJob(**json.loads(open(sys.argv[1]).read())))"
    )
    environment = {**os.environ, "PYTHONPATH": str(WORKFLOW)}
    started = subprocess.Popen([sys.executable, "-c", code, str(path)], env=environment, stderr=subprocess.PIPE)
    log = tmp_path / "cut/log.csv"
    while started.poll() is None and not log.exists():
        time.sleep(0.02)
    started.send_signal(signal.SIGTERM)
    _, errors = started.communicate()
    assert started.returncode != 0, "the training ended before the signal"
    assert b"stopped by a signal at iteration" in errors
    done = torch.load(tmp_path / "cut/state.pt", weights_only=True)["done"]
    assert 5 <= done < 60
    run(job_in(files, tmp_path / "cut", **many))
    assert_close(tmp_path / "cut", tmp_path / "whole")


def test_what_is_wrong_in_a_process_is_an_error_of_the_job(files, tmp_path):
    with pytest.raises(UserError, match="in 2 processes ended with code"):
        run(job_in(files, tmp_path, processes=2, crop_shape=[40, 40, 40]))


def test_fewer_gpus_than_processes_are_refused(files, tmp_path):
    with pytest.raises(UserError, match="training.processes is 2, but the job was granted 1"):
        run(replace(job_in(files, tmp_path, processes=2), gpus=1))


def test_piece_without_labels_cannot_validate(files, tmp_path):
    folder = tmp_path / "blank.zarr"
    write_volume(folder, "raw", Volume(np.zeros((20, 24, 24), np.uint8), (10.0,) * 3))
    write_volume(folder, "labels", Volume(np.zeros((20, 24, 24), np.uint64), (10.0,) * 3))
    job = job_in(files, tmp_path / "out")
    job = replace(job, validation={**job.validation, "volume": str(folder)})
    with pytest.raises(UserError, match="centre of split.validation, .* has no label: take a larger"):
        run(job)
