"""Readers of skeletons give back what was traced, in nm, and refuse with a reason what cannot be used."""

import logging
import struct

import networkx as nx
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from lsdflow.errors import UserError
from lsdflow.metrics.run_length import run_length_scores
from lsdflow.metrics.skeleton_files import check_inside, read_skeletons
from lsdflow.metrics.skeletons import node_labels, save_skeletons, skeleton_arrays

# Two skeletons of the ids 116 and 21, the first with a branch: node → (z, y, x); edges child to parent.
#   1 - 2 - 5      8 - 9
#       |
#       3
NODES = {1: (20, 0, 0), 2: (20, 30, 40), 5: (20, 30, 90), 3: (60, 30, 40), 8: (0, 9, 9), 9: (0, 9, 21.5)}
SKELETON = {1: 116, 2: 116, 5: 116, 3: 116, 8: 21, 9: 21}
EDGES = [(2, 1), (5, 2), (3, 2), (9, 8)]
LENGTHS = [50.0, 50.0, 40.0, 12.5]

# Three nodes, two edges, as pymongo 4.20 encodes them: int64, int32 and double beside an ObjectId, a string, an array,
# a bool, a document with a null, a date and binary data.
PYMONGO_NODES = bytes.fromhex(
    "5d000000075f6964005f0c0ffee000000000000001126964000700000000000000107a00140000001279000900000000000000017800000000"
    "0000003240106e6575726f6e5f69640074000000026e616d65000500000061786f6e000072000000075f6964005f0c0ffee000000000000002"
    "1269640000f2052a01000000107a002800000012790009000000000000000178000000000000003240106e6575726f6e5f6964007400000004"
    "7461677300150000000230000200000061001031000100000000086d61736b656400010074000000075f6964005f0c0ffee000000000000003"
    "12696400fdffffffffffffff107a00280000001279000c000000000000000178000000000000003640106e6575726f6e5f6964007400000003"
    "6d6f726500080000000a6b00000961740000a078457301000005726177000200000000000100"
)
PYMONGO_EDGES = bytes.fromhex(
    "36000000075f6964005f0c0ffee00000000000000412736f75726365000700000000000000127461726765740000f2052a0100000000360000"
    "00075f6964005f0c0ffee00000000000000512736f7572636500fdffffffffffffff127461726765740000f2052a0100000000"
)


def bson(**values):
    """One document of int64 and double values (bsonspec.org)."""
    elements = b"".join(
        (b"\x12" if isinstance(value, int) else b"\x01")
        + name.encode()
        + struct.pack("<xq" if isinstance(value, int) else "<xd", value)
        for name, value in values.items()
    )
    return struct.pack("<i", len(elements) + 5) + elements + b"\x00"


def write_swc(path, nodes=NODES, edges=EDGES):
    parent = dict(edges)
    rows = [f"{node} 0 {x} {y} {z} 1.0 {parent.get(node, -1)}" for node, (z, y, x) in nodes.items()]
    path.write_text("# traced by hand\n\n" + "\n".join(rows) + "\n")
    return path


def write_nml(path, nodes=NODES, edges=EDGES, skeleton=SKELETON, parameters='<scale x="1" y="1.0" z="1.0"/>'):
    things = ""
    for thing in dict.fromkeys(skeleton.values()):
        inside = [node for node in nodes if skeleton[node] == thing]
        things += f'<thing id="{thing}" name="a"><nodes>'
        things += "".join('<node id="{}" z="{}" y="{}" x="{}"/>'.format(n, *nodes[n]) for n in inside)
        things += "</nodes><edges>"
        things += "".join(f'<edge source="{u}" target="{v}"/>' for u, v in edges if skeleton.get(u) == thing)
        things += "</edges></thing>"
    path.write_text(f"<things><parameters>{parameters}</parameters>{things}<comments/></things>")
    return path


def write_csv(path, nodes=NODES, edges=EDGES, skeleton=SKELETON):
    lines = [f"{node},{z},{y},{x},{skeleton[node]}" for node, (z, y, x) in nodes.items()]
    path.write_text("\n".join(["id,z,y,x,skeleton", *lines]) + "\n")
    path.with_name(path.name.replace("nodes", "edges")).write_text(
        "\n".join(["u,v", *(f"{u},{v}" for u, v in edges)]) + "\n"
    )
    return path


def write_bson(path, nodes=NODES, edges=EDGES, skeleton=SKELETON):
    documents = [bson(id=n, z=z, y=y, x=x, neuron_id=skeleton[n]) for n, (z, y, x) in nodes.items()]
    path.write_bytes(b"".join(documents))
    path.with_name(path.name.replace("nodes", "edges")).write_bytes(
        b"".join(bson(source=u, target=v) for u, v in edges)
    )
    return path


def is_two_skeletons(graph, labels):
    arrays = skeleton_arrays(graph)
    np.testing.assert_array_equal(arrays.positions, list(NODES.values()))
    assert nx.utils.edges_equal(graph.edges, EDGES)
    assert {frozenset(e): graph.edges[e]["length"] for e in EDGES} == dict(
        zip(map(frozenset, EDGES), LENGTHS, strict=True)
    )
    assert arrays.components.tolist() == [1, 1, 1, 1, 2, 2]
    assert arrays.labels.tolist() == labels
    return True


# --- formats --------------------------------------------------------------------------------------------------------


def test_every_format_gives_the_same_skeletons(tmp_path):
    by_name = list(SKELETON.values())
    swc = read_skeletons(write_swc(tmp_path / "traced.swc"))
    assert list(swc) == list(NODES)
    assert is_two_skeletons(swc, [1, 1, 1, 1, 2, 2])  # .swc knows no id of the skeleton: the component
    assert is_two_skeletons(read_skeletons(write_swc(tmp_path / "720575940.SWC")), [720575940] * 6)
    csv = read_skeletons(write_csv(tmp_path / "my_nodes.csv"))
    assert list(csv) == list(NODES)
    assert is_two_skeletons(csv, by_name)
    assert is_two_skeletons(read_skeletons(write_bson(tmp_path / "zebrafinch.nodes.bson")), by_name)
    nml = read_skeletons(write_nml(tmp_path / "a.nml"))
    assert is_two_skeletons(nml, by_name)
    save_skeletons(tmp_path / "ours.npz", nml)
    assert is_two_skeletons(read_skeletons(tmp_path / "ours.npz"), by_name)


def test_dump_of_a_database_is_read_whatever_else_it_holds(tmp_path):
    (tmp_path / "zebrafinch.nodes.bson").write_bytes(PYMONGO_NODES)
    (tmp_path / "zebrafinch.edges.bson").write_bytes(PYMONGO_EDGES)
    (tmp_path / "nodes_zebrafinch_mask.bson").write_bytes(b"")  # as the paper's folders hold; not a table of nodes
    graph = read_skeletons(tmp_path)
    assert dict(graph.nodes(data="position")) == {7: (20, 9, 18), 5_000_000_000: (40, 9, 18), -3: (40, 12, 22)}
    assert set(dict(graph.nodes(data="label")).values()) == {116}
    assert {frozenset(e): x for *e, x in graph.edges(data="length")} == {
        frozenset((7, 5_000_000_000)): 20.0,
        frozenset((-3, 5_000_000_000)): 5.0,
    }


@pytest.mark.parametrize("write", [write_csv, write_bson])
def test_folder_with_one_pair_of_tables(tmp_path, write):
    write(tmp_path / f"nodes.{write.__name__[-4:].strip('_')}")
    assert is_two_skeletons(read_skeletons(tmp_path), list(SKELETON.values()))


def test_folder_of_swc_numbers_nodes_anew_and_takes_labels_from_names(tmp_path):
    parts = [{n: p for n, p in NODES.items() if SKELETON[n] == s} for s in (116, 21)]
    for name, nodes in zip(("116.swc", "21.swc"), parts, strict=True):
        first = min(nodes)  # so that ids repeat between the files
        write_swc(
            tmp_path / name,
            {n - first: p for n, p in nodes.items()},
            [(u - first, v - first) for u, v in EDGES if u in nodes],
        )
    (tmp_path / ".116.swc").write_text("left by an editor")
    graph = read_skeletons(tmp_path)
    assert list(graph) == [0, 1, 2, 3, 4, 5]
    assert is_two_skeletons(nx.relabel_nodes(graph, dict(enumerate(NODES))), list(SKELETON.values()))
    (tmp_path / "21.swc").rename(tmp_path / "axon.swc")
    assert skeleton_arrays(read_skeletons(tmp_path)).labels.tolist() == [1, 1, 1, 1, 2, 2]


def test_table_without_skeletons_and_with_ids_as_floats(tmp_path):
    write_csv(tmp_path / "nodes.csv")
    (tmp_path / "nodes.csv").write_text("\ufeffx, y, z, id, radius\n1.5, 2, 3, 7.0, 1\n1.5, 2, 6, 8.0, 1\n")
    (tmp_path / "edges.csv").write_text("u,v\n8,7.0\n7,8\n7,7\n")  # twice the same edge, and one to itself
    graph = read_skeletons(tmp_path / "nodes.csv")
    assert dict(graph.nodes(data="position")) == {7: (3, 2, 1.5), 8: (6, 2, 1.5)}
    assert dict(graph.nodes(data="label")) == {7: 1, 8: 1}
    assert list(graph.edges(data="length")) == [(7, 8, 3.0)]


def test_cycles_are_allowed(tmp_path):
    graph = read_skeletons(write_csv(tmp_path / "nodes.csv", edges=[*EDGES, (1, 5)]))
    assert not nx.is_forest(graph)
    assert run_length_scores(graph, skeleton_arrays(graph).components).normalized == 1


@given(st.data())
@settings(deadline=None, max_examples=25)
def test_tables_come_back_exactly(tmp_path_factory, data):
    number = st.floats(-1e9, 1e9, allow_nan=False)
    nodes = data.draw(
        st.dictionaries(st.integers(-(2**63), 2**63 - 1), st.tuples(number, number, number), min_size=2, max_size=8)
    )
    ids = list(nodes)
    edges = data.draw(
        st.lists(st.tuples(st.sampled_from(ids), st.sampled_from(ids)).filter(lambda e: e[0] != e[1]), min_size=1)
    )
    skeleton = {node: data.draw(st.integers(0, 2**63 - 1)) for node in ids}
    folder = tmp_path_factory.mktemp("tables")
    for write, name in ((write_csv, "nodes.csv"), (write_bson, "nodes.bson")):
        graph = read_skeletons(write(folder / name, nodes, edges, skeleton))
        assert dict(graph.nodes(data="position")) == nodes
        assert dict(graph.nodes(data="label")) == skeleton
        assert {frozenset(e) for e in graph.edges} == {frozenset(e) for e in edges}
        components = dict(graph.nodes(data="component"))
        assert all(components[u] == components[v] for u, v in edges)
        assert list(dict.fromkeys(components.values())) == list(range(1, nx.number_connected_components(graph) + 1))


# --- units ----------------------------------------------------------------------------------------------------------


def test_micrometres_become_nanometres(tmp_path):
    path = write_swc(tmp_path / "a.swc", {1: (1, 2, 3), 2: (1, 2, 3.5)}, [(2, 1)])
    graph = read_skeletons(path, unit_nm=1000, offset=(10, 0, 0))
    assert dict(graph.nodes(data="position")) == {1: (1010, 2000, 3000), 2: (1010, 2000, 3500)}
    assert graph.edges[1, 2]["length"] == 500


def test_voxels_that_are_indices_stand_for_their_centres(tmp_path):
    path = write_swc(tmp_path / "a.swc", {1: (1, 2, 3), 2: (1, 2, 5)}, [(2, 1)])
    graph = read_skeletons(path, voxel_size=(20, 9, 10), offset=(1000, 0, 0))
    assert dict(graph.nodes(data="position")) == {1: (1030, 22.5, 35), 2: (1030, 22.5, 55)}
    fractional = write_swc(tmp_path / "b.swc", {1: (1, 2, 3.25), 2: (1, 2, 5)}, [(2, 1)])
    graph = read_skeletons(fractional, voxel_size=(20, 9, 10))
    assert dict(graph.nodes(data="position")) == {1: (20, 18, 32.5), 2: (20, 18, 50)}


def test_voxel_of_an_nml_is_found_again(tmp_path):
    # With 11.24 nm, 3 * 11.24 / 11.24 and others fall short of the whole number.
    nodes = {i: (i, 0, i) for i in range(1, 60)}
    path = write_nml(
        tmp_path / "a.nml",
        nodes,
        [(i + 1, i) for i in range(1, 59)],
        dict.fromkeys(nodes, 3),
        '<scale x="11.24" y="11.24" z="28" unit="nanometer"/><offset x="0" y="0" z="0"/>',
    )
    volume = np.arange(60)[:, None, None] * 1000 + np.arange(60)
    graph = read_skeletons(path)
    np.testing.assert_array_equal(node_labels(graph, volume, (28, 11.24, 11.24)), [i * 1001 for i in range(1, 60)])
    assert skeleton_arrays(read_skeletons(path, voxel_size=(1, 1, 1))).positions[0].tolist() == [1.5, 0.5, 1.5]


def test_scale_in_micrometres_and_an_offset_that_is_not_applied(tmp_path, caplog):
    path = write_nml(
        tmp_path / "a.nml",
        parameters='<scale x="0.01" y="0.01" z="0.02" unit="micrometer"/><offset x="5" y="0" z="0"/>',
    )
    with caplog.at_level(logging.WARNING):
        graph = read_skeletons(path)
    np.testing.assert_allclose(graph.nodes[9]["position"], (0, 90, 215))
    assert "offset" in caplog.text


# --- refusals -------------------------------------------------------------------------------------------------------


def refused(path, match, **arguments):
    with pytest.raises(UserError, match=match):
        read_skeletons(path, **arguments)


def test_files_that_are_none(tmp_path):
    refused(tmp_path / "a.swc", "does not exist")
    (tmp_path / "a.ply").write_text("")
    refused(tmp_path / "a.ply", r"from \.ply: give one of \.swc, \.nml, \.csv, \.bson, \.npz, or a folder")
    refused(tmp_path, "holds neither .swc files nor a table")
    write_csv(tmp_path / "nodes.csv")
    write_swc(tmp_path / "a.swc")
    refused(tmp_path, "1 .swc files and 1 tables of nodes")
    refused(tmp_path / "edges.csv", "name the first")
    (tmp_path / "edges.csv").unlink()
    refused(tmp_path / "nodes.csv", "put edges.csv beside it")


def test_files_that_are_broken(tmp_path):
    (tmp_path / "a.nml").write_text("<things><thing")
    refused(tmp_path / "a.nml", "is not an .nml file")
    (tmp_path / "nodes.csv").write_bytes(b"id,z,y,x\n\xff\xfe\n")
    (tmp_path / "edges.csv").write_text("u,v\n")
    refused(tmp_path / "nodes.csv", "is not a table of comma-separated text")
    path = write_bson(tmp_path / "nodes.bson")
    whole = path.read_bytes()
    path.write_bytes(whole[:-7])
    refused(path, "broken after 5 of them")
    path.write_bytes(b"id,z,y,x\n1,2,3,4\n")
    refused(path, "is not a dump of BSON documents")
    path.write_bytes(bytes.fromhex("0e000000 0b 7a00 6100 6200 00 0000 00"))
    refused(path, "z is of type 0x0b")


def test_numbers_that_are_none(tmp_path):
    path = write_csv(tmp_path / "nodes.csv", {**NODES, 2: (20, "far", 40)})
    refused(path, "nodes.csv, row 2: y must be a number, not 'far'")
    path = write_csv(tmp_path / "nodes.csv", {**NODES, 5: (20, float("nan"), 40), 3: (float("inf"), 0, 0)})
    refused(path, "2 nodes have a coordinate that is not finite, the first of them 5")
    path = write_csv(tmp_path / "nodes.csv", skeleton={**SKELETON, 2: 1.5})
    refused(path, "row 2: skeleton must be a whole number, not '1.5'")
    path = write_csv(tmp_path / "nodes.csv", skeleton={**SKELETON, 2: -1})
    refused(path, "those of skeletons into 64 bits without")
    (tmp_path / "a.swc").write_text("1 0 1 2 3 1 -1\n2 0 1 2\n")
    refused(tmp_path / "a.swc", "row 2: parent must be a whole number, not None")


def test_columns_that_are_missing(tmp_path):
    path = write_csv(tmp_path / "nodes.csv")
    path.write_text("node,z,y,x\n1,2,3,4\n")
    refused(path, "nodes.csv has no column id: it has node, z, y, x")
    path = write_csv(tmp_path / "nodes.csv")
    (tmp_path / "edges.csv").write_text("from,to\n1,2\n")
    refused(path, "edges.csv has no column u or source: it has from, to")
    path = write_bson(tmp_path / "nodes.bson")
    path.write_bytes(bson(id=1, x=2, y=3))
    refused(path, "nodes.bson has no column z: it has id, x, y")


def test_graphs_that_are_none(tmp_path):
    refused(write_swc(tmp_path / "a.swc", edges=[(2, 1), (5, 4)]), "lacks nodes that 1 edges .* first from 5 to 4")
    refused(write_nml(tmp_path / "a.nml", edges=[(2, 1), (2, 10)]), "first from 2 to 10")
    refused(write_csv(tmp_path / "nodes.csv", edges=[]), "6 nodes and no edge between them")
    refused(write_csv(tmp_path / "nodes.csv", edges=[(1, 1)]), "no edge between them")
    (tmp_path / "b.swc").write_text("1 0 0 0 0 1 -1\n1 0 0 0 1 1 -1\n2 0 0 0 2 1 1\n")
    refused(tmp_path / "b.swc", "1 nodes have the id of another, such as 1")
    (tmp_path / "c.swc").write_text("# nothing\n")
    refused(tmp_path / "c.swc", "0 nodes and no edge")


def test_sizes_and_units_that_contradict_the_file(tmp_path):
    path = write_swc(tmp_path / "a.swc")
    refused(path, "voxel_size or unit_nm, not both", voxel_size=(1, 1, 1), unit_nm=1)
    refused(path, "unit_nm must be positive", unit_nm=0)
    refused(path, "voxel_size must be positive", voxel_size=(1, 1))
    nml = write_nml(tmp_path / "a.nml", parameters="")
    refused(nml, "does not name the size of its voxels")
    refused(nml, "coordinates are voxels: remove unit_nm", unit_nm=1000)
    inches = write_nml(tmp_path / "b.nml", parameters='<scale x="1" y="1" z="1" unit="inch"/>')
    refused(inches, "in nanometer or micrometer .*: give voxel_size")
    assert len(read_skeletons(inches, voxel_size=(1, 1, 1))) == len(NODES)
    save_skeletons(tmp_path / "a.npz", read_skeletons(path))
    for arguments in ({"voxel_size": (1, 1, 1)}, {"unit_nm": 1}, {"offset": (1, 0, 0)}):
        refused(tmp_path / "a.npz", "remove voxel_size, unit_nm and offset", **arguments)


# --- the volume -----------------------------------------------------------------------------------------------------


def test_nodes_outside_a_volume_are_counted_and_refused_if_they_are_all(tmp_path):
    graph = read_skeletons(write_swc(tmp_path / "a.swc"))
    assert check_inside(graph, (0, 0, 0), (61, 31, 91)) == 0
    assert check_inside(graph, (0, 0, 0), (60, 31, 91)) == 1  # the end is outside
    assert check_inside(graph, (20, 0, 0), (61, 31, 91)) == 2
    with pytest.raises(UserError) as error:
        check_inside(graph, (1000, 0, 0), (200000, 500, 500))
    message = str(error.value)
    assert "from (0, 0, 0) to (60, 30, 90)" in message
    assert "the volume from (1000, 0, 0) to (200000, 500, 500)" in message
    assert "units" in message and "order of their axes" in message
    with pytest.raises(UserError, match="hold no node"):
        check_inside(nx.Graph(), (0, 0, 0), (1, 1, 1))
