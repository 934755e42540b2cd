"""The score in passing is the best one that a user would find by hand."""

import numpy as np
import pytest

from lsdflow.affinities import affinities, offsets_on_axes
from lsdflow.agglomeration import build_merge_tree
from lsdflow.fragments import watershed_fragments
from lsdflow.metrics.voi import variation_of_information
from lsdflow.quick_scores import THRESHOLDS, best_voi
from lsdflow.synthetic import simulate_neuropil


def noisy_affinities():
    _, truth = simulate_neuropil((32, 40, 40), seed=0, objects_per_um3=200)
    true = affinities(truth, offsets_on_axes([1])).astype(np.float32)
    noise = np.random.default_rng(0).normal(0, 0.3, true.shape).astype(np.float32)
    return np.clip(0.8 * true + 0.1 + noise, 0, 1), truth


def test_best_threshold_is_found():
    predicted, truth = noisy_affinities()
    fragments = watershed_fragments(predicted)
    tree = build_merge_tree(predicted, fragments)
    scores = {t: variation_of_information(tree.segmentation(fragments, t), truth) for t in map(float, THRESHOLDS)}
    found = best_voi(predicted, truth)
    assert found["voi_sum"] == pytest.approx(min(map(sum, scores.values())))
    assert (found["voi_split"], found["voi_merge"]) == pytest.approx(scores[found["threshold"]])
