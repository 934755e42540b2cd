"""Import raw voxels and labels from the files that hold them."""

from lsdflow.errors import UserError
from lsdflow.sources import check_labels, check_pair, check_raw, read_source
from lsdflow.volumes import Volume, write_volume
from lsdflow_job import job

with job(snakemake):
    name, params = snakemake.wildcards.volume, snakemake.params
    raw = check_raw(read_source(**params.raw), f"the raw data of volume {name!r}")
    labels = check_labels(read_source(**params.labels), f"the labels of volume {name!r}")
    check_pair(raw, labels, f"volume {name!r}")
    if list(raw.shape) != list(params.shape):
        raise UserError(f"volumes.{name}.shape is {list(params.shape)}, but the files hold {list(raw.shape)} voxels")
    parts = {"raw": raw, "labels": labels}
    if params.mask is not None:
        mask = read_source(**params.mask) != 0
        check_pair(raw, mask, f"volume {name!r}", second="mask")
        # Where nobody looked for objects there is no label.
        labels[~mask] = 0
        if not labels.any():
            raise UserError(f"no label of volume {name!r} lies inside its mask: check the mask")
        parts["mask"] = mask.astype("uint8")
    for part, data in parts.items():
        pyramid = "mean" if part == "raw" else "majority"
        write_volume(snakemake.output[0], part, Volume(data, tuple(params.voxel_size)), pyramid=pyramid)
