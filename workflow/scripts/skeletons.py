"""Skeletons of the true objects of a region."""

from lsdflow.metrics.skeletons import save_skeletons, skeletonize
from lsdflow.volumes import open_volume
from lsdflow_job import as_roi, job

with job(snakemake):
    params = snakemake.params
    truth = open_volume(snakemake.input.volume, "labels").cut(as_roi(params.roi))
    graph = skeletonize(
        truth.data,
        truth.voxel_size,
        offset=truth.offset,
        minimum_length=params.minimum_length,
        node_spacing=params.node_spacing,
    )
    save_skeletons(snakemake.output[0], graph)
    dropped = graph.graph["dropped"]
    print(f"{graph.number_of_nodes()} nodes; {dropped} skeletons below {params.minimum_length} nm left out")
