"""Agglomerate the fragments of a region into one merge tree."""

from lsdflow.agglomeration import agglomerate
from lsdflow.region_graph import merge_region_graphs
from lsdflow_job import job

with job(snakemake):
    graph = merge_region_graphs(snakemake.input.graphs)
    tree = agglomerate(graph, merge_function=snakemake.params.merge_function)
    tree.save(snakemake.output[0])
    print(f"{len(tree.fragments)} fragments, {len(tree.edges)} edges, {len(tree.merges)} merges")
