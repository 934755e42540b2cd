"""Scores of a segmentation: VOI and Rand on voxels, the min-cut metric on skeletons."""

from lsdflow.metrics.min_cut import MinCutScores, min_cut_metric
from lsdflow.metrics.rand import RandScores, rand_scores
from lsdflow.metrics.voi import variation_of_information

__all__ = ["MinCutScores", "RandScores", "min_cut_metric", "rand_scores", "variation_of_information"]
