"""Draw what each augmentation makes of a crop of a train region."""

from pathlib import Path

from lsdflow.figures.augmentations import example_panels, plot_augmentations
from lsdflow.roi import as_roi
from lsdflow.volumes import open_volume
from lsdflow_job import job

with job(snakemake):
    raw, labels = (open_volume(snakemake.input.volume, name) for name in ("raw", "labels"))
    panels = example_panels(raw, labels, as_roi(snakemake.params.roi))
    plot_augmentations(panels, Path(snakemake.output.png).with_suffix(""), raw.voxel_size)
