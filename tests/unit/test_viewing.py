"""What is shown of an experiment, by which names, and where; and what is said when there is nothing to show."""

import json
import shutil

import neuroglancer
import numpy as np
import pytest

from lsdflow.errors import UserError
from lsdflow.viewing import find_scene, neuroglancer_state
from lsdflow.volumes import create_volume

VOXEL_SIZE, BEGIN, SHAPE = (40, 8, 10), (6, 20, 0), (4, 10, 20)


def create(store, name, lead=(), begin=BEGIN):
    store.parent.mkdir(parents=True, exist_ok=True)
    offset = np.multiply(begin, VOXEL_SIZE)
    volume = create_volume(store, name, shape=(*lead, *SHAPE), dtype="uint8", voxel_size=VOXEL_SIZE, offset=offset)
    volume.write(volume.roi, np.ones(volume.data.shape, np.uint8))


def segment(folder, setup, replicate="0", region="test", volume="a"):
    """A run that has been segmented."""
    place = folder / "segmentations" / setup / replicate / region
    create(place / "segmentation.zarr", "segmentation")
    create(place / "fragments.zarr", "fragments")
    (place / "provenance").mkdir()
    (place / "provenance/region_graph.json").write_text(json.dumps({"inputs": ["results/x.json"]}))
    (place / "provenance/create_fragments.json").write_text(
        json.dumps({"inputs": [f"resources/volumes/{volume}.zarr"]})
    )


def predict(folder, setup, *outputs, replicate="0", region="test"):
    for output in outputs:
        create(folder / "predictions" / setup / replicate / f"{region}.zarr", output, lead=(3,))


@pytest.fixture
def folder(tmp_path):
    """Two setups that are segmented, in two replicates, and one that others see."""
    folder = tmp_path / "results/mine"
    for volume in ("a", "b"):
        for name in ("raw", "labels"):
            create(tmp_path / f"resources/volumes/{volume}.zarr", name, begin=(0, 0, 0))
    for replicate in ("0", "1"):
        for setup in ("own", "mtlsd"):
            segment(folder, setup, replicate)
            predict(folder, setup, "affinities", replicate=replicate)
        predict(folder, "mtlsd", "lsds", replicate=replicate)
        predict(folder, "lsd", "lsds", replicate=replicate)
    return folder


def names(scene):
    return [[layer.name for layer in panel] for panel in scene.panels]


def test_every_part_of_an_experiment_has_its_panel(folder):
    assert names(find_scene(folder)) == [
        ["Raw"],
        ["Raw", "Truth"],
        ["MtLSD affinities", "own affinities"],
        ["LSD LSDs", "MtLSD LSDs"],
        ["Raw", "MtLSD fragments", "MtLSD"],
        ["Raw", "own fragments", "own"],
    ]


def test_one_layer_of_each_panel_lies_open(folder):
    scene = find_scene(folder)
    hidden = {layer.name for layer in scene.layers if not layer.is_shown}
    assert hidden == {"own affinities", "MtLSD LSDs", "MtLSD fragments", "own fragments"}


def test_fragments_stand_for_a_segmentation_that_is_not_there_yet(folder):
    shutil.rmtree(folder / "segmentations/own/0/test/segmentation.zarr/segmentation/0/c")
    shutil.rmtree(folder / "segmentations/mtlsd/0/test/segmentation.zarr")
    for panel in find_scene(folder).panels[4:]:
        (_, fragments) = panel
        assert fragments.name.endswith(" fragments") and fragments.is_shown


def test_predictions_without_voxels_are_left_out(folder):
    for replicate in ("0", "1"):
        shutil.rmtree(folder / "predictions/mtlsd" / replicate / "test.zarr/affinities/0/c")
    assert names(find_scene(folder))[2] == ["own affinities"]


def test_setups_and_replicates_can_be_chosen(folder):
    assert names(find_scene(folder, setups=["own"], replicates=["1"])) == [
        ["Raw"],
        ["Raw", "Truth"],
        ["own, replicate 1 affinities"],
        ["Raw", "own, replicate 1 fragments", "own, replicate 1"],
    ]
    both = find_scene(folder, replicates=["0", "1"])
    assert [layer.name for panel in both.panels[4:] for layer in panel if layer.is_shown and layer.name != "Raw"] == [
        "MtLSD, replicate 0",
        "MtLSD, replicate 1",
        "own, replicate 0",
        "own, replicate 1",
    ]
    assert len({layer.name for layer in both.layers}) == len(both.layers)


def test_segmentations_from_elsewhere_are_shown_where_they_are_compared(folder, tmp_path):
    for name in ("ffn", "of_another_experiment"):
        create(tmp_path / f"resources/segmentations/{name}.zarr", "segmentation")
    (folder / "scores/external/ffn").mkdir(parents=True)
    assert names(find_scene(folder))[-1] == ["Raw", "FFN"]
    assert ["Raw", "FFN"] not in names(find_scene(folder, setups=["own"]))


def test_the_volume_is_that_of_the_region(folder, tmp_path):
    segment(folder, "mtlsd", region="validation", volume="b")
    for region, volume in (("test", "a"), ("validation", "b")):
        scene = find_scene(folder, region=region)
        assert {scene.path(layer) for layer in scene.panels[1]} == {
            f"resources/volumes/{volume}.zarr/raw",
            f"resources/volumes/{volume}.zarr/labels",
        }


def test_neuroglancer_understands_the_state(folder):
    state = neuroglancer_state(find_scene(folder), "http://localhost:1")
    # Its own classes refuse what they do not know, and write the same again but for units, which they make metres.
    again = neuroglancer.ViewerState(state).to_json()
    assert [layer["name"] for layer in again["layers"]] == [layer["name"] for layer in state["layers"]]
    assert again["layout"] == state["layout"]
    assert again["position"] == state["position"]


def test_panels_look_at_the_middle_of_the_region(folder):
    state = neuroglancer_state(find_scene(folder), "http://localhost:1")
    # x y z: in voxels of 10, 8, 40 nm from the corner of the volume.
    assert state["dimensions"] == {"x": [10, "nm"], "y": [8, "nm"], "z": [40, "nm"]}
    assert state["position"] == [10, 25, 8]
    # 200 nm along x in a third of 1900 pixels, 80 nm along y in half of 1000 less the names; 8 nm are one unit.
    assert state["crossSectionScale"] == pytest.approx(200 / (1900 / 3) / 8)


def test_panels_stand_in_rows_of_similar_length(folder):
    state = neuroglancer_state(find_scene(folder), "http://localhost:1")
    assert [len(row["children"]) for row in state["layout"]["children"]] == [3, 3]
    assert {panel["layout"] for row in state["layout"]["children"] for panel in row["children"]} == {"xy"}


def test_an_experiment_that_does_not_exist_is_told_from_those_that_do(folder):
    with pytest.raises(UserError, match="no experiment in .*other; those in .*results are mine"):
        find_scene(folder.parent / "other")


def test_without_any_experiment_it_says_what_to_run(tmp_path):
    with pytest.raises(UserError, match="none has been run: `make run`"):
        find_scene(tmp_path / "results/default")


def test_an_experiment_that_is_not_segmented_yet_is_to_be_run_on(tmp_path):
    folder = tmp_path / "results/mine"
    segment(folder, "mtlsd")
    shutil.rmtree(folder / "segmentations/mtlsd/0/test/fragments.zarr/fragments/0/c")
    with pytest.raises(UserError, match="mine has no segmentation of its test region yet: run it again"):
        find_scene(folder)


def test_what_is_not_segmented_is_told_from_what_is(folder):
    for chosen in ({"setups": ["aclsd"]}, {"replicates": ["7"]}):
        with pytest.raises(
            UserError, match=r"no such segmentation .* it has mtlsd \(replicate 0\), own \(replicate 0\)"
        ):
            find_scene(folder, **chosen)


def test_a_setup_that_does_not_exist_is_named_even_among_others(folder):
    assert len(find_scene(folder, setups=["lsd", "own"]).panels) == 5
    with pytest.raises(UserError, match="mine has nothing of typo; it has lsd, mtlsd, own"):
        find_scene(folder, setups=["own", "typo"])


def test_results_that_do_not_say_their_volume_are_refused(folder):
    for path in folder.rglob("create_fragments.json"):
        path.unlink()
    with pytest.raises(UserError, match="which volume its test region lies in"):
        find_scene(folder)
