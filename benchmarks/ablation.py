"""Which augmentations, losses and networks matter: what networks scored on the validation region while they learned.

``ablation.py MODELS PAGE`` reads the tables of trainings in ``results/<experiment>/models`` and writes a page.
"""

from __future__ import annotations

import json
import sys
from pathlib import Path

import pandas as pd


def row(folder: Path) -> dict[str, object]:
    """What one training came to."""
    log, validation = (pd.read_csv(folder / name) for name in ("log.csv", "validation.csv"))
    best, last = validation.loc[validation["voi_sum"].idxmin()], validation.iloc[-1]
    return {
        "setup": folder.parent.name,
        "seed": folder.name,
        "loss in training": f"{log['loss'].tail(5).mean():.3f}",
        "loss on validation": f"{last['loss']:.3f}",
        "VOI split": f"{best['voi_split']:.3f}",
        "VOI merge": f"{best['voi_merge']:.3f}",
        "VOI sum": f"{best['voi_sum']:.3f}",
        "at iteration": f"{best['iteration']:.0f} of {last['iteration']:.0f}",
        "seconds": f"{log['seconds'].iloc[-1]:.0f}",
    }


def main(models: Path, page: Path) -> None:
    folders = sorted(path.parent for path in models.glob("*/*/validation.csv"))
    rows = [row(folder) for folder in folders]
    rows.sort(key=lambda r: (r["setup"] != "mtlsd", float(r["VOI sum"])))
    made = json.loads((folders[0] / "provenance" / "train.json").read_text())
    columns = list(rows[0])
    lines = [
        "# What matters",
        "",
        f"Written by `benchmarks/ablation.py` from the trainings of `{models.parent.name}`, on:",
        f"{made['host']['processor']}, {made['host']['cores']} cores, two networks at a time, one thread each.",
        "`mtlsd` is MtLSD as in `fibsem-medulla`, trained for less; each other row changes one thing. VOI in bits, of",
        "the validation region (not of the test region) at the threshold that is best there. The loss is the sum over",
        "both outputs; that of `cross_entropy` is of another kind.",
        "",
        "| " + " | ".join(columns) + " |",
        "|---|---:" + "|---:" * (len(columns) - 2) + "|",
        *("| " + " | ".join(str(value) for value in r.values()) + " |" for r in rows),
        "",
    ]
    page.parent.mkdir(parents=True, exist_ok=True)
    page.write_text("\n".join(lines))


if __name__ == "__main__":
    main(Path(sys.argv[1]), Path(sys.argv[2]))
