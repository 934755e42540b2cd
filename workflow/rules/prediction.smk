localrules:
    create_predictions,


rule create_predictions:
    input:
        volume=volume_of_region,
    output:
        "results/{experiment}/predictions/{setup}/{replicate}/{region}.zarr/zarr.json",
    log:
        "results/{experiment}/logs/create_predictions/{setup}/{replicate}/{region}.log",
    benchmark:
        "results/{experiment}/benchmarks/create_predictions/{setup}/{replicate}/{region}.tsv"
    # Before any training: what is wrong with the data shows here.
    priority: 20
    conda:
        "../../envs/train.yaml"
    threads: 1
    resources:
        mem_mb=growing(1000),
        runtime=growing(10),
    params:
        code=code_of("create_store.py"),
        roi=roi_of_predictions,
        needs_truth=False,
        volumes=volumes_of_predictions,
        pyramid=None,
        block_shape=block_of_predictions,
    message:
        "preparing the predictions of {wildcards.setup}, replicate {wildcards.replicate}, on {wildcards.region}"
    script:
        "../scripts/create_store.py"


rule predict:
    input:
        volume=volume_of_region,
        checkpoints=checkpoints_of_setup,
        store="results/{experiment}/predictions/{setup}/{replicate}/{region}.zarr/zarr.json",
        predictions=stores_of_seen,
        predicted=markers_of_seen,
    output:
        "results/{experiment}/predictions/{setup}/{replicate}/{region}/chunk-{chunk}-of-{chunks}.json",
    log:
        "results/{experiment}/logs/predict/{setup}/{replicate}/{region}/{chunk}-of-{chunks}.log",
    benchmark:
        "results/{experiment}/benchmarks/predict/{setup}/{replicate}/{region}/{chunk}-of-{chunks}.tsv"
    wildcard_constraints:
        setup=one_of(cfg["setups"]),
    conda:
        "../../envs/train.yaml"
    threads: 1
    resources:
        mem_mb=memory_of_predictions,
        runtime=growing(720),
        gpu=1,
        # No parameter: the same predictions, but for rounding, wherever they are made.
        device=cfg["device"],
    params:
        code=code_of("predict.py"),
        setups=entries_of_setup,
        frozen=names_of_seen,
        roi=roi_of_predictions,
        block_shape=block_of_predictions,
        context=cfg["prediction"]["context"],
        precision=cfg["prediction"]["precision"],
        augment=cfg["prediction"]["augment"],
        chunks=cfg["prediction"]["chunks"],
    message:
        "predicting {wildcards.region} with {wildcards.setup}, replicate {wildcards.replicate}"
    script:
        "../scripts/predict.py"


rule raw_affinities:
    input:
        volume=volume_of_region,
        store="results/{experiment}/predictions/{setup}/{replicate}/{region}.zarr/zarr.json",
    output:
        "results/{experiment}/predictions/{setup}/{replicate}/{region}/chunk-{chunk}-of-{chunks}.json",
    log:
        "results/{experiment}/logs/raw_affinities/{setup}/{replicate}/{region}/{chunk}-of-{chunks}.log",
    benchmark:
        "results/{experiment}/benchmarks/raw_affinities/{setup}/{replicate}/{region}/{chunk}-of-{chunks}.tsv"
    wildcard_constraints:
        setup=RAW_WATERSHED,
    conda:
        "../../envs/segment.yaml"
    threads: 1
    resources:
        mem_mb=growing(4000),
        runtime=growing(60),
    params:
        code=code_of("raw_affinities.py"),
        roi=roi_of_region,
        smoothing=cfg["raw_watershed"]["smoothing"],
        block_shape=block_of_predictions,
        chunks=cfg["prediction"]["chunks"],
    message:
        "reading affinities off the grey values of {wildcards.region}"
    script:
        "../scripts/raw_affinities.py"
