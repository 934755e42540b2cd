"""Score a segmentation in one file against the truth in another: ``python -m lsdflow.metrics TRUTH SEGMENTATION``."""

from __future__ import annotations

import argparse
import csv
import json
import re
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from lsdflow.errors import UserError
from lsdflow.metrics.file_scores import compare_files
from lsdflow.metrics.label_files import LabelFile, open_labels
from lsdflow.metrics.skeleton_files import read_skeletons
from lsdflow.roi import Roi

# How each score is called, and its value for a perfect segmentation.
METRICS = {
    "voi_split": ("VOI split (bits)", 0),
    "voi_merge": ("VOI merge (bits)", 0),
    "voi_sum": ("VOI sum (bits)", 0),
    "rand_split": ("Rand split", 1),
    "rand_merge": ("Rand merge", 1),
    "adapted_rand_error": ("Adapted Rand error", 0),
    "nvi_split": ("Normalised VOI split", 0),
    "nvi_merge": ("Normalised VOI merge", 0),
    "nid": ("Normalised information distance", 0),
    "cremi_score": ("CREMI score", 0),
}

EXAMPLES = """\
examples:
  python -m lsdflow.metrics truth.tif segmentation.h5 --segmentation-dataset labels
  python -m lsdflow.metrics volume.zarr segmentation.zarr --truth-dataset labels --roi 170:250,0:250,0:250
  python -m lsdflow.metrics truth.hdf result.hdf --border-tolerance 200 --voxel-size 40 4 4 --csv scores.csv
  python -m lsdflow.metrics truth.npy segmentation.npy --voxel-size 10 10 10 --make-skeletons

Files: .npy, .npz, .tif, .h5 (.hdf, .h5.gz), .zarr (plain or OME-Zarr), or a pattern of image sections ('labels/*.png').
Arrays are (z, y, x) integers from 0 to 2^64 - 1. What is in Zarr is read block by block and may be larger than memory.

Conventions: VOI in bits; voxels of truth 0 are ignored; segment 0 counts as one segment. Every other id is an object:
CREMI marks its background by 2^64 - 1, which must be set to 0 first. Rand split and merge are 1 if perfect, errors 0.
"""


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command with the arguments ``argv``, those of the process by default; return its exit code."""
    options = _parser().parse_args(argv)
    try:
        outputs = [Path(path) for path in (options.csv, options.json) if path]
        for path in outputs:
            if path.is_dir() or not path.absolute().parent.is_dir():
                raise UserError(f"{path} cannot be written: it must be a file in a folder that exists")
        result = compare_files(
            _open(options.truth, options.truth_dataset, "truth"),
            _open(options.segmentation, options.segmentation_dataset, "segmentation"),
            roi=options.roi,
            ignore_segment_zero=options.ignore_zero,
            border_tolerance=options.border_tolerance,
            voxel_size=tuple(options.voxel_size) if options.voxel_size else None,
            skeletons=read_skeletons(options.skeletons) if options.skeletons else None,
            make_skeletons=options.make_skeletons,
        )
        print(describe(result))
        if options.csv:
            write_csv(options.csv, result)
        if options.json:
            Path(options.json).write_text(json.dumps(result, indent=2) + "\n", encoding="utf-8")
    except (UserError, OSError) as error:
        print("error:", *str(error).split(), file=sys.stderr)
        return 1
    return 0


def describe(result: dict[str, Any]) -> str:
    """The result of `compare_files` as an aligned table, with what was compared and by which conventions."""
    scores = result["scores"]
    rows = [(name, f"{scores[key]:.4f}", str(perfect)) for key, (name, perfect) in METRICS.items()]
    rows += [("Segments", str(scores["segments"]), str(result["true_objects"]))]
    compared = f"{result['voxels']} voxels of {result['true_objects']} true objects in {result['region']}"
    conventions = ["VOI in bits", "voxels of truth 0 are ignored", "segment 0 counts as one segment"]
    if result["ignore_segment_zero"]:
        conventions[-1] = "voxels of segment 0 are ignored"
    if result["border_tolerance_nm"]:
        distance = f"{result['border_tolerance_nm']:g} nm"
        conventions.append(f"voxels within {distance} of a border of the truth in their section are ignored")
    if "skeletons" in result:
        run_length, maximum = scores["expected_run_length"], scores["maximum_run_length"]
        rows += [
            ("Expected run length (nm)", f"{run_length:.1f}", f"{maximum:.1f}"),
            ("Normalised run length", f"{scores['normalized_run_length']:.4f}", "1"),
        ]
        compared += f"\n              {result['skeletons']} skeletons of {result['skeleton_length_nm']:.0f} nm"
        conventions.append("a skeleton edge is correct within one segment that touches no other skeleton")
    rows = [("Metric", "Value", "Perfect"), *rows]
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    return "\n".join(
        [
            f"Truth         {result['truth']}",
            f"Segmentation  {result['segmentation']}",
            f"Compared      {compared}",
            "",
            *(f"{name:{widths[0]}}  {value:>{widths[1]}}  {perfect:>{widths[2]}}" for name, value, perfect in rows),
            "",
            "; ".join(conventions) + ".",
        ]
    )


def write_csv(path: str, result: dict[str, Any]) -> None:
    """Write the result of `compare_files` to ``path``: one line of names, one of values."""
    row = {**result, **result["scores"]}
    del row["scores"]
    row["voxel_size_nm"] = " ".join(f"{n:g}" for n in result["voxel_size_nm"] or ())
    with open(path, "w", newline="", encoding="utf-8") as file:
        writer = csv.DictWriter(file, row, lineterminator="\n")
        writer.writeheader()
        writer.writerow(row)


def _open(path: str, dataset: str | None, side: str) -> LabelFile:
    try:
        return open_labels(path, dataset)
    except UserError as error:
        # Readers call it by the key of a configuration; here it is an option.
        raise UserError(str(error).replace("`dataset`", f"--{side}-dataset")) from error


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="python -m lsdflow.metrics",
        description="Score a segmentation against the truth: VOI, Rand and CREMI scores, and run lengths on skeletons.",
        epilog=EXAMPLES,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("truth", metavar="TRUTH", help="file of the true labels")
    parser.add_argument("segmentation", metavar="SEGMENTATION", help="file of the segmentation, of the same shape")
    parser.add_argument("--truth-dataset", metavar="NAME", help="array in TRUTH, where it holds several")
    parser.add_argument("--segmentation-dataset", metavar="NAME", help="array in SEGMENTATION, where it holds several")
    parser.add_argument(
        "--roi",
        metavar="Z0:Z1,Y0:Y1,X0:X1",
        type=_roi,
        help="compare this part only, in voxels of the truth; a segmentation of a part is placed by its offset, if "
        "both files tell one",
    )
    parser.add_argument("--ignore-zero", action="store_true", help="ignore voxels of segment 0")
    parser.add_argument(
        "--border-tolerance",
        metavar="NM",
        type=_length,
        default=0.0,
        help="ignore voxels that lie within NM of a border of the truth in their section, as CREMI does",
    )
    parser.add_argument(
        "--voxel-size",
        metavar=("Z", "Y", "X"),
        nargs=3,
        type=_length,
        help="in nm; only where the files do not tell it, or tell it wrong",
    )
    skeletons = parser.add_mutually_exclusive_group()
    skeletons.add_argument(
        "--skeletons",
        metavar="FILE",
        help="score the expected run length on these skeletons, in nm: .swc (or a folder of them), .nml, nodes.csv "
        "beside edges.csv, or .npz of this workflow",
    )
    skeletons.add_argument(
        "--make-skeletons",
        action="store_true",
        help="score the expected run length on skeletons made of the truth (500 nm and longer)",
    )
    parser.add_argument("--csv", metavar="FILE", help="write the scores as a table of one row")
    parser.add_argument("--json", metavar="FILE", help="write the scores as JSON")
    return parser


def _roi(text: str) -> Roi:
    match = re.fullmatch(r"(\d+):(\d+),(\d+):(\d+),(\d+):(\d+)", text.replace(" ", ""))
    if not match:
        raise argparse.ArgumentTypeError(f"must be Z0:Z1,Y0:Y1,X0:X1 in voxels, not {text}")
    numbers = tuple(map(int, match.groups()))
    return Roi(numbers[::2], numbers[1::2])


def _length(text: str) -> float:
    try:
        length = float(text)
    except ValueError:
        length = 0.0
    if not 0 < length < float("inf"):
        raise argparse.ArgumentTypeError(f"must be a length in nm above 0, not {text}")
    return length


if __name__ == "__main__":
    sys.exit(main())
