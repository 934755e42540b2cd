localrules:
    create_targets,


rule create_targets:
    input:
        volume=volume_of_region,
    output:
        "results/{experiment}/targets/{region}.zarr/zarr.json",
    log:
        "results/{experiment}/logs/create_targets/{region}.log",
    benchmark:
        "results/{experiment}/benchmarks/create_targets/{region}.tsv"
    wildcard_constraints:
        region=one_of(TRAIN_REGIONS),
    # It refuses regions without labels: sooner than other work.
    priority: 50
    conda:
        "../../envs/targets.yaml"
    threads: 1
    resources:
        mem_mb=growing(1000),
        runtime=growing(10),
    params:
        code=code_of("create_store.py"),
        roi=roi_of_region,
        needs_truth=True,
        volumes={"labels": [0, "uint64"], "lsds": [10, "float32"]},
        pyramid=None,
        block_shape=cfg["targets"]["block_shape"],
    message:
        "preparing the targets of {wildcards.region}"
    script:
        "../scripts/create_store.py"


rule lsd_targets:
    input:
        volume=volume_of_region,
        store="results/{experiment}/targets/{region}.zarr/zarr.json",
    output:
        "results/{experiment}/targets/{region}/chunk-{chunk}-of-{chunks}.json",
    log:
        "results/{experiment}/logs/lsd_targets/{region}/{chunk}-of-{chunks}.log",
    benchmark:
        "results/{experiment}/benchmarks/lsd_targets/{region}-{chunk}-of-{chunks}.tsv"
    wildcard_constraints:
        region=one_of(TRAIN_REGIONS),
    # All training waits for it.
    priority: 50
    conda:
        "../../envs/targets.yaml"
    threads: 2
    resources:
        mem_mb=memory_of_targets,
        runtime=growing(240),
    params:
        code=code_of("lsd_targets.py"),
        roi=roi_of_region,
        block_shape=cfg["targets"]["block_shape"],
        chunks=cfg["targets"]["chunks"],
        sigma=cfg["targets"]["sigma"],
        downsample=cfg["targets"]["downsample"],
        grow_boundary=cfg["targets"]["grow_boundary"],
        only_xy=cfg["targets"]["grow_boundary_only_xy"],
    message:
        "computing the targets of {wildcards.region}"
    script:
        "../scripts/lsd_targets.py"
