"""Import a segmentation made elsewhere."""

from lsdflow.errors import UserError
from lsdflow.sources import check_labels, fill_background, read_source
from lsdflow.volumes import Volume, open_volume, write_volume
from lsdflow_job import job

with job(snakemake):
    name, params = snakemake.wildcards.external, snakemake.params
    labels = check_labels(read_source(**params.source), f"the external segmentation {name!r}")
    raw = open_volume(snakemake.input.volume, "raw")
    if labels.shape != raw.shape_zyx:
        raise UserError(f"external_segmentations.{name} has {labels.shape} voxels, but its volume {raw.shape_zyx}")
    if params.fill_background:
        labels = fill_background(labels, raw.voxel_size)
    segmentation = Volume(labels, raw.voxel_size, raw.offset)
    write_volume(snakemake.output[0], "segmentation", segmentation, pyramid="majority")
