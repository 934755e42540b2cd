"""What a training leaves for its user to look at: tables, TensorBoard events, and pictures of batches."""

from __future__ import annotations

import csv
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import imageio.v3 as iio
import numpy as np
from numpy.typing import NDArray
from torch.utils.tensorboard import SummaryWriter

LOG_COLUMNS = ("iteration", "loss", "affinities", "lsds", "learning_rate", "gradient", "waited", "seconds")
VALIDATION_COLUMNS = ("iteration", "loss", "voi_split", "voi_merge", "voi_sum", "threshold", "seconds")
# Pixels along a crop's longer edge in pictures, at least.
TILE = 160


def write_table(path: Path, columns: Sequence[str], rows: Sequence[Mapping[str, Any]]) -> None:
    """Write rows as CSV, without the columns that none of them has; of no rows the header."""
    names = [c for c in columns if any(c in row for row in rows)] or columns
    with open(path, "w", newline="") as file:
        writer = csv.DictWriter(file, names, lineterminator="\n")
        writer.writeheader()
        writer.writerows(rows)


class TrainingLog:
    """The rows of a training's tables, shown in TensorBoard as they come; a context manager.

    Parameters
    ----------
    folder : gets ``log.csv``, ``validation.csv``, ``snapshots/`` and ``events/``; None writes nothing.
    done : iterations done in an earlier part of the same training.
    rows, validations : those of that part.
    """

    def __init__(
        self, folder: Path | None, done: int, rows: list[dict[str, float]], validations: list[dict[str, float]]
    ):
        self.folder, self.rows, self.validations = folder, rows, validations
        if folder is not None:
            self._events = SummaryWriter(str(folder / "events"), purge_step=done + 1)
            # There may be no more rows to come: nothing is validated, or all was done before a kill.
            write_table(folder / "validation.csv", VALIDATION_COLUMNS, validations)
            if rows:
                write_table(folder / "log.csv", LOG_COLUMNS, rows)

    def __enter__(self) -> TrainingLog:
        return self

    def __exit__(self, *_: object) -> None:
        if self.folder is not None:
            self._events.close()

    def add(self, row: dict[str, float]) -> None:
        """Note means over the iterations since the last row."""
        self._note(self.rows, "train", row, "log.csv", LOG_COLUMNS)

    def add_validation(self, row: dict[str, float]) -> None:
        """Note the scores of a validation."""
        self._note(self.validations, "validation", row, "validation.csv", VALIDATION_COLUMNS)

    def add_snapshot(self, iteration: int, picture: NDArray[np.uint8]) -> None:
        """Keep a picture (y, x, 3) of a batch."""
        folder = self.folder / "snapshots"
        folder.mkdir(exist_ok=True)
        iio.imwrite(folder / f"{iteration:07d}.png", picture)
        self._events.add_image("batch", picture, iteration, dataformats="HWC")

    def _note(self, rows: list, group: str, row: dict[str, float], table: str, columns: Sequence[str]) -> None:
        rows.append(row)
        if self.folder is None:
            return
        # One line more, however long the table is.
        if len(rows) == 1:
            write_table(self.folder / table, columns, rows)
        else:
            with open(self.folder / table, "a", newline="") as file:
                names = [c for c in columns if c in row]
                csv.DictWriter(file, names, lineterminator="\n").writerow(row)
        for name, value in row.items():
            if name not in ("iteration", "seconds"):
                self._events.add_scalar(f"{group}/{name}", value, row["iteration"])
        self._events.flush()


def batch_picture(
    raw: NDArray[np.float32],
    labels: NDArray[np.integer],
    targets: Mapping[str, NDArray[np.float32]],
    predictions: Mapping[str, NDArray[np.float32]],
) -> NDArray[np.uint8]:
    """A row per crop: raw, labels, then target beside prediction of each output, in the centre section.

    Parameters
    ----------
    raw : (batch, 1, z, y, x) in [−1, 1]; the part at the voxels of the targets is shown.
    labels : (batch, z, y, x).
    targets, predictions : per output (batch, channels, z, y, x) in [0, 1]. Shown are the three nearest affinities, or
        the offsets to the centre of mass, as red, green and blue.

    Returns
    -------
    (y, x, 3) uint8
    """
    n, z = labels.shape[1:], labels.shape[1] // 2
    begin = [(r - m) // 2 for r, m in zip(raw.shape[2:], n, strict=True)]
    rows = []
    for crop in range(len(raw)):
        grey = (raw[crop, 0, begin[0] + z, begin[1] : begin[1] + n[1], begin[2] : begin[2] + n[2]] + 1) / 2
        tiles = [np.repeat(grey[..., None], 3, -1), _colours(labels[crop, z])]
        for output, target in targets.items():
            tiles += [np.moveaxis(values[crop, :3, z], 0, -1) for values in (target, predictions[output])]
        # Small crops are enlarged to be seen.
        size = max(1, -(-TILE // max(n[1:])))
        tiles = [np.kron(tile, np.ones((size, size, 1))) for tile in tiles]
        rows.append(np.concatenate([np.pad(tile, ((0, 4), (0, 4), (0, 0)), constant_values=1) for tile in tiles], 1))
    return (np.concatenate(rows).clip(0, 1) * 255).astype(np.uint8)


def _colours(labels: NDArray[np.integer]) -> NDArray[np.float64]:
    # Any three numbers that have nothing to do with each other: neighbours get colours that differ.
    hues = (labels[..., None].astype(np.float64) * [0.754877, 0.569840, 0.430159]) % 1
    return np.where(labels[..., None] == 0, 0, 0.25 + 0.75 * hues)
