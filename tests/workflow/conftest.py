"""A copy of the workflow, and a whole run of it on tiny data."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from workflow_runs import MASKED, PREDICTED, REPOSITORY, TINY, Project, copy, masked_cube, write_config


@pytest.fixture(scope="session")
def project(tmp_path_factory) -> Project:
    """A copy of the workflow that tests may edit, and must restore."""
    root = tmp_path_factory.mktemp("project")
    for name in ("workflow", "envs"):
        copy(REPOSITORY / name, root / name)
    return Project(root)


@pytest.fixture(scope="session")
def finished(project, tmp_path_factory) -> Path:
    """The folder in which the tiny experiment ran to its end; not to be changed."""
    folder = tmp_path_factory.mktemp("finished")
    answer = project.run(folder, TINY)
    assert answer.code == 0, answer.text
    return folder


@pytest.fixture(scope="session")
def masked(project, tmp_path_factory) -> Path:
    """The folder of a run up to the predictions of a network, on a volume with a mask; not to be changed."""
    folder = tmp_path_factory.mktemp("masked")
    np.savez(folder / "cube.npz", **masked_cube())
    answer = project.run(folder, write_config(folder / "config.yaml", MASKED), arguments=[PREDICTED])
    assert answer.code == 0, answer.text
    return folder
