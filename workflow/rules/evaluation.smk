localrules:
    select_threshold,
    compare,


rule skeletons:
    input:
        volume=volume_of_region,
        traced=skeleton_files,
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
        source=skeleton_source,
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
        tree=f"{SEGMENTATION}/merge_tree.zarr",
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


rule run_length:
    input:
        fragments=f"{SEGMENTATION}/fragments.zarr/zarr.json",
        found=markers_of_fragments,
        tree=f"{SEGMENTATION}/merge_tree.zarr",
        skeletons="results/{experiment}/skeletons/{region}.npz",
    output:
        "results/{experiment}/scores/{setup}/{replicate}/{region}_run_length.csv",
    log:
        "results/{experiment}/logs/run_length/{setup}/{replicate}/{region}.log",
    benchmark:
        "results/{experiment}/benchmarks/run_length/{setup}/{replicate}/{region}.tsv"
    conda:
        "../../envs/evaluate.yaml"
    threads: 1
    resources:
        mem_mb=growing(8000),
        runtime=growing(60),
    params:
        code=code_of("run_length.py"),
        merge_tolerance=cfg["evaluation"]["merge_tolerance"],
        block_shape=cfg["segmentation"]["block_shape"],
        thresholds=configuration.thresholds(cfg),
    message:
        "run lengths of {wildcards.setup}, replicate {wildcards.replicate}, on {wildcards.region} at all thresholds"
    script:
        "../scripts/run_length.py"


rule select_threshold:
    input:
        overlap="results/{experiment}/scores/{setup}/{replicate}/validation.csv",
        run_length="results/{experiment}/scores/{setup}/{replicate}/validation_run_length.csv",
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
        "selecting the thresholds of {wildcards.setup}, replicate {wildcards.replicate}"
    script:
        "../scripts/select_threshold.py"


rule min_cut:
    input:
        fragments="results/{experiment}/segmentations/{setup}/{replicate}/test/fragments.zarr/zarr.json",
        tree="results/{experiment}/segmentations/{setup}/{replicate}/test/merge_tree.zarr",
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


rule score_parts:
    input:
        volume=volume_path(REGIONS["test"]["volume"]),
        segmentation="results/{experiment}/segmentations/{setup}/{replicate}/test/segmentation.zarr/zarr.json",
        segmented=markers_of_segmentation,
        skeletons="results/{experiment}/skeletons/test.npz",
    output:
        blocks="results/{experiment}/scores/{setup}/{replicate}/blocks.npz",
        skeletons="results/{experiment}/scores/{setup}/{replicate}/skeletons.csv",
    log:
        "results/{experiment}/logs/score_parts/{setup}/{replicate}.log",
    benchmark:
        "results/{experiment}/benchmarks/score_parts/{setup}/{replicate}.tsv"
    conda:
        "../../envs/evaluate.yaml"
    threads: 1
    resources:
        mem_mb=growing(8000),
        runtime=growing(60),
    params:
        code=code_of("score_parts.py"),
        merge_tolerance=cfg["evaluation"]["merge_tolerance"],
        roi=box_of("test"),
        block_shape=cfg["evaluation"]["interval_block_shape"],
    message:
        "scoring the parts of the test region, {wildcards.setup}, replicate {wildcards.replicate}"
    script:
        "../scripts/score_parts.py"


rule sizes:
    input:
        volume=volume_path(REGIONS["test"]["volume"]),
        segmentation="results/{experiment}/segmentations/{setup}/{replicate}/test/segmentation.zarr/zarr.json",
        segmented=markers_of_segmentation,
        skeletons="results/{experiment}/skeletons/test.npz",
        fragments="results/{experiment}/segmentations/{setup}/{replicate}/test/fragments.zarr/zarr.json",
        tree="results/{experiment}/segmentations/{setup}/{replicate}/test/merge_tree.zarr",
        selected="results/{experiment}/scores/{setup}/{replicate}/selected.json",
    output:
        "results/{experiment}/scores/{setup}/{replicate}/sizes.csv",
    log:
        "results/{experiment}/logs/sizes/{setup}/{replicate}.log",
    benchmark:
        "results/{experiment}/benchmarks/sizes/{setup}/{replicate}.tsv"
    conda:
        "../../envs/evaluate.yaml"
    threads: 1
    resources:
        mem_mb=growing(8000),
        runtime=growing(120),
    params:
        code=code_of("sizes.py"),
        merge_tolerance=cfg["evaluation"]["merge_tolerance"],
        roi=box_of("test"),
        block_shape=cfg["segmentation"]["block_shape"],
        fractions=cfg["evaluation"]["fractions"],
    message:
        "scoring boxes of growing size, {wildcards.setup}, replicate {wildcards.replicate}"
    script:
        "../scripts/sizes.py"


rule errors:
    input:
        volume=volume_path(REGIONS["test"]["volume"]),
        segmentation="results/{experiment}/segmentations/{setup}/{replicate}/test/segmentation.zarr/zarr.json",
        segmented=markers_of_segmentation,
    output:
        "results/{experiment}/scores/{setup}/{replicate}/errors.csv",
    log:
        "results/{experiment}/logs/errors/{setup}/{replicate}.log",
    benchmark:
        "results/{experiment}/benchmarks/errors/{setup}/{replicate}.tsv"
    conda:
        "../../envs/evaluate.yaml"
    threads: 1
    resources:
        mem_mb=growing(8000),
        runtime=growing(60),
    params:
        code=code_of("errors.py"),
        roi=box_of("test"),
        block_shape=cfg["segmentation"]["block_shape"],
    message:
        "the worst errors of {wildcards.setup}, replicate {wildcards.replicate}"
    script:
        "../scripts/errors.py"


rule score_external:
    input:
        segmentation="resources/segmentations/{external}.zarr",
        volume=volume_path(REGIONS["test"]["volume"]),
        skeletons="results/{experiment}/skeletons/test.npz",
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
        merge_tolerance=cfg["evaluation"]["merge_tolerance"],
        roi=box_of("test"),
        block_shape=cfg["segmentation"]["block_shape"],
    message:
        "scoring the external segmentation {wildcards.external}"
    script:
        "../scripts/score_external.py"


# Segmentations made elsewhere are scored by the same rules, on the same parts, boxes and skeletons.
use rule score_parts as score_parts_external with:
    input:
        volume=volume_path(REGIONS["test"]["volume"]),
        segmentation="resources/segmentations/{external}.zarr",
        skeletons="results/{experiment}/skeletons/test.npz",
    output:
        blocks="results/{experiment}/scores/external/{external}/blocks.npz",
        skeletons="results/{experiment}/scores/external/{external}/skeletons.csv",
    log:
        "results/{experiment}/logs/score_parts/external/{external}.log",
    benchmark:
        "results/{experiment}/benchmarks/score_parts_external/{external}.tsv"
    message:
        "scoring the parts of the test region, {wildcards.external}"


use rule sizes as sizes_external with:
    input:
        volume=volume_path(REGIONS["test"]["volume"]),
        segmentation="resources/segmentations/{external}.zarr",
        skeletons="results/{experiment}/skeletons/test.npz",
    output:
        "results/{experiment}/scores/external/{external}/sizes.csv",
    log:
        "results/{experiment}/logs/sizes/external/{external}.log",
    benchmark:
        "results/{experiment}/benchmarks/sizes_external/{external}.tsv"
    message:
        "scoring boxes of growing size, {wildcards.external}"


use rule errors as errors_external with:
    input:
        volume=volume_path(REGIONS["test"]["volume"]),
        segmentation="resources/segmentations/{external}.zarr",
    output:
        "results/{experiment}/scores/external/{external}/errors.csv",
    log:
        "results/{experiment}/logs/errors/external/{external}.log",
    benchmark:
        "results/{experiment}/benchmarks/errors_external/{external}.tsv"
    message:
        "the worst errors of {wildcards.external}"


rule intervals:
    input:
        blocks=files_of_rows("blocks.npz"),
        skeletons=files_of_rows("skeletons.csv"),
    output:
        intervals="results/{experiment}/scores/intervals.csv",
        pairs="results/{experiment}/scores/pairs.csv",
    log:
        "results/{experiment}/logs/intervals.log",
    benchmark:
        "results/{experiment}/benchmarks/intervals.tsv"
    conda:
        "../../envs/evaluate.yaml"
    threads: 1
    resources:
        mem_mb=growing(4000),
        runtime=growing(60),
    params:
        code=code_of("intervals.py"),
        rows=rows_of_comparison(),
        draws=cfg["evaluation"]["draws"],
        level=cfg["evaluation"]["level"],
    message:
        "intervals of all scores, and which setups differ"
    script:
        "../scripts/intervals.py"


rule compare:
    input:
        test=score_files("test.csv"),
        validation=score_files("validation.csv"),
        fragments=score_files("test_fragments.csv"),
        test_run_length=score_files("test_run_length.csv"),
        validation_run_length=score_files("validation_run_length.csv"),
        selected=score_files("selected.json"),
        min_cut=score_files("min_cut.csv"),
        externals=expand("results/{{experiment}}/scores/external/{external}.csv", external=EXTERNALS),
        sizes=files_of_rows("sizes.csv"),
        intervals="results/{experiment}/scores/intervals.csv",
    output:
        rows="results/{experiment}/scores/rows.csv",
        curves="results/{experiment}/scores/curves.csv",
        selection="results/{experiment}/scores/selection.csv",
        sizes="results/{experiment}/scores/sizes.csv",
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
        rows=rows_of_comparison(),
    message:
        "comparing all rows"
    script:
        "../scripts/compare.py"
