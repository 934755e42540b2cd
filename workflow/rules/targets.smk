rule lsd_targets:
    input:
        volume=volume_of_region,
    output:
        directory("results/{experiment}/targets/{region}.zarr"),
    log:
        "results/{experiment}/logs/lsd_targets/{region}.log",
    benchmark:
        "results/{experiment}/benchmarks/lsd_targets/{region}.tsv"
    wildcard_constraints:
        region=one_of(TRAIN_REGIONS),
    # It refuses regions without labels: sooner than other work.
    priority: 50
    conda:
        "../../envs/targets.yaml"
    threads: 2
    resources:
        mem_mb=memory_of_targets,
        runtime=growing(120),
    params:
        code=code_of("lsd_targets.py"),
        roi=roi_of_region,
        sigma=cfg["targets"]["sigma"],
        downsample=cfg["targets"]["downsample"],
        grow_boundary=cfg["targets"]["grow_boundary"],
        only_xy=cfg["targets"]["grow_boundary_only_xy"],
    message:
        "computing the targets of {wildcards.region}"
    script:
        "../scripts/lsd_targets.py"
