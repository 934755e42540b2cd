"""Traced skeletons that a configuration names take the place of those made of the labels."""

from __future__ import annotations

import numpy as np
import pytest
from workflow_runs import TINY, write_config

from lsdflow.metrics.skeletons import load_skeletons, skeleton_arrays

SKELETONS = "results/tiny/skeletons/test.npz"


@pytest.fixture
def config(tmp_path):
    """Two neurites along z, in voxels, of which one ends before the test region (z 24 to 56)."""
    rows = [(z + 100 * n, z, 10 + n, 20.5, n) for n, length in ((1, 50), (2, 20)) for z in range(0, length, 5)]
    lines = ["id,z,y,x,skeleton", *(",".join(map(str, row)) for row in rows)]
    (tmp_path / "nodes.csv").write_text("\n".join(lines) + "\n")
    edges = [(a[0], b[0]) for a, b in zip(rows[:-1], rows[1:], strict=True) if a[4] == b[4]]
    (tmp_path / "edges.csv").write_text("\n".join(["u,v", *(f"{u},{v}" for u, v in edges)]) + "\n")
    source = {"path": str(tmp_path / "nodes.csv"), "in_voxels": True}
    return write_config(tmp_path / "traced.yaml", {"volumes": {"tiny_test": {"skeletons": source}}})


def test_traced_skeletons_are_cut_to_the_region(project, config, tmp_path):
    answer = project.run(tmp_path, TINY, config, arguments=[SKELETONS])
    assert answer.code == 0, answer.text
    skeletons = skeleton_arrays(load_skeletons(tmp_path / SKELETONS))
    np.testing.assert_array_equal(skeletons.positions[:, 0], np.arange(25, 50, 5) * 10.0)
    assert set(skeletons.labels) == {1}


def test_skeletons_beside_the_volume_are_refused(project, config, tmp_path):
    path = tmp_path / "nodes.csv"
    # Micrometres for voxels, say.
    path.write_text(path.read_text().replace(",20.5,", ",90020.5,"))
    answer = project.run(tmp_path, TINY, config, arguments=[SKELETONS])
    assert answer.code != 0 and "Traceback" not in answer.text
    assert "error in skeletons: no node of the skeletons lies in the volume" in answer.text


def test_skeletons_that_are_not_there_are_refused_before_work(project, tmp_path):
    config = write_config(tmp_path / "c.yaml", {"volumes": {"tiny_test": {"skeletons": {"path": "missing.swc"}}}})
    answer = project.run(tmp_path, TINY, config)
    assert answer.code != 0
    assert "volumes.tiny_test.skeletons: there is no file 'missing.swc'" in answer.text.replace(".path", "")
