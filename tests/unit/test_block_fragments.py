"""Fragments found block by block are those of the whole volume, or pieces of them that agglomeration joins first."""

import numpy as np
import pytest
from scipy import ndimage
from volumes_for_tests import cells

from lsdflow.agglomeration import agglomerate
from lsdflow.block_fragments import FragmentSettings, fragments_of_block
from lsdflow.blocks import BlockGrid
from lsdflow.errors import UserError
from lsdflow.metrics import variation_of_information
from lsdflow.region_graph import merge_region_graphs, region_graph, window_of_pairs
from lsdflow.roi import Roi
from lsdflow.volumes import Volume

NEAREST = [[-1, 0, 0], [0, -1, 0], [0, 0, -1]]
WATERSHED = FragmentSettings()
LONG = NEAREST + [[-5, 0, 0], [0, -5, 0], [0, 0, -5]]


def in_blocks(affinities, block_shape, settings=WATERSHED, *, context=(8, 8, 8), within=None, **options):
    """Fragments of ``within``, put together from blocks."""
    volume = affinities if isinstance(affinities, Volume) else Volume(affinities, (10, 10, 10))
    within = within or volume.roi
    options = {"offsets": NEAREST, **options}
    grid, found = BlockGrid(within, block_shape), np.zeros(within.shape, np.uint64)
    for block in (grid[i] for i in range(len(grid))):
        inside = block.shift([-b for b in within.begin]).slices
        found[inside] = fragments_of_block(volume, block, settings, within=within, context=context, **options)
    return found


def segmented(affinities, fragments, block_shape, threshold):
    """The segmentation of blocks' region graphs."""
    grid, graphs = BlockGrid(Roi.of_shape(fragments.shape), block_shape), []
    for block in (grid[i] for i in range(len(grid))):
        seen, context = window_of_pairs(block)
        graphs.append(region_graph(affinities[(slice(None), *seen.slices)], fragments[seen.slices], context=context))
    return agglomerate(merge_region_graphs(graphs)).segmentation(fragments, threshold)


@pytest.mark.parametrize("block_shape", [(16, 40, 48), (16, 20, 24), (8, 10, 12)])
def test_blocks_with_enough_context_have_the_fragments_of_the_whole(block_shape):
    _, affinities = cells(n_cells=40)
    settings = FragmentSettings(minimum_seed_distance=5)
    whole = in_blocks(affinities, affinities.shape[1:], settings)
    np.testing.assert_array_equal(in_blocks(affinities, block_shape, settings, context=(24, 24, 24)), whole)


@pytest.mark.parametrize("method", ["watershed", "mutex_watershed"])
def test_blocks_with_little_context_make_the_same_segments(method):
    labels, affinities = cells(n_cells=40)
    affinities = np.concatenate([affinities, np.ones_like(affinities)])
    for axis in range(3):
        affinities[3 + axis] = np.where(labels != np.roll(labels, 5, axis), 0.1, 0.9)
    settings = FragmentSettings(method, minimum_seed_distance=5, mutex_strides=(2, 2, 2))
    scores = []
    for block_shape in (affinities.shape[1:], (16, 20, 24)):
        fragments = in_blocks(affinities, block_shape, settings, context=(10, 10, 10), offsets=LONG)
        assert (fragments > 0).all()
        scores.append(sum(variation_of_information(segmented(affinities, fragments, block_shape, 0.4), labels)))
    assert scores[1] == pytest.approx(scores[0], abs=0.05)
    assert scores[0] < 1.5


@pytest.mark.parametrize("at", [15, 16, 17])
@pytest.mark.parametrize("axis", [0, 1, 2])
def test_a_thin_process_along_a_face_between_blocks_stays_whole_and_alone(axis, at):
    # Three voxels and a boundary on both sides, before, at and behind the face at 16, between thick neighbours.
    labels = np.ones((32, 32, 32), int)
    labels[:, at - 2 : at + 3] = 2
    labels[:, at + 3 :] = 3
    labels = np.moveaxis(labels, 1, axis)
    is_boundary = ndimage.maximum_filter(labels, 3) != ndimage.minimum_filter(labels, 3)
    affinities = np.repeat(np.where(is_boundary, 0.1, 0.95)[None], 3, 0).astype(np.float32)
    affinities += np.random.default_rng(0).uniform(-0.05, 0.05, affinities.shape).astype(np.float32)
    fragments = in_blocks(affinities, (16, 16, 16), context=(4, 4, 4))
    segments = segmented(affinities, fragments, (16, 16, 16), 0.5)
    inner = ~is_boundary
    assert len(np.unique(segments[inner & (labels == 2)])) == 1
    for label in (1, 3):
        assert not set(segments[inner & (labels == label)]) & set(segments[inner & (labels == 2)])


def test_predictions_that_reach_beyond_the_region_are_not_looked_at():
    _, affinities = cells()
    within = Roi((4, 8, 6), (28, 32, 46))
    alone = in_blocks(np.ascontiguousarray(affinities[(slice(None), *within.slices)]), within.shape)
    np.testing.assert_array_equal(in_blocks(affinities, (12, 12, 20), within=within, context=(24, 24, 40)), alone)


def test_nothing_is_found_outside_the_mask_wherever_its_volume_lies():
    _, affinities = cells()
    inside = np.zeros((40, 50, 60), np.uint8)
    inside[10:30, 10:30, 8:40] = 1
    mask = Volume(inside, (10, 10, 10), (-50, -40, -30))
    found = in_blocks(affinities, (16, 20, 24), mask=mask)
    np.testing.assert_array_equal(found > 0, inside[5:37, 4:44, 3:51] > 0)


def test_epsilon_joins_what_the_whole_agglomeration_joins_first():
    _, affinities = cells()
    before = in_blocks(affinities, affinities.shape[1:], FragmentSettings(minimum_seed_distance=3))
    after = in_blocks(affinities, affinities.shape[1:], FragmentSettings(minimum_seed_distance=3, epsilon=0.4))
    pairs = np.unique(np.stack([before.ravel(), after.ravel()]), axis=1).T
    assert len(np.unique(after)) < len(np.unique(before)) == len(pairs)
    assert set(np.unique(after)) <= set(np.unique(before))
    tree = agglomerate(region_graph(affinities, before), merge_function="hist_quant_25")
    np.testing.assert_array_equal(tree.segmentation(before, 0.4), after)


def test_sections_are_segmented_one_by_one_in_any_block():
    _, affinities = cells(n_cells=40)
    settings = FragmentSettings(in_sections=True, minimum_seed_distance=5)
    whole = in_blocks(affinities, affinities.shape[1:], settings)
    np.testing.assert_array_equal(in_blocks(affinities, (5, 20, 24), settings, context=(0, 24, 24)), whole)


def test_affinities_that_are_none_are_refused_by_the_block_that_reads_them():
    affinities = np.full((3, 8, 8, 8), 0.5, np.float32)
    affinities[0, 6, 6, 6] = np.nan
    with pytest.raises(UserError, match="NaN among them"):
        in_blocks(affinities, (4, 4, 4), context=(0, 0, 0))
