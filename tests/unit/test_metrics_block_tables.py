"""Tables of blocks, against the voxels that they count."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from lsdflow.blocks import BlockGrid
from lsdflow.errors import UserError
from lsdflow.metrics import block_tables
from lsdflow.metrics.block_tables import BlockTables, units_of_grid
from lsdflow.metrics.contingency import ContingencyTable, contingency_table
from lsdflow.metrics.scores import overlap_scores
from lsdflow.roi import Roi

METRICS = ["voi_split", "voi_merge", "voi_sum", "adapted_rand_error", "cremi_score"]

# Four blocks, one after the other along the first axis.
block_labels = hnp.arrays(np.uint64, (4, 2, 3), elements=st.integers(0, 3))


def tables_of(segmentation, truth):
    return BlockTables.from_tables(contingency_table(s, t) for s, t in zip(segmentation, truth, strict=True))


def assert_same_table(a, b):
    for name in ("segments", "truths", "rows", "columns", "counts"):
        np.testing.assert_array_equal(getattr(a, name), getattr(b, name), err_msg=name)


def random_labels(seed, n_ids=9):
    """Nine blocks of 4³ voxels with blocky labels, and background."""
    coarse = np.random.default_rng(seed).integers(0, n_ids, (9, 2, 2, 4))
    return coarse.repeat(2, axis=1).repeat(2, axis=2).astype(np.uint64)


@given(block_labels, block_labels, hnp.arrays(np.int64, (3, 4), elements=st.integers(0, 3)))
@settings(deadline=None, max_examples=60)
def test_scores_of_a_draw_are_those_of_its_voxel_blocks_side_by_side(segmentation, truth, weights):
    weights = weights[weights @ np.count_nonzero(truth, axis=(1, 2)) > 0]
    scores = tables_of(segmentation, truth).scores(weights)
    assert list(scores) == METRICS
    for i, times in enumerate(weights):
        drawn = np.repeat(segmentation, times, axis=0), np.repeat(truth, times, axis=0)
        expected = overlap_scores(contingency_table(*drawn))
        assert {m: scores[m][i] for m in METRICS} == pytest.approx({m: expected[m] for m in METRICS}, abs=1e-7)


def test_every_block_once_gives_the_scores_of_the_region():
    segmentation, truth = random_labels(0), random_labels(1)
    scores = tables_of(segmentation, truth).scores(np.ones((1, 9)))
    expected = overlap_scores(contingency_table(segmentation, truth))
    assert {m: scores[m][0] for m in METRICS} == pytest.approx({m: expected[m] for m in METRICS}, rel=1e-12)


def test_a_perfect_segmentation_scores_zero_and_no_less():
    truth = random_labels(2)
    weights = np.random.default_rng(0).integers(0, 4, (50, 9))
    for values in tables_of(truth * 3 + 1, truth).scores(weights).values():
        assert values.min() >= 0
        np.testing.assert_allclose(values, 0, atol=1e-6)


def test_draws_are_scored_alike_one_by_one_and_in_batches(monkeypatch):
    tables = tables_of(random_labels(0), random_labels(1))
    weights = np.random.default_rng(0).integers(0, 3, (23, 9))
    together = tables.scores(weights)
    monkeypatch.setattr(block_tables, "_BATCH_VALUES", 150)
    assert len(tables.whole().counts) * 23 > 150
    for name, values in tables.scores(weights).items():
        np.testing.assert_allclose(values, together[name], rtol=1e-12)


@given(block_labels, block_labels)
@settings(deadline=None, max_examples=30)
def test_the_whole_is_the_table_of_the_region_and_sizes_are_voxels_with_truth(segmentation, truth):
    tables = tables_of(segmentation, truth)
    assert_same_table(tables.whole(), contingency_table(segmentation, truth))
    np.testing.assert_array_equal(tables.sizes, np.count_nonzero(truth, axis=(1, 2)))


@given(block_labels, block_labels, hnp.arrays(np.uint64, 4, elements=st.integers(0, 9)))
@settings(deadline=None, max_examples=30)
def test_relabelled_tables_are_those_of_relabelled_voxels(fragments, truth, segment_of):
    old = np.array([2, 0, 3, 1])
    relabelled = tables_of(fragments, truth).relabel(old, segment_of[old])
    expected = tables_of(segment_of[fragments], truth)
    assert_same_table(relabelled.cells, expected.cells)
    np.testing.assert_array_equal(relabelled.truths, expected.truths)


def test_relabelling_refuses_a_fragment_without_segment():
    with pytest.raises(ValueError, match="first of them 2"):
        tables_of(np.array([[1], [2]]), np.array([[1], [1]])).relabel([1], [7])


@given(block_labels, block_labels)
@settings(deadline=None, max_examples=30)
def test_joined_tables_are_those_of_larger_blocks(segmentation, truth):
    joined = tables_of(segmentation, truth).joined([1, 0, 1, 2])
    parts = [[1], [0, 2], [3]]
    expected = BlockTables.from_tables(contingency_table(segmentation[p], truth[p]) for p in parts)
    assert joined.n_blocks == 3
    assert_same_table(joined.cells, expected.cells)


@pytest.mark.parametrize("units", [[0, 1, 1], [0, 1, -1, 1]])
def test_joining_needs_a_number_for_each_block(units):
    with pytest.raises(ValueError, match="each of the 4 blocks"):
        tables_of(np.ones((4, 1), int), np.ones((4, 1), int)).joined(units)


def test_blocks_without_truth_keep_their_place():
    truth = np.array([[0, 0], [1, 2], [0, 0]])
    tables = tables_of(truth + 1, truth)
    np.testing.assert_array_equal(tables.sizes, [0, 2, 0])
    with pytest.raises(ValueError, match="no voxel with truth"):
        tables.scores([[1, 1, 1], [2, 0, 1]])


def test_ids_beyond_63_bits_stay_apart():
    big = np.array([[2**64 - 1, 2**64 - 2], [2**63, 2**64 - 1]], np.uint64)
    tables = tables_of(big, big)
    np.testing.assert_array_equal(tables.whole().truths, [2**63, 2**64 - 2, 2**64 - 1])
    assert tables.scores([[1, 1]])["voi_sum"] == pytest.approx([0], abs=1e-12)


def test_weights_need_one_column_per_block():
    with pytest.raises(ValueError, match=r"weights must be \(draws, 4\), not \(4,\)"):
        tables_of(np.ones((4, 1), int), np.ones((4, 1), int)).scores(np.ones(4))


def test_what_is_saved_is_loaded(tmp_path):
    tables = tables_of(random_labels(3), random_labels(4) * np.uint64(2**60))
    tables.save(tmp_path / "blocks")
    loaded = BlockTables.load(tmp_path / "blocks")
    assert loaded.n_blocks == 9
    np.testing.assert_array_equal(loaded.truths, tables.truths)
    assert_same_table(loaded.cells, tables.cells)


def test_a_file_that_holds_no_tables_is_refused(tmp_path):
    with pytest.raises(UserError, match="there is no file"):
        BlockTables.load(tmp_path / "missing.npz")
    (tmp_path / "text.npz").write_text("not an archive")
    np.savez(tmp_path / "other.npz", truths=np.ones(3))
    np.savez(tmp_path / "cut.npz", truths=np.ones(3))
    (tmp_path / "cut.npz").write_bytes((tmp_path / "cut.npz").read_bytes()[:60])
    for name in ("text", "other", "cut"):
        with pytest.raises(UserError, match="holds no tables of blocks: make it again"):
            BlockTables.load(tmp_path / f"{name}.npz")


@pytest.mark.parametrize(
    ("counts", "at_least", "boxes"),
    [((4, 4, 4), 8, 8), ((1, 1, 20), 8, 8), ((2, 6, 6), 8, 9), ((1, 2, 3), 8, 6), ((5, 3, 4), 1, 1), ((1, 9, 9), 8, 9)],
)
def test_units_are_boxes_of_neighbours_at_least_as_many_as_asked_if_there_are_blocks(counts, at_least, boxes):
    grid = BlockGrid(Roi((0, 0, 0), counts), (1, 1, 1))
    units = units_of_grid(grid.counts_zyx, at_least=at_least)
    positions = np.array([grid[i].begin for i in range(len(grid))])
    assert set(units.tolist()) == set(range(boxes))
    for unit in range(boxes):
        inside = positions[units == unit]
        assert len(inside) == np.prod(np.ptp(inside, axis=0) + 1)


def test_tables_of_no_blocks_are_empty():
    tables = BlockTables.from_tables([])
    assert tables.n_blocks == 0 and tables.whole().total == ContingencyTable.merge([]).total == 0
