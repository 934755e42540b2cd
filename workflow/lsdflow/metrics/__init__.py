"""Scores of a segmentation: VOI, Rand and CREMI scores on voxels, run length and min-cut metric on skeletons."""

from lsdflow.metrics.cremi import border_mask, cremi_score
from lsdflow.metrics.min_cut import MinCutScores, min_cut_metric
from lsdflow.metrics.rand import RandScores, rand_scores
from lsdflow.metrics.run_length import RunLengthScores, expected_run_length, run_length_scores
from lsdflow.metrics.voi import NormalizedVoi, normalized_voi, variation_of_information

__all__ = [
    "MinCutScores",
    "NormalizedVoi",
    "RandScores",
    "RunLengthScores",
    "border_mask",
    "cremi_score",
    "expected_run_length",
    "min_cut_metric",
    "normalized_voi",
    "rand_scores",
    "run_length_scores",
    "variation_of_information",
]
