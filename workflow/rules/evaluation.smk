rule skeletons:
    input:
        volume=volume_of_region,
    output:
        "results/{experiment}/skeletons/{region}.npz",
    log:
        "results/{experiment}/logs/skeletons/{region}.log",
    benchmark:
        "results/{experiment}/benchmarks/skeletons/{region}.tsv"
    conda:
        "../../envs/evaluate.yaml"
    threads: 1
    resources:
        mem_mb=growing(8000),
        runtime=growing(120),
    params:
        code=code_of("skeletons.py"),
        roi=roi_of_region,
        node_spacing=cfg["evaluation"]["node_spacing"],
        minimum_length=cfg["evaluation"]["minimum_skeleton_length"],
    message:
        "skeletons of the true objects of {wildcards.region}"
    script:
        "../scripts/skeletons.py"


rule evaluate:
    input:
        volume=volume_of_region,
        fragments=f"{SEGMENTATION}/fragments.zarr/zarr.json",
        found=markers_of_fragments,
        tree=f"{SEGMENTATION}/merge_tree.npz",
    output:
        curve="results/{experiment}/scores/{setup}/{replicate}/{region}.csv",
        fragments="results/{experiment}/scores/{setup}/{replicate}/{region}_fragments.csv",
    log:
        "results/{experiment}/logs/evaluate/{setup}/{replicate}/{region}.log",
    benchmark:
        "results/{experiment}/benchmarks/evaluate/{setup}/{replicate}/{region}.tsv"
    conda:
        "../../envs/evaluate.yaml"
    threads: 1
    resources:
        mem_mb=growing(8000),
        runtime=growing(120),
    params:
        code=code_of("evaluate.py"),
        roi=roi_of_region,
        block_shape=cfg["segmentation"]["block_shape"],
        thresholds=configuration.thresholds(cfg),
    message:
        "scoring {wildcards.setup}, replicate {wildcards.replicate}, on {wildcards.region} at all thresholds"
    script:
        "../scripts/evaluate.py"


rule select_threshold:
    input:
        "results/{experiment}/scores/{setup}/{replicate}/validation.csv",
    output:
        "results/{experiment}/scores/{setup}/{replicate}/selected.json",
    log:
        "results/{experiment}/logs/select_threshold/{setup}/{replicate}.log",
    benchmark:
        "results/{experiment}/benchmarks/select_threshold/{setup}/{replicate}.tsv"
    conda:
        "../../envs/evaluate.yaml"
    threads: 1
    resources:
        mem_mb=growing(1000),
        runtime=growing(10),
    params:
        code=code_of("select_threshold.py"),
    message:
        "selecting the threshold of {wildcards.setup}, replicate {wildcards.replicate}"
    script:
        "../scripts/select_threshold.py"


rule min_cut:
    input:
        fragments="results/{experiment}/segmentations/{setup}/{replicate}/test/fragments.zarr/zarr.json",
        tree="results/{experiment}/segmentations/{setup}/{replicate}/test/merge_tree.npz",
        skeletons="results/{experiment}/skeletons/test.npz",
        selected="results/{experiment}/scores/{setup}/{replicate}/selected.json",
    output:
        "results/{experiment}/scores/{setup}/{replicate}/min_cut.csv",
    log:
        "results/{experiment}/logs/min_cut/{setup}/{replicate}.log",
    benchmark:
        "results/{experiment}/benchmarks/min_cut/{setup}/{replicate}.tsv"
    conda:
        "../../envs/evaluate.yaml"
    threads: 1
    resources:
        mem_mb=growing(8000),
        runtime=growing(120),
    params:
        code=code_of("min_cut.py"),
        block_shape=cfg["segmentation"]["block_shape"],
    message:
        "min-cut metric of {wildcards.setup}, replicate {wildcards.replicate}"
    script:
        "../scripts/min_cut.py"


rule score_external:
    input:
        segmentation="resources/segmentations/{external}.zarr",
        volume=volume_path(REGIONS["test"]["volume"]),
    output:
        "results/{experiment}/scores/external/{external}.csv",
    log:
        "results/{experiment}/logs/score_external/{external}.log",
    benchmark:
        "results/{experiment}/benchmarks/score_external/{external}.tsv"
    conda:
        "../../envs/evaluate.yaml"
    threads: 1
    resources:
        mem_mb=growing(8000),
        runtime=growing(60),
    params:
        code=code_of("score_external.py"),
        roi=box_of("test"),
        block_shape=cfg["segmentation"]["block_shape"],
    message:
        "scoring the external segmentation {wildcards.external}"
    script:
        "../scripts/score_external.py"


rule compare:
    input:
        test=score_files("test.csv"),
        validation=score_files("validation.csv"),
        fragments=score_files("test_fragments.csv"),
        selected=score_files("selected.json"),
        min_cut=score_files("min_cut.csv"),
        externals=expand("results/{{experiment}}/scores/external/{external}.csv", external=EXTERNALS),
    output:
        rows="results/{experiment}/scores/rows.csv",
        curves="results/{experiment}/scores/curves.csv",
    log:
        "results/{experiment}/logs/compare.log",
    benchmark:
        "results/{experiment}/benchmarks/compare.tsv"
    conda:
        "../../envs/evaluate.yaml"
    threads: 1
    resources:
        mem_mb=growing(1000),
        runtime=growing(10),
    params:
        code=code_of("compare.py"),
        runs=[[s, r, "reference" if s == RAW_WATERSHED else "network"] for s, r in runs()],
        externals=EXTERNALS,
    message:
        "comparing all rows"
    script:
        "../scripts/compare.py"
