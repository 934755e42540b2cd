"""The whole graph, every setup, on tiny data: what it makes, that it repeats, and what an edit makes it do again."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import yaml
from workflow_runs import REPOSITORY, TINY, Project, copy, write_config

from lsdflow.affinities import grow_boundary
from lsdflow.lsd import local_shape_descriptors
from lsdflow.provenance import settings_hash
from lsdflow.volumes import open_volume

NETWORKS = {"baseline", "mtlsd", "aclsd", "acrlsd"}
SEGMENTED = NETWORKS | {"raw_watershed"}
SETUPS = NETWORKS | {"lsd"}
BY_ROW = {"plot_panel", "plot_errors"}
OF_ALL_ROWS = {"plot_scores", "plot_training", "plot_sizes", "plot_pairs", "plot_compute", "plot_resources", "summary"}
PLOTS = BY_ROW | OF_ALL_ROWS | {"plot_targets", "plot_skeletons", "plot_augmentations"}
COMPARISON = OF_ALL_ROWS | {"compare", "intervals"}
THRESHOLDS = np.round(np.arange(11) * 0.1, 1)


def results(folder: Path) -> Path:
    return folder / "results" / "tiny"


def segmentation_path(folder: Path, setup: str) -> Path:
    return results(folder) / "segmentations" / setup / "0" / "test" / "segmentation.zarr"


def test_every_expected_output_exists(finished):
    tables = ["rows", "curves", "selection", "sizes", "intervals", "pairs", "compute", "comparison", "resources"]
    expected = [*(f"scores/{name}.csv" for name in tables), "scores/comparison.md", "summary.html"]
    expected += ["skeletons/test.npz", "targets/train-0.zarr"]
    names = ["voi_curves", "comparison", "training", "targets_train-0", "augmentations_train-0", "resources"]
    names += [
        "sizes",
        "pairs_voi_sum",
        "compute",
        "skeletons",
        *(f"panel_{s}" for s in SETUPS | SEGMENTED),
        *(f"errors_{s}" for s in SEGMENTED),
    ]
    expected += [f"figures/{name}.{suffix}" for name in names for suffix in ("png", "svg")]
    of_models = ["checkpoint.pt", "log.csv", "validation.csv", "events", "snapshots/0000006.png"]
    expected += [f"models/{setup}/0/{name}" for setup in SETUPS for name in of_models]
    tables = ["test.csv", "validation.csv", "test_fragments.csv", "selected.json", "min_cut.csv", "errors.csv"]
    tables += ["test_run_length.csv", "validation_run_length.csv", "sizes.csv", "blocks.npz", "skeletons.csv"]
    expected += [f"scores/{setup}/0/{table}" for setup in SEGMENTED for table in tables]
    missing = [path for path in expected if not (results(finished) / path).exists()]
    assert not missing


def test_figures_are_png_and_svg(finished):
    for path in (results(finished) / "figures").iterdir():
        if path.suffix == ".png":
            assert path.read_bytes().startswith(b"\x89PNG")
        elif path.suffix == ".svg":
            assert "<svg" in path.read_text()[:2000]


def test_summary_page_holds_table_and_figures(finished):
    page = (results(finished) / "summary.html").read_text()
    assert page.count("<table") >= 1 and "VOI sum" in page
    for label in ("Baseline", "MtLSD", "AcLSD", "AcRLSD", "Watershed on raw"):
        assert f'<th scope="row">{label}</th>' in page
    assert page.count("<img") == 10 + len(SETUPS | SEGMENTED) + len(SEGMENTED)
    assert 'src="http' not in page, "the page must stand alone"


def test_table_has_all_rows_and_kinds(finished):
    rows = pd.read_csv(results(finished) / "scores" / "rows.csv")
    expected = {(setup, "network") for setup in NETWORKS} | {("raw_watershed", "reference")}
    expected |= {(setup, "fragments") for setup in SEGMENTED}
    assert sorted(zip(rows["row"], rows["kind"], strict=True)) == sorted(expected)
    scored = rows[rows["kind"] != "fragments"]
    # So small a region has too few parts for intervals.
    intervals = [c for c in scored if c.endswith(("_low", "_high"))]
    assert len(intervals) > 4 and scored.drop(columns=intervals).notna().all(axis=None)
    assert scored["threshold"].isin(THRESHOLDS).all()


def test_curves_cover_all_thresholds_of_both_parts(finished):
    curves = pd.read_csv(results(finished) / "scores" / "curves.csv")
    groups = curves.groupby(["row", "replicate", "part"])
    assert {key[0::2] for key in groups.groups} == {(s, part) for s in SEGMENTED for part in ("validation", "test")}
    for _, curve in groups:
        np.testing.assert_array_equal(curve["threshold"], THRESHOLDS)
        assert curve["is_selected"].sum() == curve["is_best"].sum() == 1


@pytest.mark.parametrize("setup", sorted(SEGMENTED))
def test_segmentation_lies_in_the_test_region(finished, setup):
    segmentation = open_volume(segmentation_path(finished, setup), "segmentation")
    assert segmentation.shape_zyx == (32, 48, 48)
    assert segmentation.voxel_size == (10, 10, 10)
    assert segmentation.offset == (240, 0, 0)
    assert segmentation.data.dtype == np.uint64 and segmentation.read().all()


def test_every_result_folder_says_what_made_it(finished):
    records = sorted(finished.rglob("provenance/*.json"))
    for folder in folders_of_results(finished):
        assert any(record.parent.parent == folder for record in records), f"{folder} has no provenance"
    for record in records:
        content = json.loads(record.read_text())
        assert content["settings_hash"] == settings_hash(content["settings"])
        assert content["settings"]["code"] and content["code"] and content["python"] and content["rule"]
        assert content["packages"] and content["host"]["name"] and content["finished"] and content["seconds"] > 0
    train = json.loads((results(finished) / "models" / "mtlsd" / "0" / "provenance" / "train.json").read_text())
    assert train["seed"] == 0 and "torch" in train["packages"] and train["settings"]["training"]["iterations"]
    simulated = finished / "resources" / "volumes" / "provenance" / "simulate_volume-tiny_test.json"
    assert json.loads(simulated.read_text())["settings"]["simulate"]["seed"] == 2


def folders_of_results(folder: Path) -> set[Path]:
    """Folders that hold files or Zarr stores; not those of logs, measurements and pictures, nor those inside stores."""
    found = set()
    for part in ("results", "resources"):
        for path in (folder / part).rglob("*"):
            inside = path.relative_to(folder)
            # Blocks lie below the result that a job makes of them.
            skipped = {"logs", "benchmarks", "provenance", "events", "snapshots", "blocks"} & set(inside.parts)
            if skipped or any(parent.suffix == ".zarr" for parent in inside.parents):
                continue
            # The lists that jobs leave lie one level below the results they belong to, as do their records.
            if path.is_file() or path.suffix == ".zarr":
                found.add(path.parent)
    return found


def test_finished_run_has_nothing_to_do(project, finished):
    answer = project.run(finished, TINY, arguments=["-n"])
    assert answer.code == 0 and "Nothing to be done" in answer.text


def test_runs_twice_to_the_same_numbers(finished, tmp_path):
    """In another folder, by the workflow in another place, cut into other jobs: the same scores to the byte."""
    folder = tmp_path / "again"
    folder.mkdir()
    one_job = write_config(tmp_path / "one_job.yaml", {"segmentation": {"chunks": 1}})
    segmented = [segmentation_path(folder, setup).with_suffix("") for setup in sorted(SEGMENTED)]
    lists = [str(path.relative_to(folder) / "chunk-0-of-1.json") for path in segmented]
    tables = [f"results/tiny/scores/{name}.csv" for name in ("rows", "curves")]
    answer = Project(REPOSITORY).run(folder, TINY, one_job, arguments=[*tables, *lists])
    assert answer.code == 0, answer.text
    made = sorted(path.relative_to(folder) for path in (results(folder) / "scores").rglob("*.csv"))
    assert len(made) == 6 + 9 * len(SEGMENTED)
    for path in made:
        assert (folder / path).read_bytes() == (finished / path).read_bytes(), f"{path} differs"
    for setup in SEGMENTED:
        first, second = (open_volume(segmentation_path(f, setup), "segmentation") for f in (finished, folder))
        np.testing.assert_array_equal(first.read(), second.read())


@pytest.fixture(scope="module")
def sixth(tmp_path_factory) -> Path:
    """One more setup, in a file of its own."""
    setups = {"acmtlsd": {"inputs": ["raw", "lsd.lsds"], "outputs": ["affinities", "lsds"]}}
    return write_config(tmp_path_factory.mktemp("sixth") / "more.yaml", {"setups": setups})


def test_sixth_setup_plans_its_own_jobs_and_the_comparison(project, finished, sixth):
    plan = project.plan(finished, TINY, sixth)
    shared = {rule for path, rule in plan.rule_of.items() if "acmtlsd" not in path}
    assert shared == COMPARISON
    assert plan.setups() == {"acmtlsd"}
    assert {"train", "predict", "fragments", "segmentation", "min_cut"} <= plan.rules


def test_sixth_setup_runs(project, finished, sixth, tmp_path):
    folder = copy(finished, tmp_path / "sixth")
    panel, table = "results/tiny/figures/panel_acmtlsd.png", "results/tiny/scores/rows.csv"
    answer = project.run(folder, TINY, sixth, arguments=[panel, table])
    assert answer.code == 0, answer.text
    assert (folder / panel).exists()
    rows, before = (pd.read_csv(path / table) for path in (folder, finished))
    assert set(rows["row"]) == SEGMENTED | {"acmtlsd"}
    pd.testing.assert_frame_equal(rows[rows["row"] != "acmtlsd"].reset_index(drop=True), before)


def test_setup_that_sees_another_one_trains_only_itself(project, finished, tmp_path):
    """The predictions that it sees are made anew, for they must now reach beyond the region by its context."""
    setups = {"acmtlsd": {"inputs": ["raw", "mtlsd.lsds"], "outputs": ["affinities"]}}
    plan = project.plan(finished, TINY, write_config(tmp_path / "more.yaml", {"setups": setups}))
    assert plan.setups("train") == {"acmtlsd"}
    assert plan.setups() == {"acmtlsd", "mtlsd"}


@pytest.mark.parametrize(
    ("setup", "branch"), [("baseline", {"baseline"}), ("lsd", {"lsd", "aclsd", "acrlsd"}), ("acrlsd", {"acrlsd"})]
)
def test_changed_setup_plans_its_branch_only(project, finished, tmp_path, setup, branch):
    change = write_config(tmp_path / "change.yaml", {"setups": {setup: {"training": {"iterations": 7}}}})
    plan = project.plan(finished, TINY, change)
    assert plan.setups() == plan.setups("train") == branch
    assert plan.rules.isdisjoint({"simulate_volume", "lsd_targets", "skeletons", "raw_affinities"})


def test_targets_of_blocks_are_those_of_the_region_at_once(finished):
    labels = open_volume(finished / "resources/volumes/tiny_train.zarr", "labels")
    store = results(finished) / "targets" / "train-0.zarr"
    assert len(list((store / "done").iterdir())) > 1
    boundaries = grow_boundary(labels.read())
    np.testing.assert_array_equal(open_volume(store, "labels").read(), boundaries)
    expected = local_shape_descriptors(boundaries, 50, labels.voxel_size)
    np.testing.assert_allclose(open_volume(store, "lsds").read(), expected, atol=1e-6)


def code(text: str) -> str:
    return text + "\n_ADDED = 1\n"


def comment(text: str) -> str:
    return text.replace('"""', '"""Reworded: ', 1) + "\n# A comment.\n"


@pytest.mark.parametrize(
    ("module", "change", "rules"),
    [
        ("figures/scores.py", code, {"plot_scores", "summary"}),
        ("figures/style.py", code, PLOTS),
        ("figures/scores.py", comment, set()),
        ("training.py", comment, set()),
    ],
)
def test_edited_library_plans_what_runs_it(project, finished, module, change, rules):
    with project.edited(f"workflow/lsdflow/{module}", change):
        assert project.plan(finished, TINY).rules == rules


def test_edited_training_plans_training_and_what_follows(project, finished):
    with project.edited("workflow/lsdflow/training.py", code):
        plan = project.plan(finished, TINY)
    assert plan.setups("train") == SETUPS
    assert plan.rules.isdisjoint({"simulate_volume", "lsd_targets", "skeletons", "raw_affinities"})
    assert "raw_watershed" not in plan.setups()


def test_edited_script_plans_its_rule(project, finished):
    with project.edited("workflow/scripts/plot_training.py", lambda text: text + "\n"):
        assert project.plan(finished, TINY).rules == {"plot_training", "summary"}


@pytest.mark.parametrize("file", sorted((REPOSITORY / "config" / "experiments").glob("*.yaml")), ids=lambda f: f.stem)
def test_graph_of_the_experiments_of_the_repository_can_be_built(tmp_path, file):
    config = yaml.safe_load(file.read_text())
    copy(REPOSITORY / "resources" / "checksums", tmp_path / "resources" / "checksums")
    plan = Project(REPOSITORY).plan(tmp_path, file)
    assert plan.setups("train") == set(config["setups"])
    assert {"download", "import_volume", "predict", "segmentation", "summary"} <= plan.rules


def test_tiny_experiment_has_every_setup_and_scattered_jobs():
    config = yaml.safe_load(TINY.read_text())
    assert set(config["setups"]) == SETUPS
    assert max(config["prediction"].get("chunks", 1), config["segmentation"].get("chunks", 1)) > 1
