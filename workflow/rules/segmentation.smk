localrules:
    create_fragments,
    create_segmentation,


rule create_fragments:
    input:
        volume=volume_of_region,
    output:
        f"{SEGMENTATION}/fragments.zarr/zarr.json",
    log:
        "results/{experiment}/logs/create_fragments/{setup}/{replicate}/{region}.log",
    benchmark:
        "results/{experiment}/benchmarks/create_fragments/{setup}/{replicate}/{region}.tsv"
    # Before any training: what is wrong with the data shows here.
    priority: 20
    conda:
        "../../envs/segment.yaml"
    threads: 1
    resources:
        mem_mb=memory_of_fragment_store,
        runtime=growing(10),
    params:
        code=code_of("create_store.py"),
        roi=roi_of_region,
        needs_truth=True,
        volumes={"fragments": [0, "uint64"]},
        pyramid=None,
        block_shape=cfg["segmentation"]["block_shape"],
    message:
        "preparing the fragments of {wildcards.setup}, replicate {wildcards.replicate}, on {wildcards.region}"
    script:
        "../scripts/create_store.py"


rule fragments:
    input:
        volume=volume_of_region,
        store="results/{experiment}/predictions/{setup}/{replicate}/{region}.zarr/zarr.json",
        predicted=markers_of_predictions,
        fragments=f"{SEGMENTATION}/fragments.zarr/zarr.json",
    output:
        f"{SEGMENTATION}/fragments/chunk-{{chunk}}-of-{{chunks}}.json",
    log:
        "results/{experiment}/logs/fragments/{setup}/{replicate}/{region}/{chunk}-of-{chunks}.log",
    benchmark:
        "results/{experiment}/benchmarks/fragments/{setup}/{replicate}/{region}/{chunk}-of-{chunks}.tsv"
    conda:
        "../../envs/segment.yaml"
    threads: 1
    resources:
        mem_mb=memory_of_fragments,
        runtime=growing(240),
    params:
        code=code_of("fragments.py"),
        roi=roi_of_region,
        block_shape=cfg["segmentation"]["block_shape"],
        context=configuration.context_of_fragments(cfg),
        chunks=cfg["segmentation"]["chunks"],
        settings=settings_of_fragments,
        distances=distances_of_affinities,
    message:
        "fragments of {wildcards.setup}, replicate {wildcards.replicate}, on {wildcards.region}"
    script:
        "../scripts/fragments.py"


rule region_graph:
    input:
        volume=volume_of_region,
        store="results/{experiment}/predictions/{setup}/{replicate}/{region}.zarr/zarr.json",
        fragments=f"{SEGMENTATION}/fragments.zarr/zarr.json",
        found=markers_of_fragments,
    output:
        f"{SEGMENTATION}/region_graph/chunk-{{chunk}}-of-{{chunks}}.npz",
    log:
        "results/{experiment}/logs/region_graph/{setup}/{replicate}/{region}/{chunk}-of-{chunks}.log",
    benchmark:
        "results/{experiment}/benchmarks/region_graph/{setup}/{replicate}/{region}/{chunk}-of-{chunks}.tsv"
    conda:
        "../../envs/segment.yaml"
    threads: 1
    resources:
        mem_mb=memory_of_region_graph,
        runtime=growing(240),
    params:
        code=code_of("region_graph.py"),
        roi=roi_of_region,
        block_shape=cfg["segmentation"]["block_shape"],
        chunks=cfg["segmentation"]["chunks"],
    message:
        "region graph of {wildcards.setup}, replicate {wildcards.replicate}, on {wildcards.region}"
    script:
        "../scripts/region_graph.py"


rule merge_tree:
    input:
        graphs=region_graphs,
    output:
        directory(f"{SEGMENTATION}/merge_tree.zarr"),
    log:
        "results/{experiment}/logs/merge_tree/{setup}/{replicate}/{region}.log",
    benchmark:
        "results/{experiment}/benchmarks/merge_tree/{setup}/{replicate}/{region}.tsv"
    conda:
        "../../envs/segment.yaml"
    threads: 1
    resources:
        mem_mb=memory_of_merge_tree,
        runtime=growing(240),
    params:
        code=code_of("merge_tree.py"),
        merge_function=cfg["segmentation"]["merge_function"],
    message:
        "agglomerating {wildcards.setup}, replicate {wildcards.replicate}, on {wildcards.region}"
    script:
        "../scripts/merge_tree.py"


rule create_segmentation:
    input:
        volume=volume_of_region,
    output:
        f"{SEGMENTATION}/segmentation.zarr/zarr.json",
    log:
        "results/{experiment}/logs/create_segmentation/{setup}/{replicate}/{region}.log",
    benchmark:
        "results/{experiment}/benchmarks/create_segmentation/{setup}/{replicate}/{region}.tsv"
    conda:
        "../../envs/segment.yaml"
    threads: 1
    resources:
        mem_mb=growing(1000),
        runtime=growing(10),
    params:
        code=code_of("create_store.py"),
        roi=roi_of_region,
        needs_truth=False,
        volumes={"segmentation": [0, "uint64"]},
        pyramid="majority",
        block_shape=cfg["segmentation"]["block_shape"],
    message:
        "preparing the segmentation of {wildcards.setup}, replicate {wildcards.replicate}, on {wildcards.region}"
    script:
        "../scripts/create_store.py"


rule segmentation:
    input:
        fragments=f"{SEGMENTATION}/fragments.zarr/zarr.json",
        found=markers_of_fragments,
        tree=f"{SEGMENTATION}/merge_tree.zarr",
        selected="results/{experiment}/scores/{setup}/{replicate}/selected.json",
        segmentation=f"{SEGMENTATION}/segmentation.zarr/zarr.json",
    output:
        f"{SEGMENTATION}/segmentation/chunk-{{chunk}}-of-{{chunks}}.json",
    log:
        "results/{experiment}/logs/segmentation/{setup}/{replicate}/{region}/{chunk}-of-{chunks}.log",
    benchmark:
        "results/{experiment}/benchmarks/segmentation/{setup}/{replicate}/{region}/{chunk}-of-{chunks}.tsv"
    conda:
        "../../envs/segment.yaml"
    threads: 1
    resources:
        mem_mb=memory_of_segmentation,
        runtime=growing(240),
    params:
        code=code_of("segmentation.py"),
        block_shape=cfg["segmentation"]["block_shape"],
        chunks=cfg["segmentation"]["chunks"],
    message:
        "segmentation of {wildcards.setup}, replicate {wildcards.replicate}, on {wildcards.region}"
    script:
        "../scripts/segmentation.py"
