"""Minimum cuts, one after the other, of an undirected graph that falls apart as it is cut.

`scipy.sparse.csgraph.maximum_flow` passes over the whole matrix for every cut.  Most flows between two fragments of a
region graph stay near them, so this is Dinic's algorithm (1970) with levels counted from both ends until they meet, on
a graph that is set up once: what is not reached costs nothing.  Capacities are integers, so a cut does not depend on
the order in which flow was sent: the nodes that the source still reaches are the same for every maximum flow.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
from numba import njit
from numpy.typing import ArrayLike, NDArray
from scipy.sparse import csr_array

CAPACITY_SCALE = 2**20


class FlowNetwork(NamedTuple):
    """Edges as two arcs each, one either way, with room to work in.

    Attributes
    ----------
    starts : (n + 1,)
        Arcs ``starts[i]`` to ``starts[i + 1]`` leave node i.
    heads, opposites : (a,)
        The node where each arc ends, and the other arc of its edge.
    capacities, flows : int64 (a,)
        The two arcs of an edge have one capacity, and flows of opposite sign; between cuts there is no flow.
    levels : int64 (n,)
        1 at the source, 2 one arc after it and so on; -1 at the sink, -2 one arc before it; 0 elsewhere, and between
        cuts.
    next_arcs : int64 (n,)
        Of each node with a level, the first arc that may still lead a level nearer to the source or sink.
    source_queue, sink_queue : int64 (n,)
        Nodes of positive and of negative levels, in the order that they were found.
    """

    starts: NDArray[np.integer]
    heads: NDArray[np.integer]
    opposites: NDArray[np.int64]
    capacities: NDArray[np.int64]
    flows: NDArray[np.int64]
    levels: NDArray[np.int64]
    next_arcs: NDArray[np.int64]
    source_queue: NDArray[np.int64]
    sink_queue: NDArray[np.int64]


def flow_network(n_nodes: int, edges: ArrayLike, weights: ArrayLike) -> FlowNetwork:
    """A network for `cut`.

    Parameters
    ----------
    n_nodes : int
        Nodes are numbered from 0.
    edges : integer (m, 2)
        Those that are listed twice are added up.
    weights : (m,)
        0 or more; capacities are whole multiples of 1 / ``CAPACITY_SCALE``, rounded down.
    """
    rows, columns = np.asarray(edges, np.int64).reshape(-1, 2).T
    ends = np.concatenate([rows, columns]), np.concatenate([columns, rows])
    graph = csr_array((np.tile(np.asarray(weights, np.float64), 2), ends), shape=(n_nodes, n_nodes))
    numbered = csr_array((np.arange(graph.nnz), graph.indices, graph.indptr), shape=graph.shape)
    return FlowNetwork(
        starts=graph.indptr,
        heads=graph.indices,
        opposites=numbered.T.tocsr().data,
        capacities=(graph.data * CAPACITY_SCALE).astype(np.int64),
        flows=np.zeros(graph.nnz, np.int64),
        levels=np.zeros(n_nodes, np.int64),
        next_arcs=np.empty(n_nodes, np.int64),
        source_queue=np.empty(n_nodes, np.int64),
        sink_queue=np.empty(n_nodes, np.int64),
    )


@njit(cache=True, nogil=True)
def cut(network, source, sink):
    """Remove the edges of the minimum cut between two nodes.

    Parameters
    ----------
    network : FlowNetwork
        The capacities of the edges that are cut become 0.
    source, sink : int
        Different nodes; there need not be a path between them.

    Returns
    -------
    int64 (k,)
        The source's side: the nodes that it still reaches where the maximum flow leaves capacity, itself first.
    """
    changed = [0 for _ in range(0)]
    while True:
        meetings, n_source, n_sink = _search(network, source, sink)
        if len(meetings) == 0:
            break
        for arc in meetings:
            _send_flow(network, arc, changed)
        _forget_levels(network, n_source, n_sink)
    for arc in changed:
        network.flows[arc] = network.flows[network.opposites[arc]] = 0
    side = network.source_queue[:n_source].copy()
    for node in side:
        for arc in range(network.starts[node], network.starts[node + 1]):
            if network.levels[network.heads[arc]] <= 0:
                network.capacities[arc] = network.capacities[network.opposites[arc]] = 0
    _forget_levels(network, n_source, n_sink)
    return side


@njit(cache=True, nogil=True)
def _search(network, source, sink):
    """Give levels to nodes from both ends until the two searches meet.

    Returns the arcs between their last levels, which all shortest paths cross, and the numbers of nodes in the queues.
    Without such arcs the source's queue holds all that it reaches.
    """
    network.levels[source], network.levels[sink] = 1, -1
    network.next_arcs[source], network.next_arcs[sink] = network.starts[source], network.starts[sink]
    network.source_queue[0], network.sink_queue[0] = source, sink
    begin_source = begin_sink = 0
    n_source = n_sink = 1
    meetings = [0 for _ in range(0)]
    while begin_source < n_source and len(meetings) == 0:
        # The smaller front moves on; the source's does to its end if the sink's has come to its own.
        if 0 < n_sink - begin_sink < n_source - begin_source:
            begin, begin_sink = begin_sink, n_sink
            n_sink = _advance(network, network.sink_queue, begin, n_sink, -1, meetings)
        else:
            begin, begin_source = begin_source, n_source
            n_source = _advance(network, network.source_queue, begin, n_source, 1, meetings)
    return meetings, n_source, n_sink


@njit(cache=True, nogil=True)
def _advance(network, queue, begin, end, sign, meetings):
    """Give the next level to what lies one arc beyond ``queue[begin:end]``, and return the new end of the queue.

    ``sign`` is 1 to follow arcs from the source, -1 to follow them back from the sink.  Arcs to levels of the other
    search are added to ``meetings``.
    """
    n_found = end
    for i in range(begin, end):
        node = queue[i]
        for arc in range(network.starts[node], network.starts[node + 1]):
            head = network.heads[arc]
            # The flow of the opposite arc is the negative of this one's.
            if sign * network.levels[head] > 0 or network.capacities[arc] == sign * network.flows[arc]:
                continue
            if network.levels[head] != 0:
                meetings.append(arc if sign > 0 else network.opposites[arc])
            elif len(meetings) == 0:
                network.levels[head] = network.levels[node] + sign
                network.next_arcs[head] = network.starts[head]
                queue[n_found] = head
                n_found += 1
    return n_found


@njit(cache=True, nogil=True)
def _send_flow(network, meeting, changed):
    """Send as much along shortest paths through one arc as they take; the arcs on them are added to ``changed``."""
    tail, head = network.heads[network.opposites[meeting]], network.heads[meeting]
    path = [0 for _ in range(0)]
    while network.capacities[meeting] > network.flows[meeting]:
        path.clear()
        path.append(meeting)
        if not (_trace(network, tail, 1, path) and _trace(network, head, -1, path)):
            return
        amount = network.capacities[meeting] - network.flows[meeting]
        for arc in path:
            amount = min(amount, network.capacities[arc] - network.flows[arc])
        for arc in path:
            network.flows[arc] += amount
            network.flows[network.opposites[arc]] -= amount
        changed.extend(path)


@njit(cache=True, nogil=True)
def _trace(network, start, sign, path):
    """Add a shortest way from ``start`` to the source (``sign`` 1) or sink (-1) to ``path``; whether there is one.

    Arcs that lead nowhere are passed for good, in ``next_arcs``: more flow opens none that goes a level nearer.
    """
    begin = len(path)
    node = start
    while network.levels[node] != sign:
        nearer = network.levels[node] - sign
        arc, end = network.next_arcs[node], network.starts[node + 1]
        while arc < end and (
            network.levels[network.heads[arc]] != nearer or network.capacities[arc] == -sign * network.flows[arc]
        ):
            arc += 1
        network.next_arcs[node] = arc
        if arc < end:
            path.append(arc if sign < 0 else network.opposites[arc])
            node = network.heads[arc]
        elif len(path) == begin:
            return False
        else:
            last = path.pop()
            node = network.heads[last if sign > 0 else network.opposites[last]]
            network.next_arcs[node] += 1
    return True


@njit(cache=True, nogil=True)
def _forget_levels(network, n_source, n_sink):
    for node in network.source_queue[:n_source]:
        network.levels[node] = 0
    for node in network.sink_queue[:n_sink]:
        network.levels[node] = 0
