"""A configuration is filled with its defaults, and what cannot be used is refused in one clear sentence."""

import re
from copy import deepcopy
from pathlib import Path

import pytest
import yaml

from lsdflow import configuration, configuration_checks
from lsdflow.errors import UserError
from lsdflow.merge_functions import MERGE_FUNCTIONS
from lsdflow.network_shapes import NETWORKS, NetworkSettings
from lsdflow.roi import Roi

ROOT = Path(__file__).parents[2]
SCHEMA = configuration.load_schema(ROOT / "workflow/schemas/config.schema.yaml")
ABSENT = object()


def minimal():
    """The least that a configuration must say, with the setups that see one another."""
    return {
        "experiment": "small",
        "volumes": {
            "left": {"shape": [64, 80, 96], "voxel_size": [10, 10, 10], "simulate": {"seed": 1}},
            "right": {"shape": [64, 64, 64], "voxel_size": [10, 10, 10], "simulate": {"seed": 2}},
        },
        "split": {
            "train": [{"volume": "left"}],
            "validation": {"volume": "right", "roi": {"z": [0, 32]}},
            "test": {"volume": "right", "roi": {"z": [32, 64]}},
        },
        "setups": {
            "baseline": {"inputs": ["raw"], "outputs": ["affinities"]},
            "lsd": {"inputs": ["raw"], "outputs": ["lsds"]},
            "acrlsd": {"inputs": ["raw", "lsd.lsds"], "outputs": ["affinities"]},
        },
    }


def edited(path, value):
    """The minimal configuration with the key at the dotted ``path`` set to ``value``, or taken out."""
    config = minimal()
    *parents, last = [int(key) if key.isdigit() else key for key in path.split(".")]
    part = config
    for key in parents:
        part = part[key] if isinstance(part, list) else part.setdefault(key, {})
    if value is ABSENT:
        del part[last]
    else:
        part[last] = value
    return config


def accepted(config):
    config = configuration.complete(config, SCHEMA)
    configuration_checks.check(config)
    return config


def refusal(config):
    with pytest.raises(UserError) as caught:
        accepted(config)
    return str(caught.value)


def on_disk(path, format="npy", **more):
    return {"path": str(path), "format": format, **more}


# --- defaults -------------------------------------------------------------------------------------------------


def test_defaults_are_filled_at_every_depth():
    config = accepted(minimal())
    assert config["mirror"] is None and config["network"] == "small" and config["replicates"] == [0, 1]
    assert config["training"]["augment"]["flip"] is True
    assert config["evaluation"]["thresholds"] == {"begin": 0, "end": 1, "step": 0.02}
    assert config["volumes"]["left"]["simulate"]["blur"] == 9
    assert config["split"]["train"][0] == {"volume": "left", "roi": {}, "probability": 1}
    assert config["setups"]["lsd"]["losses"] == {"affinities": "mse", "lsds": "mse"}
    assert config["setups"]["lsd"]["affinities"] == {"offsets": [1]}


def test_every_default_of_the_schema_satisfies_the_schema():
    config = accepted(minimal())
    assert accepted(config) == config


def test_completing_neither_changes_nor_shares_what_it_was_given():
    config = edited("setups.lsd.training", {"augment": {"noise": 0.2}, "betas": [0.8, 0.9]})
    before = deepcopy(config)
    result = accepted(config)
    result["setups"]["lsd"]["training"]["betas"][0] = 0
    result["setups"]["baseline"]["training"]["crop_shape"][0] = 0
    assert config == before
    assert result["training"]["crop_shape"] == [48, 48, 48]


def test_what_is_given_is_kept():
    config = accepted(edited("training", {"iterations": 7, "augment": {"flip": False}}))
    assert config["training"]["iterations"] == 7 and config["training"]["augment"]["flip"] is False
    assert config["training"]["augment"]["transpose"] is True


def test_a_setups_training_is_laid_over_the_experiments():
    config = edited("training", {"iterations": 7, "batch_size": 3, "augment": {"noise": 0.2, "flip": False}})
    config["setups"]["lsd"]["training"] = {"batch_size": 2, "augment": {"flip": True}}
    config = accepted(config)
    own = config["setups"]["lsd"]["training"]
    assert (own["iterations"], own["batch_size"]) == (7, 2)
    assert (own["augment"]["noise"], own["augment"]["flip"]) == (0.2, True)
    assert config["setups"]["baseline"]["training"] == config["training"]


# --- what rules ask -------------------------------------------------------------------------------------------


def test_regions_have_names_and_boxes():
    config = edited("split.train", [{"volume": "left"}, {"volume": "left", "roi": {"x": [0, 60], "y": [3, 70]}}])
    config = accepted(config)
    regions = configuration.regions(config)
    assert list(regions) == ["train-0", "train-1", "validation", "test"]
    assert configuration.region_roi(config, regions["train-0"]) == Roi((0, 0, 0), (64, 80, 96))
    assert configuration.region_roi(config, regions["train-1"]) == Roi((0, 3, 0), (64, 70, 60))
    assert configuration.region_roi(config, regions["test"]) == Roi((32, 0, 0), (64, 64, 64))


@pytest.mark.parametrize(
    ("grid", "expected"),
    [
        ({"begin": 0.1, "end": 0.4, "step": 0.1}, [0.1, 0.2, 0.3, 0.4]),
        ({"begin": 0, "end": 1, "step": 0.3}, [0, 0.3, 0.6, 0.9]),
        ({"begin": 0, "end": 1, "step": 0.4}, [0, 0.4, 0.8]),
        ({"begin": 0.5, "end": 0.5, "step": 0.1}, [0.5]),
    ],
)
def test_thresholds_run_from_begin_to_end_and_never_beyond(grid, expected):
    assert configuration.thresholds(accepted(edited("evaluation.thresholds", grid))) == expected


def test_default_thresholds_are_round_numbers():
    values = configuration.thresholds(accepted(minimal()))
    assert values == [round(index / 50, 2) for index in range(51)]


def test_rows_to_segment_are_the_setups_with_affinities_and_the_raw_watershed():
    assert configuration.segmenting(accepted(minimal())) == ["baseline", "acrlsd", "raw_watershed"]
    without = accepted(edited("raw_watershed", {"enabled": False}))
    assert configuration.segmenting(without) == ["baseline", "acrlsd"]


def test_the_raw_watershed_has_one_replicate():
    config = accepted(edited("replicates", [3, 5]))
    assert configuration.replicates(config, "lsd") == [3, 5]
    assert configuration.replicates(config, configuration.RAW_WATERSHED) == [0]


def test_input_setups_are_named_once_in_order():
    config = minimal()
    config["setups"]["both"] = {"inputs": ["raw"], "outputs": ["affinities", "lsds"]}
    config["setups"]["last"] = {
        "inputs": ["both.lsds", "raw", "lsd.lsds", "both.affinities"],
        "outputs": ["affinities"],
    }
    config = accepted(config)
    assert configuration.input_setups(config, "last") == ["both", "lsd"]
    assert configuration.input_setups(config, "baseline") == []


def test_a_setups_network_is_its_own_before_the_experiments():
    own = {"architecture": "unet", "num_fmaps": 4, "fmap_inc_factor": 2, "downsample_factors": [[2, 2, 2]]}
    config = edited("networks", {"own": own})
    config["setups"]["lsd"]["network"] = "own"
    config["training"] = {"crop_shape": [16, 16, 16]}
    config = accepted(config)
    assert configuration.network_of(config, "lsd") == NetworkSettings("unet", 4, 2, ((2, 2, 2),))
    assert configuration.network_of(config, "baseline") == NETWORKS["small"]


def test_an_own_network_stands_before_a_built_in_one_of_the_same_name():
    own = {"architecture": "residual_unet", "num_fmaps": 3, "fmap_inc_factor": 2, "downsample_factors": [[2, 2, 2]]}
    config = accepted(edited("networks", {"small": own}))
    assert configuration.network_of(config, "baseline").num_fmaps == 3


def test_predictions_reach_as_far_as_the_setups_that_see_them_need():
    config = minimal()
    config["setups"]["third"] = {"inputs": ["acrlsd.affinities", "lsd.lsds"], "outputs": ["affinities"]}
    config["prediction"] = {"context": [4, 8, 8]}
    config = accepted(config)
    # third reads (4, 8, 8) around its blocks; acrlsd must reach so far, and reads as much again of lsd.
    assert configuration.reach_beyond(config, "baseline") == (0, 0, 0)
    assert configuration.reach_beyond(config, "third") == (0, 0, 0)
    assert configuration.reach_beyond(config, "acrlsd") == (4, 8, 8)
    assert configuration.reach_beyond(config, "lsd") == (8, 16, 16)


def test_reach_of_a_valid_network_is_its_own_context():
    config = edited("network", "fib25")
    config["training"] = {"crop_shape": [44, 44, 44]}
    config["prediction"] = {"block_shape": [96, 96, 96]}
    # The paper's network makes 104³ voxels of 208³: the block and 8 behind it.
    assert configuration.reach_beyond(accepted(config), "lsd") == (60, 60, 60)


def test_train_regions_may_overlap_one_another():
    accepted(edited("split.train", [{"volume": "left"}, {"volume": "left", "roi": {"z": [8, 64]}}]))


@pytest.mark.parametrize("file", sorted([ROOT / "config/config.yaml", *ROOT.glob("config/experiments/*.yaml")]))
def test_the_experiments_of_the_repository_are_accepted(file, monkeypatch):
    monkeypatch.chdir(ROOT)
    accepted(yaml.safe_load(file.read_text()))


# --- what the schema refuses ----------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("path", "value", "message"),
    [
        ("evaluaton", {}, "evaluaton: unknown key; did you mean evaluation?"),
        ("evaluation.treshold", {}, "evaluation.treshold: unknown key; did you mean thresholds?"),
        ("split.train.0.Roi", {}, "split.train.0.Roi: unknown key; did you mean roi?"),
        ("setups.lsd.training.iteration", 3, "setups.lsd.training.iteration: unknown key; did you mean iterations?"),
        ("training.augment.flips", True, "training.augment.flips: unknown key; did you mean flip?"),
        ("volumes.left.simulate.nois", 1, "volumes.left.simulate.nois: unknown key; did you mean noise?"),
        ("targets.zzz", 1, "targets.zzz: unknown key; there are sigma, downsample, grow_boundary, grow_bound"),
        ("experiment", ABSENT, "the configuration: the key experiment must be given"),
        ("volumes.left.simulate", {}, "volumes.left.simulate: the key seed must be given"),
        ("experiment", "a b", "experiment: must be a name of letters, digits, - and _ that begins with"),
        ("experiment", 25, "experiment: must be text, not 25"),
        ("setups.a b", {"inputs": ["raw"], "outputs": ["lsds"]}, "setups: 'a b' must be a name of letters"),
        ("setups", {}, "setups: must not be empty"),
        ("setups", None, "setups: must be keys and values, not nothing"),
        ("setups.lsd.inputs", "raw", "setups.lsd.inputs: must be a list, not 'raw'"),
        ("setups.lsd.inputs", [], "setups.lsd.inputs: must be a list of at least 1, not []"),
        ("setups.lsd.inputs", ["raw", "raw"], "setups.lsd.inputs: must not hold the same twice: ['raw', 'raw']"),
        ("setups.acrlsd.inputs", ["lsd"], "setups.acrlsd.inputs.0: must be raw, <setup>.affinities or <setup>.lsds"),
        ("setups.lsd.outputs", ["lsd"], "setups.lsd.outputs.0: must be one of affinities, lsds, not 'lsd'; did you"),
        ("training.learning_rate", "1e-4", "training.learning_rate: must be a number, not '1e-4': write 1.0e-4, bec"),
        ("training.learning_rate", "2.5E3", "write 2.5e+3, because YAML takes 2.5E3 for a word"),
        ("setups.lsd.training", {"learning_rate": "1e-4"}, "setups.lsd.training.learning_rate: must be a number"),
        ("training.iterations", "1e4", "training.iterations: must be a whole number, not '1e4': write 10000"),
        ("training.iterations", "500", "training.iterations: must be a whole number, not '500': write it without quo"),
        ("training.iterations", "many", "training.iterations: must be a whole number, not 'many'"),
        ("training.iterations", 0, "training.iterations: must be ≥ 1, not 0"),
        ("training.augment.flip", "yes", "training.augment.flip: must be true or false, not 'yes'"),
        ("training.betas", [0.9], "training.betas: must be a list of 2, each a number ≥ 0, not [0.9]"),
        ("training.crop_shape", [8, 8], "training.crop_shape: must be a list of 3, each a whole number ≥ 1"),
        ("training.crop_shape", [8, 8, 8.5], "training.crop_shape.2: must be a whole number, not 8.5"),
        ("volumes.left.voxel_size", [1, 1, 0], "volumes.left.voxel_size.2: must be > 0, not 0"),
        ("split.test.roi", {"z": [-5, 5]}, "split.test.roi.z.0: must be ≥ 0, not -5"),
        ("targets.sigma", [80, 80], "targets.sigma: must be a number > 0 or a list of 3, each a number > 0, not [80"),
        ("targets.sigma", "80", "targets.sigma: must be a number > 0 or a list of 3, each a number > 0, not '80': wr"),
        ("evaluation.thresholds.end", 1.5, "evaluation.thresholds.end: must be ≤ 1, not 1.5"),
        ("evaluation.thresholds.begin", -0.5, "evaluation.thresholds.begin: must be ≥ 0, not -0.5"),
        ("evaluation.thresholds.step", 0, "evaluation.thresholds.step: must be > 0, not 0"),
        ("segmentation.merge_function", "median", "segmentation.merge_function: must be one of mean, hist_quant_10"),
        ("downloads.d", {"url": "ftp://a/b", "checksums": "c"}, "downloads.d.url: must be an address that begins with"),
        ("volumes.left.simulate", ABSENT, "volumes.left: a volume has either `simulate`, or both `raw` and `labels`"),
        ("replicates", 3, "replicates: must be a list, not 3"),
    ],
)
def test_the_schema_names_key_fault_and_remedy(path, value, message):
    assert message in refusal(edited(path, value))


def test_all_that_the_schema_refuses_is_told_at_once_and_nothing_twice():
    config = edited("training", {"foo": 1, "iteratons": 2})
    del config["experiment"], config["split"]
    lines = refusal(config).split("\n")
    assert lines[0] == "the configuration cannot be used:"
    assert [line.partition(":")[0].strip() for line in lines[1:]] == [
        "the configuration",
        "training.foo",
        "training.iteratons",
    ]
    assert lines[1].endswith("the keys experiment, split must be given")


def test_numeric_names_must_be_quoted():
    config = minimal()
    config["volumes"][12] = config["volumes"]["left"]
    assert "volumes: 12 must be text; write it in quotes" in refusal(config)


def test_every_pattern_of_the_schema_has_words():
    patterns = re.findall(r'pattern: (".*?(?<!\\)")', (ROOT / "workflow/schemas/config.schema.yaml").read_text())
    assert {yaml.safe_load(text) for text in patterns} == set(configuration.PATTERNS)


def test_every_number_that_is_offered_is_one_for_yaml():
    for word in ("1e-4", "2.5E3", "-3e2", "7e10"):
        offered = re.search(r"write (\S+?),", configuration._number_hint(word, "number")).group(1)
        assert isinstance(yaml.safe_load(word), str)
        assert yaml.safe_load(offered) == float(word)


# --- what only the whole tells --------------------------------------------------------------------------------


def without_affinities():
    return {"lsd": {"inputs": ["raw"], "outputs": ["lsds"]}}


@pytest.mark.parametrize(
    ("path", "value", "message"),
    [
        (
            "setups.acrlsd.inputs",
            ["lsdd.lsds"],
            "setups.acrlsd.inputs: 'lsdd.lsds', but there is no setup 'lsdd'; did ",
        ),
        (
            "setups.acrlsd.inputs",
            ["zebra.lsds"],
            "setups.acrlsd.inputs: 'zebra.lsds', but there is no setup 'zebra'; there are baseline, lsd, acrlsd",
        ),
        (
            "setups.acrlsd.inputs",
            ["baseline.lsds"],
            "setups.acrlsd.inputs: 'baseline.lsds', but the outputs of setup 'baseline' are affinities only",
        ),
        ("setups.baseline.inputs", ["baseline.affinities"], "setups.baseline.inputs: baseline → baseline is a cycle"),
        ("setups.lsd.inputs", ["acrlsd.affinities"], "setups.lsd.inputs: lsd → acrlsd → lsd is a cycle"),
        ("setups", without_affinities(), "setups: none has affinities among its outputs, so there is nothing to segm"),
        (
            "setups.raw_watershed",
            {"inputs": ["raw"], "outputs": ["lsds"]},
            "setups.raw_watershed: this name belongs to the row without a network; choose another name",
        ),
        ("setups.raw", {"inputs": ["raw"], "outputs": ["lsds"]}, "setups.raw: among inputs, raw means the image"),
        ("setups.lsd.affinities.offsets", [3, 1], "setups.lsd.affinities.offsets: must begin with 1, the nearest"),
        ("network", "smal", "network: there is no network 'smal'; did you mean small?"),
        ("setups.lsd.network", "huge", "setups.lsd.network: there is no network 'huge'; there are fib25, hemibrain"),
        ("split.test.volume", "rigt", "split.test.volume: there is no volume 'rigt'; did you mean right?"),
        ("split.train.0.volume", "centre", "split.train.0.volume: there is no volume 'centre'; there are left, right"),
        (
            "split.test.roi",
            {"z": [32, 65]},
            "split.test.roi.z: [32, 65] reaches beyond the volume 'right', which has 64 voxels along z",
        ),
        ("split.test.roi", {"y": [5, 5]}, "split.test.roi.y: [5, 5] is empty; its end must be above its begin"),
        ("split.test.roi", {"x": [9, 5]}, "split.test.roi.x: [9, 5] is empty; its end must be above its begin"),
        (
            "split.test",
            {"volume": "left", "roi": {"z": [60, 64]}},
            "test and train-0 overlap in volume 'left', at z 60",
        ),
        ("split.validation", {"volume": "left"}, "split: train-0 and validation overlap in volume 'left', at z 0–64"),
        ("split.validation.roi", {"z": [0, 33]}, "split: test and validation overlap in volume 'right', at z 32–33"),
        ("training.crop_shape", [64, 80, 100], "training.crop_shape [64, 80, 100] of setup 'baseline' is larger than "),
        (
            "training.crop_shape",
            [48, 41, 48],
            "training.crop_shape [48, 41, 48] does not suit the network of setup 'baseline': the network cannot make "
            "an output of 41 voxels along y (shape (48, 41, 48)): the nearest it can are 40 and 44",
        ),
        ("setups.lsd.training", {"crop_shape": [7, 8, 8]}, "setups.lsd.training.crop_shape [7, 8, 8] does not suit"),
        ("network", "fib25", "cannot make an output of 48 voxels along z (shape (48, 48, 48)): the nearest it can are"),
        (
            "prediction.block_shape",
            [64, 64, 65],
            "prediction.block_shape [64, 64, 65] + 2 × context [8, 8, 8] does not suit the network of setup "
            "'baseline': the network cannot make an output of 81 voxels along x (shape (80, 80, 81)): the nearest "
            "it can are 80 and 84",
        ),
        (
            "prediction",
            {"memory_mb": 0.1},
            "prediction.memory_mb: too little for the network of setup 'baseline': ",
        ),
        (
            "training",
            {"batch_size": 3, "processes": 2},
            "training.batch_size: 3 crops cannot be shared evenly by training.processes, 2: take a multiple of it",
        ),
        (
            "setups.lsd.training",
            {"accumulate": 5},
            "setups.lsd.training.accumulate: a batch of 2 crops for each process cannot be computed in 5 parts: take",
        ),
        (
            "setups.baseline",
            {"inputs": ["raw"], "outputs": ["affinities"], "losses": {"affinities": "malis"}},
            "setups.baseline.malis.after: 10000, but the training ends after 2000 iterations, so MALIS would never",
        ),
        (
            "evaluation.thresholds",
            {"begin": 0.8, "end": 0.2},
            "evaluation.thresholds: begin (0.8) must not be above end (0.2)",
        ),
        (
            "external_segmentations.lsd",
            {"volume": "right", "source": on_disk(__file__)},
            "external_segmentations.lsd: a setup has the same name; choose another name",
        ),
        (
            "external_segmentations.raw_watershed",
            {"volume": "right", "source": on_disk(__file__)},
            "external_segmentations.raw_watershed: this name belongs to the row without a network",
        ),
        (
            "external_segmentations.ffn",
            {"volume": "rigth", "source": on_disk(__file__)},
            "external_segmentations.ffn.volume: there is no volume 'rigth'; did you mean right?",
        ),
        (
            "external_segmentations.ffn",
            {"volume": "left", "source": on_disk(__file__)},
            "external_segmentations.ffn.volume: must be 'right', the volume of split.test",
        ),
        (
            "external_segmentations.ffn",
            {"volume": "right", "source": on_disk("a.npz", "npz", download="ffm")},
            "external_segmentations.ffn.source.download: there is no download 'ffm'; none is defined",
        ),
        (
            "external_segmentations.ffn",
            {"volume": "right", "source": on_disk("nowhere.npz", "npz")},
            "external_segmentations.ffn.source.path: there is no file 'nowhere.npz'",
        ),
        (
            "segmentation",
            {"block_shape": [64, 32, 64], "context": [8, 32, 32]},
            "segmentation.block_shape: [64, 32, 64] must be larger than segmentation.context, [8, 32, 32], along y",
        ),
        (
            "segmentation.method",
            "mutex_watershed",
            "setups.baseline.affinities.offsets: must hold a larger distance, such as [1, 3, 9]: segmentation.method m",
        ),
        (
            "downloads.d",
            {"url": "https://example.org/d", "checksums": "nowhere.sha256"},
            "downloads.d.checksums: there is no file nowhere.sha256; it lists what to bring",
        ),
    ],
)
def test_the_check_names_key_fault_and_remedy(path, value, message):
    text = refusal(edited(path, value))
    assert message in text
    assert "\n" not in text


def test_a_block_that_holds_the_region_needs_not_be_larger_than_its_context():
    accepted(edited("segmentation", {"block_shape": [100, 100, 100], "context": [200, 200, 200]}))


def test_the_mutex_watershed_needs_long_range_affinities_of_all_rows():
    config = edited("segmentation.method", "mutex_watershed")
    for setup in config["setups"].values():
        setup["affinities"] = {"offsets": [1, 5]}
    assert "raw_watershed.enabled: must be false, because grey values tell of neighbours only" in refusal(config)
    config["raw_watershed"] = {"enabled": False}
    accepted(config)


def test_the_schema_lists_all_merge_functions():
    listed = SCHEMA["properties"]["segmentation"]["properties"]["merge_function"]["enum"]
    assert sorted(listed) == sorted(MERGE_FUNCTIONS)


def test_blocks_of_a_valid_network_are_multiples_of_its_period():
    config = edited("network", "fib25")
    config["training"] = {"crop_shape": [44, 44, 44]}
    config["prediction"] = {"block_shape": [96, 92, 96]}
    text = refusal(config)
    assert "prediction.block_shape [96, 92, 96] does not suit the network of setup 'baseline': blocks of 92 " in text
    assert "multiple of 12, and the nearest are 84 and 96" in text


def test_malis_may_begin_with_the_last_iteration():
    malis = {"inputs": ["raw"], "outputs": ["affinities"], "losses": {"affinities": "malis"}, "malis": {"after": 1999}}
    accepted(edited("setups.baseline", malis))


def test_crops_are_turned_about_z_only_where_y_and_x_are_alike():
    config = edited("training", {"augment": {"elastic": 0.5}})
    accepted(config)
    config["volumes"]["left"]["voxel_size"] = [10, 10, 20]
    text = refusal(config)
    assert text.startswith("training.augment.rotation: voxels of volume 'left' are 10 × 20 nm along y and x")
    config["training"]["augment"]["rotation"] = 0
    accepted(config)
    # What is not deformed is not turned.
    config["training"]["augment"] = {"elastic": 0}
    accepted(config)


def test_predictions_are_averaged_over_exchanged_axes_only_where_those_are_alike():
    config = edited("prediction", {"augment": "all"})
    accepted(config)
    along = {"inputs": ["raw"], "outputs": ["affinities"], "affinities": {"offsets": [1, [2, 3, 4]]}}
    config["setups"]["baseline"] = along
    text = refusal(config)
    assert text.startswith("prediction.augment: all exchanges y and x, but for setup 'baseline' they differ")
    assert "distances [2, 3, 4]" in text and "take flips" in text and "setups.baseline.affinities.offsets" in text
    # Across different voxel sizes y and x are not exchanged anyway.
    config["volumes"]["right"]["voxel_size"] = [10, 10, 20]
    accepted(config)
    config["volumes"]["right"]["voxel_size"] = [10, 10, 10]
    config["prediction"]["augment"] = "flips"
    accepted(config)


def test_a_longer_cycle_is_shown_whole():
    config = edited("setups.lsd.inputs", ["third.affinities"])
    config["setups"]["third"] = {"inputs": ["acrlsd.affinities"], "outputs": ["affinities"]}
    assert "lsd → third → acrlsd → lsd is a cycle" in refusal(config)


@pytest.mark.parametrize("also", [["raw"], ["labels"], ["raw", "labels"]])
def test_a_volume_is_simulated_or_read_but_not_both(also):
    config = minimal()
    config["volumes"]["left"] |= {part: on_disk(__file__) for part in also}
    assert re.search(r"volumes\.left: .*`simulate`.*`(raw|labels)`", refusal(config))


def test_a_file_of_a_volume_must_exist(tmp_path):
    (tmp_path / "raw.npy").touch()
    volume = {"shape": [64, 80, 96], "voxel_size": [4, 4, 4]}
    volume |= {"raw": on_disk(tmp_path / "raw.npy"), "labels": on_disk(tmp_path / "labels.npy")}
    text = refusal(edited("volumes.left", volume))
    assert text.startswith("volumes.left.labels.path: there is no file") and "labels.npy" in text
    (tmp_path / "labels.npy").touch()
    accepted(edited("volumes.left", volume))


def test_a_pattern_must_match_files_and_belongs_to_image_stacks(tmp_path):
    source = {"volume": "right", "source": on_disk(tmp_path / "*.png", "image_stack")}
    assert "source.path: no file matches" in refusal(edited("external_segmentations.ffn", source))
    (tmp_path / "z0.png").touch()
    accepted(edited("external_segmentations.ffn", source))
    source["source"]["format"] = "tiff"
    assert "only the format image_stack takes a pattern" in refusal(edited("external_segmentations.ffn", source))


def test_a_source_of_a_download_need_not_be_there_yet(tmp_path):
    (tmp_path / "list.sha256").touch()
    config = edited("downloads.d", {"url": "https://example.org/d", "checksums": str(tmp_path / "list.sha256")})
    source = on_disk("sections/*.png", "image_stack", download="d")
    config["external_segmentations"] = {"ffn": {"volume": "right", "source": source}}
    accepted(config)


def test_a_mirror_must_be_a_folder_or_an_address(tmp_path):
    (tmp_path / "list.sha256").touch()
    config = edited("downloads.d", {"url": "https://example.org/d", "checksums": str(tmp_path / "list.sha256")})
    accepted(config | {"mirror": "http://localhost:8000/mirror"})
    accepted(config | {"mirror": str(tmp_path)})
    text = refusal(config | {"mirror": str(tmp_path / "absent")})
    assert text == f"mirror: {tmp_path / 'absent'} must be an existing folder or an http(s) address"
