"""What lies outside the mask of a volume has no label, and is not predicted."""

from __future__ import annotations

import json

import numpy as np
from workflow_runs import PREDICTED, masked_cube

from lsdflow.volumes import open_volume

CUBE = masked_cube()
TEST = slice(18, 24)


def test_labels_outside_the_mask_are_0(masked):
    store = masked / "resources/volumes/cube.zarr"
    np.testing.assert_array_equal(open_volume(store, "mask").read(), CUBE["mask"])
    np.testing.assert_array_equal(open_volume(store, "raw").read(), CUBE["raw"])
    np.testing.assert_array_equal(open_volume(store, "labels").read(), CUBE["labels"] * CUBE["mask"])


def test_predictions_are_0_outside_the_mask_only(masked):
    for output, channels in (("affinities", 3), ("lsds", 10)):
        predictions = open_volume((masked / PREDICTED).parent.with_suffix(".zarr"), output).read()
        expected = np.broadcast_to(CUBE["mask"][TEST] != 0, (channels, 6, 24, 24))
        np.testing.assert_array_equal(predictions != 0, expected)


def test_blocks_outside_the_mask_are_not_computed(masked):
    done = json.loads((masked / PREDICTED).read_text())
    # Three columns of blocks, 8 voxels wide: the mask begins in the second one.
    assert (done["blocks"], done["computed"]) == (list(range(9)), 6)
