"""The compiled passes behind the region graph: over the voxels of a block, and over the histograms of graphs."""

from __future__ import annotations

import numpy as np
from numba import njit

from lsdflow.hash_table import number_of, with_room

BINS = 256
_MAXIMUM_COUNT = np.iinfo(np.int32).max


@njit(cache=True, nogil=True)
def _number_row(row, numbers, begin, ids, sizes, n_ids, table):
    """The number of each voxel's fragment, -1 for none; voxels from ``begin`` on are added to ``sizes``."""
    last, number, first = np.uint64(0), -1, 0
    for x in range(len(row)):
        # Neighbours mostly share an id.
        if row[x] != last:
            if number >= 0:
                sizes[number] += max(x - max(first, begin), 0)
            last, number, first = row[x], -1, x
            if last != 0:
                number = number_of(last, ids, n_ids, table)
                n_ids = max(n_ids, number + 1)
        numbers[x] = number
    if number >= 0:
        sizes[number] += max(len(row) - max(first, begin), 0)
    return n_ids


@njit(cache=True, nogil=True)
def _pair_row(numbers, lowers_z, lowers_y, begin, affinities, scale, last, pairs, n_pairs, table, entries, n_entries):
    """An entry for each neighbour below of the voxels from ``begin`` on that is of another fragment."""
    affinities_z, affinities_y, affinities_x = affinities
    entry_pairs, entry_bins = entries
    last_keys, last_pairs = last
    for x in range(begin, len(numbers)):
        number = numbers[x]
        lower_z, lower_y, lower_x = lowers_z[x], lowers_y[x], numbers[max(x - 1, 0)]
        # Most voxels are done with here.
        if number < 0 or (number == lower_z and number == lower_y and number == lower_x):
            continue
        for axis in range(3):
            lower = lower_z if axis == 0 else (lower_y if axis == 1 else lower_x)
            if lower < 0 or lower == number:
                continue
            affinity = affinities_z[x] if axis == 0 else (affinities_y[x] if axis == 1 else affinities_x[x])
            key = np.uint64(min(number, lower)) << np.uint64(32) | np.uint64(max(number, lower))
            # Along a face between two fragments the same pair comes again and again.
            if key != last_keys[axis]:
                last_keys[axis], last_pairs[axis] = key, number_of(key, pairs, n_pairs, table)
                n_pairs = max(n_pairs, last_pairs[axis] + 1)
            entry_pairs[n_entries], entry_bins[n_entries] = last_pairs[axis], min(int(affinity * scale), BINS - 1)
            n_entries += 1
    return n_pairs, n_entries


@njit(cache=True, nogil=True)
def count_affinities(affinities, fragments, scale, context_z, context_y, context_x):
    """Fragments and pairs of a block in the order they are met, and every affinity between two fragments.

    Returns ids and sizes of fragments; pairs, as the numbers of two fragments, 32 bits each; and of each affinity the
    number of its pair, and its bin.
    """
    n_z, n_y, n_x = fragments.shape
    ids, id_table = with_room(np.empty(0, np.uint64), 0, n_x)
    pairs, pair_table = with_room(np.empty(0, np.uint64), 0, 3 * n_x)
    sizes, n_ids, n_pairs, n_entries = np.zeros(len(ids), np.int64), 0, 0, 0
    # Pairs and bins: one voxel in three has an entry, or it takes more.
    length = fragments.size // 3 + 3 * n_x
    entries = np.empty(length, np.int32), np.empty(length, np.uint8)
    last = np.zeros(3, np.uint64), np.zeros(3, np.int32)
    planes = np.empty((2, n_y, n_x), np.int32)
    for z in range(n_z):
        here, below = planes[z % 2], planes[(z + 1) % 2]
        for y in range(n_y):
            if n_ids + n_x > len(ids):
                ids, id_table = with_room(ids, n_ids, n_x)
                sizes = np.concatenate((sizes, np.zeros(len(ids) - len(sizes), np.int64)))
            is_context = z < context_z or y < context_y
            begin = n_x if is_context else context_x
            n_ids = _number_row(fragments[z, y], here[y], begin, ids, sizes, n_ids, id_table)
            if is_context:
                continue
            if n_pairs + 3 * n_x > len(pairs):
                pairs, pair_table = with_room(pairs, n_pairs, 3 * n_x)
            if n_entries + 3 * n_x > len(entries[0]):
                more = np.empty_like(entries[0]), np.empty_like(entries[1])
                entries = np.concatenate((entries[0], more[0])), np.concatenate((entries[1], more[1]))
            # At a face of the volume a voxel is its own neighbour.
            lowers_z, lowers_y = below[y] if z > 0 else here[y], here[max(y - 1, 0)]
            rows = affinities[0, z, y], affinities[1, z, y], affinities[2, z, y]
            n_pairs, n_entries = _pair_row(
                here[y], lowers_z, lowers_y, begin, rows, scale, last, pairs, n_pairs, pair_table, entries, n_entries
            )
    return ids[:n_ids].copy(), sizes[:n_ids].copy(), pairs[:n_pairs], entries[0][:n_entries], entries[1][:n_entries]


@njit(cache=True, nogil=True)
def histograms(entry_pairs, entry_bins, row_of_pair):
    """Starts, bins and counts of the histogram of each row, of entries in any order; a row for each pair."""
    n_rows = len(row_of_pair)
    begins = np.zeros(n_rows + 1, np.int64)
    for pair in entry_pairs:
        begins[row_of_pair[pair] + 1] += 1
    for row in range(n_rows):
        begins[row + 1] += begins[row]
    ordered, ends = np.empty(len(entry_bins), np.uint8), begins[:-1].copy()
    for i in range(len(entry_pairs)):
        row = row_of_pair[entry_pairs[i]]
        ordered[ends[row]] = entry_bins[i]
        ends[row] += 1
    # The bins of a row are never more than its entries, so they fit where those were.
    starts, counts = np.zeros(n_rows + 1, np.int64), np.empty(len(ordered), np.int32)
    dense, n_written = np.zeros(BINS, np.int32), 0
    for row in range(n_rows):
        low, high = BINS, -1
        for i in range(begins[row], begins[row + 1]):
            bin_ = np.int64(ordered[i])
            dense[bin_] += 1
            low, high = min(low, bin_), max(high, bin_)
        for bin_ in range(low, high + 1):
            if dense[bin_] > 0:
                ordered[n_written], counts[n_written] = bin_, dense[bin_]
                dense[bin_] = 0
                n_written += 1
        starts[row + 1] = n_written
    return starts, ordered[:n_written].copy(), counts[:n_written].copy()


@njit(cache=True, nogil=True)
def append_histograms(rows, starts, bins, counts, ends, into_bins, into_counts):
    """Write histogram i of a graph behind what row ``rows[i]`` holds already; ``ends`` (of rows) move on."""
    for i in range(len(rows)):
        end = ends[rows[i]]
        for j in range(starts[i], starts[i + 1]):
            into_bins[end], into_counts[end] = bins[j], counts[j]
            end += 1
        ends[rows[i]] = end


@njit(cache=True, nogil=True)
def add_up(starts, bins, counts):
    """Add the counts of the same bin of each row, sort its bins and close the gaps, all in place.

    Returns the number of entries left, or -1 if a count exceeds int32.
    """
    dense, n_written = np.zeros(BINS, np.int64), 0
    begin = starts[0]
    for row in range(len(starts) - 1):
        end = starts[row + 1]
        is_ascending = True
        for i in range(begin + 1, end):
            is_ascending &= bins[i] > bins[i - 1]
        if is_ascending:
            for i in range(begin, end):
                bins[n_written], counts[n_written] = bins[i], counts[i]
                n_written += 1
        else:
            for i in range(begin, end):
                dense[bins[i]] += counts[i]
            for bin_ in range(BINS):
                if dense[bin_] > _MAXIMUM_COUNT:
                    return -1
                if dense[bin_] > 0:
                    bins[n_written], counts[n_written] = bin_, dense[bin_]
                    dense[bin_] = 0
                    n_written += 1
        begin = end
        starts[row + 1] = n_written
    return n_written
