"""The zebrafinch figures of the LSD paper, redrawn from its reported numbers, with rows of one's own beside them.

``python -m lsdflow.figures.paper OUTDIR [--rows FILE ...]``

Sheridan et al. 2023, "Local shape descriptors for neuron segmentation", Nature Methods; ``resources/README.md`` says
where the files below ``resources/paper`` come from.
"""

from __future__ import annotations

import argparse
import os
import sys
from collections.abc import Sequence
from pathlib import Path

import pandas as pd

from lsdflow.errors import UserError
from lsdflow.figures import style
from lsdflow.figures.compute import quality_against_compute
from lsdflow.figures.scores import format_number
from lsdflow.figures.sizes import METRICS, grouped, series, size_curves
from lsdflow.figures.style import Palette

RESOURCES = Path(__file__).resolve().parents[3] / "resources" / "paper"
REPORTED = RESOURCES / "zebrafinch_reported.csv"
INFERENCE = RESOURCES / "zebrafinch_inference.csv"

# The names of the reported table, and this project's. Long range is the segmentation that the paper's plots show.
METHODS = {
    "vanilla": "baseline",
    "longrangepadding": "long_range",
    "malis": "malis",
    "mtlsd": "mtlsd",
    "aclsd": "aclsd",
    "acrlsd": "acrlsd",
    "ffn": "ffn",
}
VOXELS_PER_UM3 = 1e9 / (20 * 9 * 9)
BENCHMARK_SHAPE = (5300, 9300, 9700)  # voxels z y x; 106.0 × 83.7 × 87.3 µm
# The largest ROI that was reported for all methods: MALIS lacks the benchmark.
SHARED_ROI = "76_micron_roi"

FIGURES = {
    "zebrafinch_voi": {"metrics": ("voi_sum", "voi_split", "voi_merge")},
    "zebrafinch_erl": {"metrics": ("expected_run_length", "normalized_run_length")},
    "zebrafinch_mincut": {"metrics": ("min_cut_splits", "min_cut_merges")},
    "zebrafinch_tflop": {"metrics": ("voi_sum",), "against": "tera_flop"},
}


def paper_table(csv_path: str | os.PathLike, *, masked: bool = True) -> pd.DataFrame:
    """The reported numbers of the zebrafinch in the form that `sizes.size_curves` takes.

    All are at the threshold of the best VOI sum on the 12 validation skeletons, measured on the 50 test skeletons. The
    reported table holds them in two folders: ``all_rois``, which is read, and ``mcm_rois``, which repeats the three
    smallest ROIs, but for long range: there it has a segmentation without padding, left out of the paper's plots.

    Parameters
    ----------
    csv_path : ``zebrafinch_reported.csv``.
    masked : skeletons cut to the neuropil, as in the paper's plots, or whole. Min-cut counts exist for the former.

    Returns
    -------
    pandas.DataFrame
        A line per method and ROI, by method and size: ``row`` (this project's name of the method), ``replicate``
        (always 0), ``roi``, ``volume_um3``, the columns of `sizes.METRICS`, ``tera_flop`` (for the whole ROI) and
        ``flop_per_voxel``. ``roi`` is the reported run type: ``11_micron_roi`` … ``76_micron_roi`` are nested cubes
        with an edge of about that many µm (10.8, 18.0, 25.2, … 75.6); ``benchmark_roi`` is 106.0 × 83.7 × 87.3 µm.
    """
    reported = pd.read_csv(csv_path)
    is_shown = reported["file"].str.startswith("all_rois/") & (reported["has_mask"] == int(masked))
    names = {
        "run_type": "roi",
        "volume_size": "volume_um3",
        "total_splits_needed_to_fix_merges": "min_cut_splits",
        "total_merges_needed_to_fix_splits": "min_cut_merges",
        "normalized_erl": "normalized_run_length",
        "tera_FLOPs": "tera_flop",
    }
    table = reported[is_shown].rename(columns=names)
    voxels = table["volume_um3"] * VOXELS_PER_UM3
    table = table.assign(
        row=table["method"].map(METHODS), replicate=0, flop_per_voxel=table["tera_flop"] * 1e12 / voxels
    )
    columns = ["row", "replicate", "roi", "volume_um3", *METRICS, "tera_flop", "flop_per_voxel"]
    order = {name: i for i, name in enumerate(METHODS.values())}
    table = table[columns].sort_values(["row", "volume_um3"], key=lambda c: c.map(order) if c.name == "row" else c)
    return table.reset_index(drop=True)


def inference_table(csv_path: str | os.PathLike) -> pd.DataFrame:
    """Reported speed of prediction on the benchmark ROI: ``row``, ``device``, ``mvx_per_s`` (of one GPU).

    For auto-context it is the second network alone or both of them; the paper's table does not say.
    """
    table = pd.read_csv(csv_path)
    voxels = BENCHMARK_SHAPE[0] * BENCHMARK_SHAPE[1] * BENCHMARK_SHAPE[2]
    table["mvx_per_s"] = voxels / (table["gpus"] * table["seconds"]) / 1e6
    return table.rename(columns={"gpu": "device"})[["row", "device", "mvx_per_s"]]


def own_rows(csv_path: str | os.PathLike) -> pd.DataFrame:
    """A table of one's own, as `sizes.size_curves` takes it, marked by ``is_own``.

    Raises
    ------
    UserError
        If the file is not there or is no such table.
    """
    try:
        table = pd.read_csv(csv_path)
    except (OSError, ValueError) as error:
        raise UserError(f"cannot read the rows of {csv_path}: {error}") from None
    missing = [c for c in ("row", "volume_um3") if c not in table]
    if missing:
        raise UserError(
            f"{csv_path} lacks {' and '.join(missing)}: each line needs the name of a row and the ROI's size"
        )
    known = [c for c in (*METRICS, "volume_um3", "tera_flop", "flop_per_voxel", "mvx_per_s") if c in table]
    if not set(known) & set(METRICS):
        raise UserError(f"{csv_path} has no score: name at least one column {', '.join(METRICS)}")
    for column in known:
        try:
            table[column] = pd.to_numeric(table[column])
        except ValueError as error:
            raise UserError(f"{csv_path}: the column {column} must hold numbers: {error}") from None
    if not (table["volume_um3"] > 0).all():
        raise UserError(f"{csv_path}: volume_um3 must be positive in every line")
    return table.assign(row=table["row"].astype(str), is_own=True)


def compute_table(table: pd.DataFrame, inference: pd.DataFrame) -> pd.DataFrame:
    """What `compute.quality_against_compute` draws: the paper's methods on one ROI, own rows on their largest.

    Parameters
    ----------
    table : `paper_table` and any `own_rows`, told apart by ``is_own``.
    inference : what `inference_table` gives.
    """
    paper = table[~table["is_own"] & (table["roi"] == SHARED_ROI)]
    paper = paper[["row", "is_own", "replicate", "voi_sum", "flop_per_voxel"]].merge(inference, on="row")
    own = table[table["is_own"]]
    own = own[own["volume_um3"] == own.groupby("row")["volume_um3"].transform("max")]
    return pd.concat([paper, own[[c for c in paper if c in own]]], ignore_index=True)


def markdown(table: pd.DataFrame, costs: pd.DataFrame, palette: Palette) -> str:
    """The numbers behind the figures: Markdown tables with a row per method and a column per ROI, one per metric.

    Parameters
    ----------
    table, costs : what is drawn: the rows by ROI, and what `compute_table` makes of them.
    palette : the order of the rows.
    """
    parts = [
        "# Zebrafinch: the numbers that the LSD paper reports",
        "Sheridan et al. 2023: skeletons cut to the neuropil, thresholds selected on the validation skeletons. "
        "Columns are ROIs by their volume in µm³; the paper's largest is its benchmark ROI. "
        'Rows marked "own" are of another run than the paper\'s: mean ± standard deviation over replicates.',
    ]
    for metric, look in METRICS.items():
        scored = table[table[metric].notna()]
        sizes = sorted(scored["volume_um3"].unique())
        lines = []
        for one in series(scored, palette):
            values = one.rows.groupby("volume_um3")[metric].agg(["mean", "std"]) * look.scale
            texts = [format_number(*values.loc[s], look.decimals) if s in values.index else "–" for s in sizes]
            lines.append([one.label, *texts])
        parts += [f"## {look.label}", _table(["", *map(grouped, sizes)], lines)]
    parts += [
        "## Cost",
        "VOI of the paper's methods on its ROI of 76 µm, the largest that has all of them, and of one's own on their "
        "largest. The paper's operations and speeds are those it reports; its table does not say whether the speed of "
        "auto-context includes the prediction of the LSDs, while its operations do.",
        _cost_table(costs, palette),
    ]
    return "\n\n".join(parts) + "\n"


def _cost_table(costs: pd.DataFrame, palette: Palette) -> str:
    lines = []
    for one in series(costs, palette):
        numbers = [one.rows["voi_sum"], one.rows["flop_per_voxel"] / 1e6, one.rows["mvx_per_s"]]
        texts = [format_number(column.mean(), column.std(ddof=1), 3) for column in numbers]
        lines.append([one.label, *texts, ", ".join(one.rows["device"].dropna().unique()) or "–"])
    return _table(["", "VOI sum (bits)", "MFLOP per voxel", "MVx/s of one device", "Device"], lines)


def _table(heads: Sequence[str], lines: Sequence[Sequence[str]]) -> str:
    rows = [heads, [":---"] + ["---:"] * (len(heads) - 1), *lines]
    return "\n".join("| " + " | ".join(cell.replace("|", "\\|") for cell in row) + " |" for row in rows)


def _check_names(tables: Sequence[pd.DataFrame], paths: Sequence[Path]) -> None:
    """Refuse two files with a row of one name: they would be taken for replicates of one another."""
    seen: dict[str, Path] = {}
    for table, path in zip(tables, paths, strict=True):
        for name in table["row"].unique():
            if name in seen:
                raise UserError(f"{seen[name]} and {path} both have a row {name!r}: rename it in one of them")
            seen[name] = path


def main(arguments: Sequence[str] | None = None) -> None:
    """Draw the figures and write the table into a folder."""
    parser = argparse.ArgumentParser(prog="python -m lsdflow.figures.paper", description=__doc__.split("\n")[0])
    parser.add_argument("outdir", type=Path, help="folder of the figures, made when missing")
    parser.add_argument(
        "--rows",
        type=Path,
        nargs="+",
        action="extend",
        default=[],
        metavar="FILE",
        help="CSV tables of your own: row, volume_um3 and any of " + ", ".join(METRICS),
    )
    options = parser.parse_args(arguments)
    try:
        own = [own_rows(path) for path in options.rows]
        _check_names(own, options.rows)
    except UserError as error:
        sys.exit(f"error: {error}")
    table = pd.concat([paper_table(REPORTED).assign(is_own=False), *own], ignore_index=True)
    networks = [name for name in table["row"] if name != "ffn"]
    palette = Palette(list(dict.fromkeys(networks)), external=["ffn"])
    for name, arguments_of_figure in FIGURES.items():
        style.save(size_curves(table, palette, **arguments_of_figure), options.outdir / name)
    costs = compute_table(table, inference_table(INFERENCE))
    style.save(quality_against_compute(costs, palette), options.outdir / "zebrafinch_compute")
    (options.outdir / "zebrafinch.md").write_text(markdown(table, costs, palette), encoding="utf-8")
    print(f"figures and numbers: {options.outdir}")


if __name__ == "__main__":
    main()
