"""Skeletons of the true objects of a region: those that were traced, or else of the labels."""

from lsdflow.metrics.run_length import crop_skeletons, drop_short
from lsdflow.metrics.skeleton_files import check_inside, read_skeletons
from lsdflow.metrics.skeletons import save_skeletons, skeletonize
from lsdflow.roi import as_roi
from lsdflow.volumes import open_volume
from lsdflow_job import job

with job(snakemake):
    params, roi = snakemake.params, as_roi(snakemake.params.roi)
    labels = open_volume(snakemake.input.volume, "labels")
    if params.source is None:
        truth = labels.cut(roi)
        graph = skeletonize(
            truth.data,
            truth.voxel_size,
            offset=truth.offset,
            minimum_length=params.minimum_length,
            node_spacing=params.node_spacing,
        )
    else:

        def corner(voxel):
            return [o + n * v for o, n, v in zip(labels.offset, voxel, labels.voxel_size, strict=True)]

        traced = read_skeletons(**params.source)
        outside = check_inside(traced, corner(labels.roi.begin), corner(labels.roi.end))
        print(f"{traced.number_of_nodes()} nodes were traced, {outside} of them outside the volume")
        graph = drop_short(crop_skeletons(traced, corner(roi.begin), corner(roi.end)), params.minimum_length)
    save_skeletons(snakemake.output[0], graph)
    dropped = graph.graph["dropped"]
    print(f"{graph.number_of_nodes()} nodes; {dropped} skeletons below {params.minimum_length} nm left out")
