"""Scores of a segmentation: VOI, Rand and CREMI scores on voxels, run length and min-cut metric on skeletons."""

from importlib import import_module

# Imported when asked for: VOI needs neither graphs nor skeletons, and an edit of one score makes no other anew.
_HOMES = {
    "MinCutScores": "min_cut",
    "NormalizedVoi": "voi",
    "RandScores": "rand",
    "RunLengthScores": "run_length",
    "border_mask": "cremi",
    "cremi_score": "cremi",
    "expected_run_length": "run_length",
    "min_cut_metric": "min_cut",
    "normalized_voi": "voi",
    "rand_scores": "rand",
    "run_length_scores": "run_length",
    "variation_of_information": "voi",
}

__all__ = list(_HOMES)


def __getattr__(name: str) -> object:
    if name not in _HOMES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(import_module(f"{__name__}.{_HOMES[name]}"), name)
