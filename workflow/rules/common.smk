"""The configuration, and what rules ask of it."""

import glob
from itertools import product
from math import prod
from pathlib import Path

from snakemake.exceptions import WorkflowError

from lsdflow import configuration, configuration_checks
from lsdflow.code_hash import code_hash
from lsdflow.errors import UserError
from lsdflow.prediction_shapes import input_box

SCRIPTS = Path(workflow.basedir) / "scripts"

try:
    cfg = configuration.complete(
        config,
        configuration.load_schema(Path(workflow.basedir) / "schemas/config.schema.yaml"),
    )
    configuration_checks.check(cfg)
    # A total of 0 makes CPU jobs of those that ask for a GPU; without a total each job has to see for itself.
    if cfg["device"] == "gpu" and workflow.resource_settings.resources.get("gpu") == 0:
        raise UserError(
            "device: gpu is demanded, but this run has none to give: name a profile that has "
            "(--workflow-profile gpu or slurm), or set device to auto or cpu"
        )
except UserError as error:
    raise WorkflowError(str(error)) from None

EXPERIMENT = cfg["experiment"]
RAW_WATERSHED = configuration.RAW_WATERSHED
SIMULATED = [name for name, volume in cfg["volumes"].items() if "simulate" in volume]
IMPORTED = [name for name in cfg["volumes"] if name not in SIMULATED]
REGIONS = configuration.regions(cfg)
TRAIN_REGIONS = [name for name in REGIONS if name.startswith("train-")]
SEGMENTATION = "results/{experiment}/segmentations/{setup}/{replicate}/{region}"
SEGMENTING = configuration.segmenting(cfg)
PICTURED = list(dict.fromkeys([*cfg["setups"], *SEGMENTING]))
EXTERNALS = list(cfg["external_segmentations"])
# Rows of which the worst errors are drawn.
WITH_ERRORS = [*SEGMENTING, *EXTERNALS]


def one_of(names):
    """A wildcard constraint: one of the names, or nothing at all where there are none."""
    return "|".join(names) or "(?!)"


wildcard_constraints:
    experiment=EXPERIMENT,
    volume=one_of(cfg["volumes"]),
    download=one_of(cfg["downloads"]),
    external=one_of(EXTERNALS),
    region=one_of(REGIONS),
    setup=one_of([*cfg["setups"], RAW_WATERSHED]),
    replicate=r"\d+",
    chunk=r"\d+",
    chunks=r"\d+",


def code_of(script):
    """The hash of the library code that a script runs: Snakemake does not watch imported modules."""
    return code_hash(SCRIPTS / script)


def growing(amount):
    """A resource of which each retry of a job gets as much again."""

    def for_attempt(wildcards, attempt):
        return amount * attempt

    return for_attempt


def memory_of_targets(wildcards, attempt):
    """MB for a block's labels, with the context of its descriptors, and the ten descriptors of its voxels."""
    block, seen = configuration.voxels_of_targets(cfg, REGIONS[wildcards.region]["volume"])
    return (1000 + (60 * seen + 120 * block) // 10**6) * attempt


def volume_path(name):
    return f"resources/volumes/{name}.zarr"


def volume_of_region(wildcards):
    return volume_path(REGIONS[wildcards.region]["volume"])


def box_of(region):
    """The ``[begin, end]`` of a region, in voxels of its volume."""
    roi = configuration.region_roi(cfg, REGIONS[region])
    return [list(roi.begin), list(roi.end)]


def roi_of_region(wildcards):
    return box_of(wildcards.region)


def roi_of_predictions(wildcards):
    """The region, and what setups that see these predictions need around it."""
    roi = configuration.prediction_roi(cfg, wildcards.setup, wildcards.region)
    return [list(roi.begin), list(roi.end)]


def block_of_predictions(wildcards):
    return list(configuration.prediction_block(cfg, wildcards.setup, wildcards.region))


def memory_of_predictions(wildcards, attempt):
    """MB for a pass, for what waits for the passes of neighbours, and for what is read ahead and written behind."""
    return int(2000 + 1.5 * cfg["prediction"]["memory_mb"]) * attempt


def source_files(source):
    """The file that says a source is there: its download's list, or the file or files themselves."""
    if "download" in source:
        return [f"resources/downloads/{source['download']}/SHA256SUMS"]
    return sorted(glob.glob(source["path"], recursive=True)) if source["format"] == "image_stack" else [source["path"]]


def source_reader(source):
    """The arguments of the reader of a source."""
    folder = f"resources/downloads/{source['download']}/" if "download" in source else ""
    options = {key: source[key] for key in ("dataset", "lookup") if key in source}
    return {"path": folder + source["path"], "format": source["format"], **options}


def frozen_setups(setup):
    """The setups that ``setup`` sees, directly or through others; those that are seen come first."""
    found = []
    for name in configuration.input_setups(cfg, setup):
        found += [other for other in [*frozen_setups(name), name] if other not in found]
    return found


def setup_entries(setup):
    """What defines ``setup`` and the setups that it sees, as plain values."""
    entries = {}
    for name in [*frozen_setups(setup), setup]:
        entry = cfg["setups"][name]
        entries[name] = {
            "inputs": entry["inputs"],
            "outputs": entry["outputs"],
            "network": configuration.network_of(cfg, name).as_dict(),
            "distances": entry["affinities"]["offsets"],
            "losses": entry["losses"],
            "loss_weights": entry["loss_weights"],
            "malis": entry["malis"],
        }
    return entries


def channels_of(setup):
    """The channels of each output of a row."""
    if setup == RAW_WATERSHED:
        return {"affinities": 3}
    outputs = cfg["setups"][setup]["outputs"]
    return {output: configuration.channels_of_output(cfg, setup, output) for output in outputs}


def checkpoint_path(setup, replicate):
    return f"results/{EXPERIMENT}/models/{setup}/{replicate}/checkpoint.pt"


def chunk_markers(folder, suffix, chunks):
    """The files that the jobs of a scattered rule leave."""
    return [f"{folder}/chunk-{chunk}-of-{chunks}{suffix}" for chunk in range(chunks)]


def prediction_markers(setup, replicate, region):
    folder = f"results/{EXPERIMENT}/predictions/{setup}/{replicate}/{region}"
    return chunk_markers(folder, ".json", cfg["prediction"]["chunks"])


def prediction_store(setup, replicate, region):
    return f"results/{EXPERIMENT}/predictions/{setup}/{replicate}/{region}.zarr/zarr.json"


def runs(kinds=SEGMENTING):
    """All (setup, replicate) that are segmented."""
    return [(setup, replicate) for setup in kinds for replicate in configuration.replicates(cfg, setup)]


def score_files(pattern):
    """One file per run, in the order of `runs`."""
    return [f"results/{EXPERIMENT}/scores/{setup}/{replicate}/{pattern}" for setup, replicate in runs()]


# None stands for a segmentation that is not trained: it is the same in every replicate of the others.
def rows_of_comparison():
    """All (name, replicate) whose segmentations are scored."""
    trained = [[setup, None if setup == RAW_WATERSHED else replicate] for setup, replicate in runs()]
    return trained + [[name, None] for name in EXTERNALS]


def files_of_rows(name):
    """One file per row of the comparison, in the order of `rows_of_comparison`."""
    return score_files(name) + [f"results/{EXPERIMENT}/scores/external/{row}/{name}" for row in EXTERNALS]


# data


def files_of_volume(wildcards):
    volume = cfg["volumes"][wildcards.volume]
    return [file for part in ("raw", "labels", "mask") if part in volume for file in source_files(volume[part])]


def raw_reader(wildcards):
    return source_reader(cfg["volumes"][wildcards.volume]["raw"])


def labels_reader(wildcards):
    return source_reader(cfg["volumes"][wildcards.volume]["labels"])


def mask_reader(wildcards):
    volume = cfg["volumes"][wildcards.volume]
    return source_reader(volume["mask"]) if "mask" in volume else None


def skeleton_source(wildcards):
    """The arguments of the reader of traced skeletons; None where they are made of the labels."""
    volume = cfg["volumes"][REGIONS[wildcards.region]["volume"]]
    if "skeletons" not in volume:
        return None
    source = volume["skeletons"]
    folder = f"resources/downloads/{source['download']}/" if "download" in source else ""
    if source["in_voxels"]:
        return {"path": folder + source["path"], "voxel_size": volume["voxel_size"]}
    # An .nml says itself how large its voxels are, and an .npz is in nm.
    is_plain = not source["path"].lower().endswith((".nml", ".npz"))
    return {"path": folder + source["path"], **({"unit_nm": source["unit_nm"]} if is_plain else {})}


def skeleton_files(wildcards):
    """The files that traced skeletons come from, or the list that says that they are there."""
    source = cfg["volumes"][REGIONS[wildcards.region]["volume"]].get("skeletons")
    if source is None:
        return []
    if "download" in source:
        return [f"resources/downloads/{source['download']}/SHA256SUMS"]
    path = Path(source["path"])
    if path.is_dir():
        return sorted(str(file) for file in path.iterdir() if file.is_file())
    # A table of nodes has that of its edges beside it.
    edges = path.with_name(path.name.replace("nodes", "edges"))
    return [str(path), *([str(edges)] if edges != path and edges.exists() else [])]


def files_of_external(wildcards):
    return source_files(cfg["external_segmentations"][wildcards.external]["source"])


def volume_of_external(wildcards):
    return volume_path(cfg["external_segmentations"][wildcards.external]["volume"])


def external_reader(wildcards):
    return source_reader(cfg["external_segmentations"][wildcards.external]["source"])


# training


def markers_of_targets():
    folder, chunks = f"results/{EXPERIMENT}/targets", cfg["targets"]["chunks"]
    return [marker for region in TRAIN_REGIONS for marker in chunk_markers(f"{folder}/{region}", ".json", chunks)]


def frozen_checkpoints(wildcards):
    return [checkpoint_path(name, wildcards.replicate) for name in frozen_setups(wildcards.setup)]


def names_of_frozen(wildcards):
    return frozen_setups(wildcards.setup)


def entries_of_setup(wildcards):
    return setup_entries(wildcards.setup)


def context_of_frozen(wildcards):
    """What frozen networks get around the crop; of no concern to setups that see none."""
    return cfg["prediction"]["context"] if frozen_setups(wildcards.setup) else [0, 0, 0]


def processes_of_training(wildcards):
    return cfg["setups"][wildcards.setup]["training"]["processes"]


def train_regions(wildcards):
    return [{"roi": box_of(name), "probability": REGIONS[name]["probability"]} for name in TRAIN_REGIONS]


# prediction


def volumes_of_predictions(wildcards):
    """Channels and dtype of each volume that is predicted."""
    return {output: [channels, "uint8"] for output, channels in channels_of(wildcards.setup).items()}


def checkpoints_of_setup(wildcards):
    return [checkpoint_path(name, wildcards.replicate) for name in setup_entries(wildcards.setup)]


def names_of_seen(wildcards):
    return configuration.input_setups(cfg, wildcards.setup)


def stores_of_seen(wildcards):
    names = configuration.input_setups(cfg, wildcards.setup)
    return [prediction_store(name, wildcards.replicate, wildcards.region) for name in names]


def markers_of_seen(wildcards):
    names = configuration.input_setups(cfg, wildcards.setup)
    return [m for name in names for m in prediction_markers(name, wildcards.replicate, wildcards.region)]


# segmentation


def markers_of_predictions(wildcards):
    return prediction_markers(wildcards.setup, wildcards.replicate, wildcards.region)


def segmentation_folder(setup, replicate, region):
    return f"results/{EXPERIMENT}/segmentations/{setup}/{replicate}/{region}"


def markers_of_fragments(wildcards):
    folder = segmentation_folder(wildcards.setup, wildcards.replicate, wildcards.region)
    return chunk_markers(f"{folder}/fragments", ".json", cfg["segmentation"]["chunks"])


def region_graphs(wildcards):
    folder = segmentation_folder(wildcards.setup, wildcards.replicate, wildcards.region)
    return chunk_markers(f"{folder}/region_graph", ".npz", cfg["segmentation"]["chunks"])


def settings_of_fragments(wildcards):
    """What decides how a block's fragments are found, as plain values."""
    names = {
        "watershed": [
            "foreground_threshold",
            "minimum_seed_distance",
            "in_sections",
            "minimum_size",
            "minimum_affinity",
        ],
        "mutex_watershed": ["mutex_strides"],
    }[cfg["segmentation"]["method"]]
    return {name: cfg["segmentation"][name] for name in ["method", "epsilon", *names]}


def distances_of_affinities(wildcards):
    return configuration.distances_of_affinities(cfg, wildcards.setup)


def memory_of_fragments(wildcards, attempt):
    """MB for a block with its context."""
    voxels = prod(configuration.window_of_fragments(cfg, wildcards.region))
    channels = 3 * len(configuration.distances_of_affinities(cfg, wildcards.setup))
    # Measured: 20 bytes a voxel by watershed; by mutex watershed 10 a channel where every fourth voxel along an axis is
    # heard, and 30 where every one is.
    is_mutex = cfg["segmentation"]["method"] == "mutex_watershed"
    each = channels * (40 if 1 in cfg["segmentation"]["mutex_strides"] else 15) if is_mutex else 30
    return (1000 + each * voxels // 10**6) * attempt


def memory_of_region_graph(wildcards, attempt):
    """MB for the affinities and fragments of a block, and the graph of a job's blocks."""
    voxels = configuration.region_roi(cfg, REGIONS[wildcards.region]).size / cfg["segmentation"]["chunks"]
    return int(2000 + (20 * prod(cfg["segmentation"]["block_shape"]) + 0.5 * voxels) / 10**6) * attempt


def memory_of_merge_tree(wildcards, attempt):
    """MB for the graph of the whole region; measured 0.4 bytes a voxel."""
    return (2000 + configuration.region_roi(cfg, REGIONS[wildcards.region]).size // 10**6) * attempt


def memory_of_segmentation(wildcards, attempt):
    """MB for a block's fragments and segments, and the merge tree."""
    voxels = configuration.region_roi(cfg, REGIONS[wildcards.region]).size
    return int(2000 + (40 * prod(cfg["segmentation"]["block_shape"]) + 0.05 * voxels) / 10**6) * attempt


def memory_of_fragment_store(wildcards, attempt):
    """MB for the labels of a block, of which there must be some in the region."""
    return (1000 + 14 * prod(cfg["segmentation"]["block_shape"]) // 10**6) * attempt


def segmentation_markers(setup, replicate, region):
    folder = f"{segmentation_folder(setup, replicate, region)}/segmentation"
    return chunk_markers(folder, ".json", cfg["segmentation"]["chunks"])


def markers_of_segmentation(wildcards):
    return segmentation_markers(wildcards.setup, wildcards.replicate, "test")


def segmentations_of_test():
    return [marker for setup, replicate in runs() for marker in segmentation_markers(setup, replicate, "test")]


# report


def training_runs():
    return [(setup, replicate) for setup in cfg["setups"] for replicate in cfg["replicates"]]


def panel_inputs(wildcards):
    """What a picture panel shows of a row, by name."""
    setup, replicate = (
        wildcards.setup,
        configuration.replicates(cfg, wildcards.setup)[0],
    )
    inputs = {
        "volume": volume_path(REGIONS["test"]["volume"]),
        "store": prediction_store(setup, replicate, "test"),
        "predicted": prediction_markers(setup, replicate, "test"),
    }
    if setup in SEGMENTING:
        folder = segmentation_folder(setup, replicate, "test")
        inputs["fragments"] = f"{folder}/fragments.zarr/zarr.json"
        inputs["segmentation"] = f"{folder}/segmentation.zarr/zarr.json"
        inputs["segmented"] = segmentation_markers(setup, replicate, "test")
    return inputs


def error_inputs(wildcards):
    """What the pictures of the errors of a row are made from, by name."""
    segmented = []
    if wildcards.setup in EXTERNALS:
        segmentation = f"resources/segmentations/{wildcards.setup}.zarr"
        scores = f"external/{wildcards.setup}"
    else:
        replicate = configuration.replicates(cfg, wildcards.setup)[0]
        segmentation = f"{segmentation_folder(wildcards.setup, replicate, 'test')}/segmentation.zarr/zarr.json"
        segmented = segmentation_markers(wildcards.setup, replicate, "test")
        scores = f"{wildcards.setup}/{replicate}"
    return {
        "volume": volume_path(REGIONS["test"]["volume"]),
        "segmentation": segmentation,
        "segmented": segmented,
        "errors": f"results/{EXPERIMENT}/scores/{scores}/errors.csv",
    }


def chains_of_networks():
    """For each setup the networks whose work its predictions need, its own last: what their cost is counted from."""

    def link(name):
        network, outputs = configuration.network_of(cfg, name), channels_of(name)
        block = configuration.prediction_block(cfg, name)
        return {
            "name": name,
            "network": network.as_dict(),
            "block_shape": list(block),
            "input_shape": list(input_box(network, block, cfg["prediction"]["context"])[0]),
            "in_channels": configuration.channels_seen(cfg, name),
            "head_channels": sum(outputs.values()),
            "num_fmaps_out": network.num_fmaps_out(list(outputs.values())),
        }

    return {setup: [link(name) for name in [*frozen_setups(setup), setup]] for setup in cfg["setups"]}


def voxels_predicted():
    """How many voxels of the validation and test regions the predictions of each setup fill."""
    return {
        setup: sum(configuration.prediction_roi(cfg, setup, region).size for region in ("validation", "test"))
        for setup in cfg["setups"]
    }


def benchmark_files():
    """The measurements of this experiment's jobs: those of an earlier configuration may lie beside them."""
    base, suffix = f"results/{EXPERIMENT}/benchmarks", ".tsv"
    chunks_of_targets, chunks = cfg["targets"]["chunks"], cfg["prediction"]["chunks"]
    files = [f"{base}/create_targets/{region}{suffix}" for region in TRAIN_REGIONS]
    for region, chunk in product(TRAIN_REGIONS, range(chunks_of_targets)):
        files.append(f"{base}/lsd_targets/{region}-{chunk}-of-{chunks_of_targets}{suffix}")
    files += [f"{base}/train/{setup}/{replicate}{suffix}" for setup, replicate in training_runs()]
    without_network = [(RAW_WATERSHED, 0)] if RAW_WATERSHED in SEGMENTING else []
    for (setup, replicate), region in product([*training_runs(), *without_network], ("validation", "test")):
        run = f"{setup}/{replicate}/{region}"
        stage = "raw_affinities" if setup == RAW_WATERSHED else "predict"
        files.append(f"{base}/create_predictions/{run}{suffix}")
        files += [f"{base}/{stage}/{run}/{chunk}-of-{chunks}{suffix}" for chunk in range(chunks)]
    chunks = cfg["segmentation"]["chunks"]
    for setup, replicate in runs():
        for region in ("validation", "test"):
            run = f"{setup}/{replicate}/{region}"
            for stage, chunk in product(("fragments", "region_graph"), range(chunks)):
                files.append(f"{base}/{stage}/{run}/{chunk}-of-{chunks}{suffix}")
            for stage in ("create_fragments", "merge_tree", "evaluate", "run_length"):
                files.append(f"{base}/{stage}/{run}{suffix}")
        files.append(f"{base}/create_segmentation/{setup}/{replicate}/test{suffix}")
        files += [f"{base}/segmentation/{setup}/{replicate}/test/{c}-of-{chunks}{suffix}" for c in range(chunks)]
        for stage in ("select_threshold", "min_cut", "score_parts", "sizes", "errors"):
            files.append(f"{base}/{stage}/{setup}/{replicate}{suffix}")
    files += [f"{base}/skeletons/{region}{suffix}" for region in ("validation", "test")]
    files += [f"{base}/{stage}{suffix}" for stage in ("intervals", "compare")]
    stages = ("score_external", "score_parts_external", "sizes_external", "errors_external")
    files += [f"{base}/{stage}/{name}{suffix}" for stage, name in product(stages, EXTERNALS)]
    shared = "resources/benchmarks"
    files += [f"{shared}/simulate_volume/{name}{suffix}" for name in SIMULATED]
    files += [f"{shared}/import_volume/{name}{suffix}" for name in IMPORTED]
    files += [f"{shared}/import_segmentation/{name}{suffix}" for name in EXTERNALS]
    return files + [f"{shared}/download/{name}{suffix}" for name in cfg["downloads"]]
