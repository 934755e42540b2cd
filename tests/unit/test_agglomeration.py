"""Agglomeration makes the merges that waterz makes, and every threshold is a lookup in its merge tree."""

import contextlib
import os
import sys

import numpy as np
import pytest
import waterz
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import ndimage

from lsdflow.agglomeration import MERGE_FUNCTIONS, MergeTree, agglomerate, build_merge_tree
from lsdflow.errors import UserError
from lsdflow.fragments import watershed_fragments
from lsdflow.region_graph import RegionGraph

THRESHOLDS = [0.1, 0.2, 0.3, 0.5, 0.7, 0.9, 0.999]


@contextlib.contextmanager
def without_stdout():
    """Swallow what C++ prints."""
    sys.stdout.flush()
    kept, nowhere = os.dup(1), os.open(os.devnull, os.O_WRONLY)
    os.dup2(nowhere, 1)
    try:
        yield
    finally:
        os.dup2(kept, 1)
        os.close(kept)
        os.close(nowhere)


def waterz_agglomerate(affinities, fragments, merge_function):
    """Segmentations at `THRESHOLDS` and all merges, by waterz."""
    if affinities.dtype == np.uint8:
        affinities = affinities.astype(np.float32) / 255
    scoring_function, queue = "OneMinus<MeanAffinity<RegionGraphType, ScoreValue>>", 0
    if merge_function != "mean":
        quantile, starts_with_maximum = merge_function.split("_")[2], str(merge_function.endswith("_initmax")).lower()
        statistic = f"HistogramQuantileAffinity<RegionGraphType, {quantile}, ScoreValue, 256, {starts_with_maximum}>"
        scoring_function, queue = f"OneMinus<{statistic}>", 256
    segmentations, merges = [], []
    with without_stdout():
        for segmentation, history in waterz.agglomerate(
            affinities,
            THRESHOLDS,
            fragments=fragments.copy(),
            scoring_function=scoring_function,
            discretize_queue=queue,
            return_merge_history=True,
        ):
            segmentations.append(segmentation.copy())
            merges += [(merge["a"], merge["b"], merge["score"]) for merge in history]
    return segmentations, merges


def cells():
    """Affinities of a Voronoi tessellation with wide, noisy boundaries, and their fragments."""
    shape, rng = (32, 40, 48), np.random.default_rng(0)
    centres, grid = rng.uniform(0, shape, (12, 3)), np.stack(np.indices(shape), -1)
    labels = np.argmin([((grid - c) ** 2).sum(-1) for c in centres], axis=0)
    is_boundary = ndimage.maximum_filter(labels, 3) != ndimage.minimum_filter(labels, 3)
    noise = np.stack([ndimage.gaussian_filter(rng.normal(0, 0.5, shape), 0.7) for _ in range(3)])
    affinities = np.clip(np.where(is_boundary, 0.1, 0.9) + noise, 0, 1).astype(np.float32)
    return affinities, watershed_fragments(affinities, minimum_seed_distance=5)


def patches():
    """Cubes of three voxels, each of one of 60 fragments or of none, and uint8 affinities at random."""
    rng = np.random.default_rng(0)
    fragments = np.kron(rng.integers(0, 60, (6, 6, 6)), np.ones((3, 3, 3), int))
    return rng.integers(0, 256, (3, 18, 18, 18), dtype=np.uint8), fragments.astype(np.uint64)


def salt():
    """Every voxel of one of 200 fragments: as many ties as can be."""
    rng = np.random.default_rng(0)
    return rng.random((3, 12, 12, 12), dtype=np.float32), rng.integers(0, 200, (12, 12, 12)).astype(np.uint64)


VOLUMES = {"cells": cells(), "patches": patches(), "salt": salt()}


@pytest.mark.parametrize("merge_function", [name for name in MERGE_FUNCTIONS if name != "mean"])
@pytest.mark.parametrize("volume", VOLUMES)
def test_quantile_merges_are_those_of_waterz_one_by_one(volume, merge_function):
    affinities, fragments = VOLUMES[volume]
    tree = build_merge_tree(affinities, fragments, merge_function=merge_function)
    segmentations, merges = waterz_agglomerate(affinities, fragments, merge_function)
    assert len(merges) > 20
    ours = [(int(u), int(v), float(s)) for (u, v), s in zip(tree.merges, tree.merge_scores, strict=True)]
    assert ours == merges
    for threshold, segmentation in zip(THRESHOLDS, segmentations, strict=True):
        np.testing.assert_array_equal(tree.segmentation(fragments, threshold), segmentation)


def test_mean_segmentations_of_uint8_affinities_are_those_of_waterz():
    affinities, fragments = VOLUMES["patches"]
    tree = build_merge_tree(affinities, fragments, merge_function="mean")
    for threshold, segmentation in zip(THRESHOLDS, waterz_agglomerate(affinities, fragments, "mean")[0], strict=True):
        np.testing.assert_array_equal(tree.segmentation(fragments, threshold), segmentation)


def graph_of(edges, affinities):
    """A region graph with one list of uint8 affinities for each edge."""
    edges = np.array(edges, np.uint64).reshape(-1, 2)
    counts = np.array([np.bincount(values, minlength=256) for values in affinities], np.int32).reshape(-1, 256)
    return RegionGraph(np.unique(edges), edges, counts)


def test_a_triangle_worked_by_hand():
    # 1 --[255]-- 2, 1 --[51]-- 3, 2 --[153, 153, 153]-- 3: 1 and 2 are joined at 1 - 1 = 0; their edge to 3 then has
    # the mean (51 + 3 * 153) / 4 / 255 = 0.5, where 2 -- 3 alone had 0.6.
    graph = graph_of([(1, 2), (1, 3), (2, 3)], [[255], [51], [153] * 3])
    tree = agglomerate(graph, merge_function="mean")
    assert tree.merges.tolist() == [[1, 2], [1, 3]]
    assert tree.merge_scores.tolist() == [0, 0.5]
    assert tree.scores.tolist() == [0, 0.5, 0.5]
    assert tree.segments(0.0).tolist() == [1, 1, 3]
    assert tree.segments(0.49).tolist() == [1, 1, 3]
    assert tree.segments(0.5).tolist() == [1, 1, 1]


@pytest.mark.parametrize(
    ("percentile", "bin_"),
    # Of four affinities: numbers 0 + 1, 1 + 1, 2 + 1, 3 + 1, 3 + 1.
    [(10, 10), (25, 20), (50, 30), (75, 40), (90, 40)],
)
def test_the_quantile_is_the_middle_of_the_bin_of_the_pivot(percentile, bin_):
    tree = agglomerate(graph_of([(1, 2)], [[40, 10, 30, 20]]), merge_function=f"hist_quant_{percentile}")
    assert tree.merge_scores.tolist() == [1 - (bin_ + 0.5) / 256]


def test_initmax_counts_each_first_edge_with_its_highest_affinity_only():
    tree = agglomerate(graph_of([(1, 2)], [[40, 10, 40, 20]]), merge_function="hist_quant_10_initmax")
    assert tree.merge_scores.tolist() == [1 - 40.5 / 256]


def segments_along_edges(tree, threshold):
    """Connected components of the edges with a score of at most ``threshold``, naively."""
    segment = {int(f): int(f) for f in tree.fragments}
    for (u, v), score in zip(tree.edges, tree.scores, strict=True):
        if score <= threshold:
            a, b = sorted((segment[int(u)], segment[int(v)]))
            segment = {f: a if s == b else s for f, s in segment.items()}
    return list(segment.values())


@pytest.mark.parametrize("merge_function", ["hist_quant_75", "mean"])
def test_segments_are_the_components_along_edges_scored_at_most_the_threshold(merge_function):
    tree = build_merge_tree(*VOLUMES["patches"], merge_function=merge_function)
    assert np.isfinite(tree.scores).all()
    for threshold in [*THRESHOLDS, *map(float, tree.scores[::7])]:
        assert tree.segments(threshold).tolist() == segments_along_edges(tree, threshold)


@pytest.mark.parametrize("merge_function", MERGE_FUNCTIONS)
def test_scores_never_decrease_and_a_higher_threshold_never_splits(merge_function):
    tree = build_merge_tree(*VOLUMES["salt"], merge_function=merge_function)
    assert (np.diff(tree.merge_scores) >= 0).all()
    before = tree.fragments
    for threshold in np.linspace(0, 1, 21):
        after = tree.segments(threshold)
        # One segment before lies in one segment after.
        assert len(np.unique(np.stack([before, after]), axis=1).T) == len(np.unique(before))
        np.testing.assert_array_equal(after[np.searchsorted(tree.fragments, after)], after)
        assert (after <= tree.fragments).all()
        before = after


@settings(max_examples=60, deadline=None)
@given(data=st.data())
def test_any_graph_is_joined_along_a_spanning_forest(data):
    n = data.draw(st.integers(2, 8))
    pairs = [(u, v) for u in range(1, n + 1) for v in range(u + 1, n + 1)]
    edges = sorted(data.draw(st.sets(st.sampled_from(pairs), min_size=1)))
    affinities = [data.draw(st.lists(st.integers(0, 255), min_size=1, max_size=4)) for _ in edges]
    tree = agglomerate(graph_of(edges, affinities), merge_function=data.draw(st.sampled_from(list(MERGE_FUNCTIONS))))
    assert tree.segments(1.0).tolist() == segments_along_edges(tree, 1.0)
    assert len(tree.merges) == len(tree.fragments) - len(set(tree.segments(1.0).tolist()))
    for threshold in np.unique(tree.merge_scores):
        assert tree.segments(threshold).tolist() == segments_along_edges(tree, threshold)


def test_a_segmentation_is_a_lookup_for_any_part_of_the_volume():
    affinities, fragments = VOLUMES["cells"]
    tree = build_merge_tree(affinities, fragments)
    whole = tree.segmentation(fragments, 0.5)
    assert whole.dtype == np.uint64
    np.testing.assert_array_equal(tree.segmentation(fragments[3:7, ::2], 0.5), whole[3:7, ::2])
    values = dict(zip(tree.fragments.tolist(), tree.segments(0.5).tolist(), strict=True))
    assert all(values[f] == s for f, s in zip(fragments.ravel()[::97].tolist(), whole.ravel()[::97], strict=True))


def test_zero_stays_zero_and_a_lonely_fragment_stays_itself():
    fragments = np.array([[[7, 7, 0, 3]]], np.uint64)
    tree = build_merge_tree(np.ones((3, 1, 1, 4), np.float32), fragments)
    np.testing.assert_array_equal(tree.segmentation(fragments, 1.0), fragments)


def test_a_volume_of_zeros_has_an_empty_tree():
    fragments = np.zeros((2, 2, 2), np.uint64)
    tree = build_merge_tree(np.ones((3, 2, 2, 2), np.float32), fragments)
    assert len(tree.merges) == len(tree.segments(0.5)) == 0
    np.testing.assert_array_equal(tree.segmentation(fragments, 0.5), fragments)


def test_large_ids_are_kept_to_the_last_digit():
    affinities, fragments = VOLUMES["patches"]
    fragments = np.where(fragments, fragments + np.uint64(2**63), fragments)
    tree = build_merge_tree(affinities, fragments)
    assert set(np.unique(tree.segmentation(fragments, 0.3))) <= set(np.unique(fragments))
    np.testing.assert_array_equal(tree.segmentation(fragments, 0.0), fragments)


def test_the_same_input_gives_the_same_tree_and_is_left_alone():
    affinities, fragments = VOLUMES["salt"]
    kept = affinities.copy(), fragments.copy()
    trees = [build_merge_tree(affinities, fragments) for _ in range(2)]
    for name in ("fragments", "edges", "scores", "merges", "merge_scores"):
        np.testing.assert_array_equal(*(getattr(tree, name) for tree in trees))
    np.testing.assert_array_equal(affinities, kept[0])
    np.testing.assert_array_equal(fragments, kept[1])


def test_a_saved_tree_is_loaded_as_it_was(tmp_path):
    tree = build_merge_tree(*VOLUMES["cells"])
    tree.save(tmp_path / "tree.npz")
    loaded = MergeTree.load(tmp_path / "tree.npz")
    for name in ("fragments", "edges", "scores", "merges", "merge_scores"):
        np.testing.assert_array_equal(getattr(loaded, name), getattr(tree, name))
        assert getattr(loaded, name).dtype == getattr(tree, name).dtype


def test_a_missing_or_wrong_file_is_named(tmp_path):
    with pytest.raises(UserError, match="there is no merge tree at .*tree.npz"):
        MergeTree.load(tmp_path / "tree.npz")
    np.savez(tmp_path / "tree.npz", something=1)
    with pytest.raises(UserError, match="tree.npz holds no merge tree"):
        MergeTree.load(tmp_path / "tree.npz")


@pytest.mark.parametrize("threshold", [-0.01, 1.01, np.nan])
def test_a_threshold_outside_0_to_1_is_refused(threshold):
    tree = build_merge_tree(*VOLUMES["cells"])
    with pytest.raises(UserError, match="threshold must be in 0–1"):
        tree.segments(threshold)


def test_fragments_that_the_tree_does_not_know_are_refused():
    tree = build_merge_tree(*VOLUMES["cells"])
    with pytest.raises(UserError, match="fragment 12345 is not in the merge tree"):
        tree.segmentation(np.array([[[1, 12345]]], np.uint64), 0.5)


def test_an_unknown_merge_function_is_refused_with_those_there_are():
    with pytest.raises(UserError, match="no merge function 'median'; there are hist_quant_10, .* mean"):
        build_merge_tree(*VOLUMES["cells"], merge_function="median")
