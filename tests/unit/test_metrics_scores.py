"""The row of scores from a contingency table."""

import contextlib
import io

import numpy as np
import pytest
import skimage.metrics
import waterz

from lsdflow import metrics
from lsdflow.metrics.contingency import contingency_table
from lsdflow.metrics.scores import overlap_scores
from lsdflow.synthetic import simulate_neuropil

NAMES = (
    "voi_split voi_merge voi_sum rand_split rand_merge adapted_rand_error nvi_split nvi_merge nid cremi_score segments"
)


@pytest.fixture(scope="module")
def neuropil():
    """Truth with background, and a segmentation of it that splits, merges, and leaves borders unlabelled."""
    _, truth = simulate_neuropil((24, 48, 48), seed=3)
    segmentation = truth % np.uint64(max(truth.max() // 2, 2)) + np.uint64(1)  # merges pairs of objects
    segmentation[:, 20:] += np.uint64(1000)  # cuts all that pass
    inner = (truth[:, 1:, :] == truth[:, :-1, :])[:, :, 1:] & (truth[:, :, 1:] == truth[:, :, :-1])[:, 1:, :]
    segmentation[:, 1:, 1:][~inner] = 0
    truth = np.where(truth == 1, np.uint64(0), truth)
    return truth, segmentation


def test_published_vector():
    # funlib.evaluate's tests; the CREMI score follows from VOI sum and adapted Rand error
    truth = np.array([1, 1, 2, 2, 2, 3, 3, 3, 3, 4, 4], np.uint64)
    segmentation = np.array([3, 3, 3, 3, 4, 5, 6, 6, 5, 5, 5], np.uint64)
    scores = overlap_scores(contingency_table(segmentation, truth))
    assert list(scores) == NAMES.split()
    published = {
        "voi_split": 0.6140806820148608,
        "voi_merge": 0.7272727272727271,
        "rand_split": 0.6363636363636364,
        "rand_merge": 0.5675675675675675,
        "nvi_split": 0.2407837822280942,
        "nvi_merge": 0.2851668894867314,
        "nid": 0.3756069520269456,
    }
    assert {name: scores[name] for name in published} == pytest.approx(published)
    #       true pairs: 1 + 3 + 6 + 1 = 11; pairs in segments: 6 + 0 + 6 + 1 = 13; in both: 1 + 1 + 1 + 1 + 1 = 5
    assert scores["adapted_rand_error"] == pytest.approx(1 - 2 * 5 / (11 + 13))
    assert scores["cremi_score"] == pytest.approx(np.sqrt(1.341353409287588 * (1 - 5 / 12)))
    assert scores["segments"] == 4


def test_perfect_segmentation(neuropil):
    truth, _ = neuropil
    n_objects = len(np.unique(truth)) - 1
    perfect = dict.fromkeys(NAMES.split(), 0.0) | {"rand_split": 1, "rand_merge": 1, "segments": n_objects}
    assert overlap_scores(contingency_table(truth + 7, truth)) == pytest.approx(perfect, abs=1e-12)


@pytest.mark.parametrize("is_whole", [True, False])
def test_scores_of_neuropil_equal_skimage_and_waterz(neuropil, is_whole):
    truth, segmentation = neuropil
    if is_whole:
        segmentation = np.where(segmentation == 0, 999, segmentation).astype(np.uint64)
    scores = overlap_scores(contingency_table(segmentation, truth))
    assert scores["voi_split"] > 0.1 and scores["voi_merge"] > 0.1  # worth comparing

    # skimage takes signed ids, and (truth, segmentation) for our (segmentation, truth); 0 of the truth is ignored
    signed = truth.astype(np.int64), segmentation.astype(np.int64)
    voi = skimage.metrics.variation_of_information(*signed, ignore_labels=[0])
    assert (scores["voi_split"], scores["voi_merge"]) == pytest.approx(tuple(voi), abs=1e-9)
    error, _, _ = skimage.metrics.adapted_rand_error(*signed, ignore_labels=[0])
    assert scores["adapted_rand_error"] == pytest.approx(error, abs=1e-9)

    with contextlib.redirect_stdout(io.StringIO()):
        peer = waterz.evaluate(segmentation, truth)
    assert {name: scores[name] for name in peer} == pytest.approx(peer, abs=1e-9)
    assert set(peer) == {"voi_split", "voi_merge", "rand_split", "rand_merge"}


def test_scores_without_segment_zero_equal_skimage_on_the_rest(neuropil):
    truth, segmentation = neuropil
    scores = overlap_scores(contingency_table(segmentation, truth, ignore_segment_zero=True))
    kept = (truth != 0) & (segmentation != 0)
    signed = truth[kept].astype(np.int64), segmentation[kept].astype(np.int64)
    voi = skimage.metrics.variation_of_information(*signed)
    assert (scores["voi_split"], scores["voi_merge"]) == pytest.approx(tuple(voi), abs=1e-9)
    error, _, _ = skimage.metrics.adapted_rand_error(*signed)
    assert scores["adapted_rand_error"] == pytest.approx(error, abs=1e-9)


def test_normalised_scores_follow_from_plain_entropies(neuropil):
    truth, segmentation = neuropil
    scores = overlap_scores(contingency_table(segmentation, truth))
    kept = truth != 0

    def entropy(*ids):
        _, counts = np.unique(np.stack([i[kept] for i in ids]), axis=1, return_counts=True)
        p = counts / counts.sum()
        return -np.sum(p * np.log2(p))

    of_truth, of_segments, joint = entropy(truth), entropy(segmentation), entropy(truth, segmentation)
    assert scores["nvi_split"] == pytest.approx((joint - of_truth) / joint, abs=1e-9)
    assert scores["nvi_merge"] == pytest.approx((joint - of_segments) / joint, abs=1e-9)
    information = of_truth + of_segments - joint
    assert scores["nid"] == pytest.approx(1 - information / max(of_truth, of_segments), abs=1e-9)


def test_all_scores_can_be_had_from_the_package():
    assert {"variation_of_information", "rand_scores", "expected_run_length", "min_cut_metric"} < set(metrics.__all__)
    for name in metrics.__all__:
        assert getattr(metrics, name).__name__ == name
    with pytest.raises(AttributeError, match="no attribute 'nothing'"):
        metrics.nothing  # noqa: B018
