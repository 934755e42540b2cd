localrules:
    plot_scores,
    plot_training,
    plot_sizes,
    plot_pairs,
    plot_compute,
    plot_resources,
    summary,
    publish_figure,
    publish_table,


rule plot_scores:
    input:
        rows="results/{experiment}/scores/rows.csv",
        curves="results/{experiment}/scores/curves.csv",
    output:
        voi=report(
            "results/{experiment}/figures/voi_curves.png",
            caption="../report/voi_curves.rst",
            category="Comparison",
            labels={"figure": "VOI split against merge"},
        ),
        voi_svg="results/{experiment}/figures/voi_curves.svg",
        bars=report(
            "results/{experiment}/figures/comparison.png",
            caption="../report/comparison.rst",
            category="Comparison",
            labels={"figure": "scores by setup"},
        ),
        bars_svg="results/{experiment}/figures/comparison.svg",
    log:
        "results/{experiment}/logs/plot_scores.log",
    benchmark:
        "results/{experiment}/benchmarks/plot_scores.tsv"
    conda:
        "../../envs/report.yaml"
    threads: 1
    resources:
        mem_mb=growing(2000),
        runtime=growing(10),
    params:
        code=code_of("plot_scores.py"),
        setups=list(cfg["setups"]),
        externals=EXTERNALS,
    message:
        "drawing the scores"
    script:
        "../scripts/plot_scores.py"


rule plot_training:
    input:
        logs=[f"results/{EXPERIMENT}/models/{setup}/{replicate}/log.csv" for setup, replicate in training_runs()],
        validations=[
            f"results/{EXPERIMENT}/models/{setup}/{replicate}/validation.csv" for setup, replicate in training_runs()
        ],
    output:
        png=report(
            "results/{experiment}/figures/training.png",
            caption="../report/training.rst",
            category="Training",
            labels={"figure": "losses and validations"},
        ),
        svg="results/{experiment}/figures/training.svg",
    log:
        "results/{experiment}/logs/plot_training.log",
    benchmark:
        "results/{experiment}/benchmarks/plot_training.tsv"
    conda:
        "../../envs/report.yaml"
    threads: 1
    resources:
        mem_mb=growing(2000),
        runtime=growing(10),
    params:
        code=code_of("plot_training.py"),
        setups=list(cfg["setups"]),
        runs=training_runs(),
    message:
        "drawing the training curves"
    script:
        "../scripts/plot_training.py"


rule plot_augmentations:
    input:
        volume=volume_of_region,
    output:
        png=report(
            "results/{experiment}/figures/augmentations_{region}.png",
            caption="../report/augmentations.rst",
            category="Training",
            labels={"figure": "augmentations of {region}"},
        ),
        svg="results/{experiment}/figures/augmentations_{region}.svg",
    log:
        "results/{experiment}/logs/plot_augmentations/{region}.log",
    benchmark:
        "results/{experiment}/benchmarks/plot_augmentations/{region}.tsv"
    wildcard_constraints:
        region=one_of(TRAIN_REGIONS),
    conda:
        "../../envs/evaluate.yaml"
    threads: 1
    resources:
        mem_mb=growing(2000),
        runtime=growing(10),
    params:
        code=code_of("plot_augmentations.py"),
        roi=roi_of_region,
    message:
        "drawing the augmentations of {wildcards.region}"
    script:
        "../scripts/plot_augmentations.py"


rule plot_targets:
    input:
        volume=volume_of_region,
        store="results/{experiment}/targets/{region}.zarr/zarr.json",
        computed=markers_of_targets(),
    output:
        png=report(
            "results/{experiment}/figures/targets_{region}.png",
            caption="../report/targets.rst",
            category="Pictures",
            labels={"figure": "descriptors of {region}"},
        ),
        svg="results/{experiment}/figures/targets_{region}.svg",
    log:
        "results/{experiment}/logs/plot_targets/{region}.log",
    benchmark:
        "results/{experiment}/benchmarks/plot_targets/{region}.tsv"
    wildcard_constraints:
        region=one_of(TRAIN_REGIONS),
    conda:
        "../../envs/report.yaml"
    threads: 1
    resources:
        mem_mb=growing(2000),
        runtime=growing(10),
    params:
        code=code_of("plot_targets.py"),
        roi=roi_of_region,
        sigma=cfg["targets"]["sigma"],
    message:
        "drawing the descriptors of {wildcards.region}"
    script:
        "../scripts/plot_targets.py"


rule plot_panel:
    input:
        unpack(panel_inputs),
    output:
        png=report(
            "results/{experiment}/figures/panel_{setup}.png",
            caption="../report/panel.rst",
            category="Pictures",
            labels={"setup": "{setup}"},
        ),
        svg="results/{experiment}/figures/panel_{setup}.svg",
    log:
        "results/{experiment}/logs/plot_panel/{setup}.log",
    benchmark:
        "results/{experiment}/benchmarks/plot_panel/{setup}.tsv"
    conda:
        "../../envs/report.yaml"
    threads: 1
    resources:
        mem_mb=growing(4000),
        runtime=growing(10),
    params:
        code=code_of("plot_panel.py"),
        roi=box_of("test"),
    message:
        "drawing the pictures of {wildcards.setup}"
    script:
        "../scripts/plot_panel.py"


rule plot_resources:
    input:
        rows="results/{experiment}/scores/rows.csv",
        segmentations=segmentations_of_test(),
        errors=files_of_rows("errors.csv"),
    output:
        png=report(
            "results/{experiment}/figures/resources.png",
            caption="../report/resources.rst",
            category="Resources",
            labels={"figure": "time and memory per stage"},
        ),
        svg="results/{experiment}/figures/resources.svg",
        table="results/{experiment}/scores/resources.csv",
    log:
        "results/{experiment}/logs/plot_resources.log",
    benchmark:
        "results/{experiment}/benchmarks/plot_resources.tsv"
    conda:
        "../../envs/report.yaml"
    threads: 1
    resources:
        mem_mb=growing(2000),
        runtime=growing(10),
    params:
        code=code_of("plot_resources.py"),
        measurements=benchmark_files(),
        setups=list(cfg["setups"]),
    message:
        "drawing time and memory"
    script:
        "../scripts/plot_resources.py"


rule plot_errors:
    input:
        unpack(error_inputs),
    output:
        png=report(
            "results/{experiment}/figures/errors_{setup}.png",
            caption="../report/errors.rst",
            category="Errors",
            labels={"setup": "{setup}"},
        ),
        svg="results/{experiment}/figures/errors_{setup}.svg",
    log:
        "results/{experiment}/logs/plot_errors/{setup}.log",
    benchmark:
        "results/{experiment}/benchmarks/plot_errors/{setup}.tsv"
    wildcard_constraints:
        setup=one_of(WITH_ERRORS),
    conda:
        "../../envs/report.yaml"
    threads: 1
    resources:
        mem_mb=growing(4000),
        runtime=growing(10),
    params:
        code=code_of("plot_errors.py"),
        roi=box_of("test"),
    message:
        "drawing the worst splits and merges of {wildcards.setup}"
    script:
        "../scripts/plot_errors.py"


rule plot_sizes:
    input:
        "results/{experiment}/scores/sizes.csv",
    output:
        png=report(
            "results/{experiment}/figures/sizes.png",
            caption="../report/sizes.rst",
            category="Comparison",
            labels={"figure": "scores against size"},
        ),
        svg="results/{experiment}/figures/sizes.svg",
    log:
        "results/{experiment}/logs/plot_sizes.log",
    benchmark:
        "results/{experiment}/benchmarks/plot_sizes.tsv"
    conda:
        "../../envs/report.yaml"
    threads: 1
    resources:
        mem_mb=growing(2000),
        runtime=growing(10),
    params:
        code=code_of("plot_sizes.py"),
        setups=list(cfg["setups"]),
        externals=EXTERNALS,
    message:
        "drawing scores against size"
    script:
        "../scripts/plot_sizes.py"


rule plot_pairs:
    input:
        "results/{experiment}/scores/pairs.csv",
    output:
        png=report(
            "results/{experiment}/figures/pairs_{metric}.png",
            caption="../report/pairs.rst",
            category="Comparison",
            labels={"figure": "which setups differ, {metric}"},
        ),
        svg="results/{experiment}/figures/pairs_{metric}.svg",
    log:
        "results/{experiment}/logs/plot_pairs/{metric}.log",
    benchmark:
        "results/{experiment}/benchmarks/plot_pairs/{metric}.tsv"
    wildcard_constraints:
        metric="voi_sum|adapted_rand_error|expected_run_length",
    conda:
        "../../envs/report.yaml"
    threads: 1
    resources:
        mem_mb=growing(2000),
        runtime=growing(10),
    params:
        code=code_of("plot_pairs.py"),
        setups=list(cfg["setups"]),
        externals=EXTERNALS,
    message:
        "drawing which setups differ in {wildcards.metric}"
    script:
        "../scripts/plot_pairs.py"


rule plot_compute:
    input:
        rows="results/{experiment}/scores/rows.csv",
        resources="results/{experiment}/scores/resources.csv",
    output:
        png=report(
            "results/{experiment}/figures/compute.png",
            caption="../report/compute.rst",
            category="Resources",
            labels={"figure": "quality against compute"},
        ),
        svg="results/{experiment}/figures/compute.svg",
        table="results/{experiment}/scores/compute.csv",
    log:
        "results/{experiment}/logs/plot_compute.log",
    benchmark:
        "results/{experiment}/benchmarks/plot_compute.tsv"
    conda:
        "../../envs/report.yaml"
    threads: 1
    resources:
        mem_mb=growing(2000),
        runtime=growing(10),
    params:
        code=code_of("plot_compute.py"),
        setups=list(cfg["setups"]),
        chains=chains_of_networks(),
        voxels=voxels_predicted(),
    message:
        "drawing quality against compute"
    script:
        "../scripts/plot_compute.py"


rule plot_skeletons:
    input:
        volume=volume_path(REGIONS["test"]["volume"]),
        skeletons="results/{experiment}/skeletons/test.npz",
    output:
        png=report(
            "results/{experiment}/figures/skeletons.png",
            caption="../report/skeletons.rst",
            category="Pictures",
            labels={"figure": "skeletons of the truth"},
        ),
        svg="results/{experiment}/figures/skeletons.svg",
    log:
        "results/{experiment}/logs/plot_skeletons.log",
    benchmark:
        "results/{experiment}/benchmarks/plot_skeletons.tsv"
    conda:
        "../../envs/evaluate.yaml"
    threads: 1
    resources:
        mem_mb=growing(4000),
        runtime=growing(10),
    params:
        code=code_of("plot_skeletons.py"),
        roi=box_of("test"),
    message:
        "drawing the skeletons of the test region"
    script:
        "../scripts/plot_skeletons.py"


rule summary:
    input:
        rows="results/{experiment}/scores/rows.csv",
        resources="results/{experiment}/scores/resources.csv",
        logs=[f"results/{EXPERIMENT}/models/{setup}/{replicate}/log.csv" for setup, replicate in training_runs()],
        voi="results/{experiment}/figures/voi_curves.png",
        bars="results/{experiment}/figures/comparison.png",
        training="results/{experiment}/figures/training.png",
        augmentations=f"results/{EXPERIMENT}/figures/augmentations_{TRAIN_REGIONS[0]}.png",
        targets=f"results/{EXPERIMENT}/figures/targets_{TRAIN_REGIONS[0]}.png",
        times="results/{experiment}/figures/resources.png",
        sizes="results/{experiment}/figures/sizes.png",
        pairs="results/{experiment}/figures/pairs_voi_sum.png",
        other_pairs=expand(
            "results/{{experiment}}/figures/pairs_{metric}.png",
            metric=["adapted_rand_error", "expected_run_length"],
        ),
        pair_table="results/{experiment}/scores/pairs.csv",
        compute="results/{experiment}/figures/compute.png",
        skeletons="results/{experiment}/figures/skeletons.png",
        panels=expand(
            "results/{{experiment}}/figures/panel_{setup}.png",
            setup=PICTURED,
        ),
        errors=expand(
            "results/{{experiment}}/figures/errors_{setup}.png",
            setup=WITH_ERRORS,
        ),
    output:
        page=report(
            "results/{experiment}/summary.html",
            caption="../report/summary.rst",
            category="Summary",
            labels={"page": "everything on one page"},
        ),
        table="results/{experiment}/scores/comparison.md",
        summary="results/{experiment}/scores/comparison.csv",
    log:
        "results/{experiment}/logs/summary.log",
    benchmark:
        "results/{experiment}/benchmarks/summary.tsv"
    conda:
        "../../envs/report.yaml"
    threads: 1
    resources:
        mem_mb=growing(2000),
        runtime=growing(10),
    params:
        code=code_of("summary.py"),
        setups=list(cfg["setups"]),
        panels=PICTURED,
        with_errors=WITH_ERRORS,
        replicates=cfg["replicates"],
        train=[f"{REGIONS[name]['volume']}, {configuration.region_roi(cfg, REGIONS[name])}" for name in TRAIN_REGIONS],
        validation=f"{REGIONS['validation']['volume']}, {configuration.region_roi(cfg, REGIONS['validation'])}",
        test=f"{REGIONS['test']['volume']}, {configuration.region_roi(cfg, REGIONS['test'])}",
    message:
        "writing results/{wildcards.experiment}/summary.html"
    script:
        "../scripts/summary.py"


rule publish_figure:
    input:
        "results/{experiment}/figures/{figure}.png",
    output:
        "docs/{experiment}/{figure}.png",
    log:
        "results/{experiment}/logs/publish_figure/{figure}.log",
    benchmark:
        "results/{experiment}/benchmarks/publish_figure/{figure}.tsv"
    conda:
        "../../envs/report.yaml"
    threads: 1
    resources:
        mem_mb=growing(500),
        runtime=growing(5),
    message:
        "copying the figure {wildcards.figure} into docs/{wildcards.experiment}"
    shell:
        "cp {input} {output} 2> {log}"


rule publish_table:
    input:
        "results/{experiment}/scores/{table}",
    output:
        "docs/{experiment}/{table}",
    log:
        "results/{experiment}/logs/publish_table/{table}.log",
    benchmark:
        "results/{experiment}/benchmarks/publish_table/{table}.tsv"
    wildcard_constraints:
        table=r"\w+\.(csv|md)",
    conda:
        "../../envs/report.yaml"
    threads: 1
    resources:
        mem_mb=growing(500),
        runtime=growing(5),
    message:
        "copying the table {wildcards.table} into docs/{wildcards.experiment}"
    shell:
        "cp {input} {output} 2> {log}"
