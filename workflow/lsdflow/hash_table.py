"""Numbers for 64-bit ids in the order they are met, inside compiled functions.

numba has dictionaries, but they take a quarter of a minute to compile and are slower.
"""

from __future__ import annotations

import numpy as np
from numba import njit


@njit(cache=True, nogil=True)
def with_room(ids, n_ids, n_more):
    """The first ``n_ids`` of ``ids``, with room for as many again and ``n_more``, and their hash table.

    Call it between inner loops, not within: one that may rebind an array is several times slower.
    """
    length = 64
    while length < 2 * n_ids + n_more:
        length *= 2
    roomy, table = np.empty(length, np.uint64), np.full(2 * length, np.int32(-1))
    for i in range(n_ids):
        number_of(ids[i], roomy, i, table)
    return roomy, table


@njit(cache=True, nogil=True)
def number_of(id_, ids, n_ids, table):
    """Where ``id_`` is in ``ids``: at ``n_ids``, behind the others, if it is entered now."""
    # An odd constant without a pattern spreads neighbouring ids over the upper half of the product.
    slot = np.int64((id_ * np.uint64(0x9E3779B97F4A7C15)) >> np.uint64(32)) & (len(table) - 1)
    while table[slot] >= 0 and ids[table[slot]] != id_:
        slot = (slot + 1) & (len(table) - 1)
    if table[slot] < 0:
        table[slot] = n_ids
        ids[n_ids] = id_
    return table[slot]
