"""Compute the training targets of a region: labels with grown boundaries, and their descriptors."""

import numpy as np

from lsdflow.affinities import grow_boundary
from lsdflow.errors import UserError
from lsdflow.lsd import local_shape_descriptors
from lsdflow.volumes import Volume, open_volume, write_volume
from lsdflow_job import as_roi, job

with job(snakemake):
    params, region = snakemake.params, snakemake.wildcards.region
    # Only labels of the region: those beyond it may be validation or test.
    labels = open_volume(snakemake.input.volume, "labels").cut(as_roi(params.roi))
    if not np.any(labels.data):
        raise UserError(f"no labelled voxel in the region {region}: check split.train and the labels of its volume")
    if params.grow_boundary:
        grown = grow_boundary(labels.data, params.grow_boundary, only_xy=params.only_xy)
        labels = Volume(grown, labels.voxel_size, labels.offset)
    sigma = params.sigma if isinstance(params.sigma, (int, float)) else tuple(params.sigma)
    lsds = local_shape_descriptors(labels.data, sigma, labels.voxel_size, downsample=params.downsample)
    write_volume(snakemake.output[0], "labels", labels)
    write_volume(snakemake.output[0], "lsds", Volume(lsds, labels.voxel_size, labels.offset))
