rule train:
    input:
        volumes=[volume_path(REGIONS[name]["volume"]) for name in TRAIN_REGIONS],
        targets=expand("results/{{experiment}}/targets/{region}.zarr/zarr.json", region=TRAIN_REGIONS),
        computed=markers_of_targets(),
        frozen=frozen_checkpoints,
        validation=volume_path(REGIONS["validation"]["volume"]),
    output:
        checkpoint="results/{experiment}/models/{setup}/{replicate}/checkpoint.pt",
        log="results/{experiment}/models/{setup}/{replicate}/log.csv",
        validation="results/{experiment}/models/{setup}/{replicate}/validation.csv",
    log:
        "results/{experiment}/logs/train/{setup}/{replicate}.log",
    benchmark:
        "results/{experiment}/benchmarks/train/{setup}/{replicate}.tsv"
    wildcard_constraints:
        setup=one_of(cfg["setups"]),
    # The longest way through the graph: networks that others see come before everything else.
    priority: 10
    conda:
        "../../envs/train.yaml"
    # Many networks are trained: side by side on one core each they take less time than one after the other on all.
    threads: 1
    resources:
        mem_mb=growing(16000),
        runtime=growing(2880),
        gpu=processes_of_training,
        # No parameter: where a network was trained is no reason to train it again.
        device=cfg["device"],
    params:
        code=code_of("train.py"),
        setups=entries_of_setup,
        frozen=names_of_frozen,
        context=context_of_frozen,
        regions=train_regions,
        validation={"roi": box_of("validation"), "in_sections": cfg["segmentation"]["in_sections"]},
        targets={
            "sigma": cfg["targets"]["sigma"],
            "downsample": cfg["targets"]["downsample"],
            "steps": cfg["targets"]["grow_boundary"],
            "only_xy": cfg["targets"]["grow_boundary_only_xy"],
        },
        training=lookup("setups/{setup}/training", within=cfg),
    message:
        "training {wildcards.setup}, replicate {wildcards.replicate} (progress in {log})"
    script:
        "../scripts/train.py"
