"""Neuron segmentation with local shape descriptors: targets, networks, segmentation, metrics and plots.

The library behind the workflow.  It knows nothing of Snakemake and works from a notebook.
"""

__version__ = "0.1.0"
