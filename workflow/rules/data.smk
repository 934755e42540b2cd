localrules:
    download,


rule download:
    input:
        checksums=lookup("downloads/{download}/checksums", within=cfg),
    output:
        "resources/downloads/{download}/SHA256SUMS",
    log:
        "resources/logs/download/{download}.log",
    benchmark:
        "resources/benchmarks/download/{download}.tsv"
    # Before any training: what is wrong with the data shows here.
    priority: 20
    conda:
        "../../envs/data.yaml"
    threads: 8
    resources:
        mem_mb=growing(1000),
        runtime=growing(120),
    params:
        code=code_of("download.py"),
        url=lookup("downloads/{download}/url", within=cfg),
    message:
        "downloading {wildcards.download} from {params.url}"
    script:
        "../scripts/download.py"


rule import_volume:
    input:
        files_of_volume,
    output:
        directory("resources/volumes/{volume}.zarr"),
    log:
        "resources/logs/import_volume/{volume}.log",
    benchmark:
        "resources/benchmarks/import_volume/{volume}.tsv"
    wildcard_constraints:
        volume=one_of(IMPORTED),
    # Before any training: what is wrong with the data shows here.
    priority: 20
    conda:
        "../../envs/data.yaml"
    threads: 1
    resources:
        mem_mb=growing(8000),
        runtime=growing(60),
    params:
        code=code_of("import_volume.py"),
        raw=raw_reader,
        labels=labels_reader,
        mask=mask_reader,
        shape=lookup("volumes/{volume}/shape", within=cfg),
        voxel_size=lookup("volumes/{volume}/voxel_size", within=cfg),
    message:
        "importing volume {wildcards.volume}"
    script:
        "../scripts/import_volume.py"


rule simulate_volume:
    output:
        directory("resources/volumes/{volume}.zarr"),
    log:
        "resources/logs/simulate_volume/{volume}.log",
    benchmark:
        "resources/benchmarks/simulate_volume/{volume}.tsv"
    wildcard_constraints:
        volume=one_of(SIMULATED),
    # Before any training: what is wrong with the data shows here.
    priority: 20
    conda:
        "../../envs/data.yaml"
    threads: 1
    resources:
        mem_mb=growing(8000),
        runtime=growing(60),
    params:
        code=code_of("simulate_volume.py"),
        shape=lookup("volumes/{volume}/shape", within=cfg),
        voxel_size=lookup("volumes/{volume}/voxel_size", within=cfg),
        simulate=lookup("volumes/{volume}/simulate", within=cfg),
    message:
        "simulating volume {wildcards.volume}"
    script:
        "../scripts/simulate_volume.py"


rule import_segmentation:
    input:
        files=files_of_external,
        volume=volume_of_external,
    output:
        directory("resources/segmentations/{external}.zarr"),
    log:
        "resources/logs/import_segmentation/{external}.log",
    benchmark:
        "resources/benchmarks/import_segmentation/{external}.tsv"
    # Before any training: what is wrong with the data shows here.
    priority: 20
    conda:
        "../../envs/data.yaml"
    threads: 1
    resources:
        mem_mb=growing(8000),
        runtime=growing(60),
    params:
        code=code_of("import_segmentation.py"),
        source=external_reader,
        fill_background=lookup("external_segmentations/{external}/fill_background", within=cfg),
    message:
        "importing the segmentation {wildcards.external}"
    script:
        "../scripts/import_segmentation.py"
