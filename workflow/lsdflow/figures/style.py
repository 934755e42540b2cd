"""The look of all figures: one colour, marker and label per setup, one text size, files that repeat to the byte.

Figures are made without ``pyplot``: nothing is global, nothing stays open, and no display is needed.
"""

from __future__ import annotations

import os
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import matplotlib
from matplotlib.figure import Figure
from matplotlib.ticker import FuncFormatter

GREY = "#7F7F7F"
LIGHT_GREY = "#C8C8C8"
INK = "#222222"


@dataclass(frozen=True)
class Look:
    """How one setup is drawn: a colour (``#RRGGBB``) and a matplotlib marker."""

    colour: str
    marker: str


# Okabe and Ito's colours (jfly.uni-koeln.de/color), where the hue allows the one of the paper's own plots; wine is
# from Paul Tol's "muted" scheme, since Okabe and Ito's yellow is too faint for lines on white.
KNOWN_LOOKS = {
    "baseline": Look("#0072B2", "o"),
    "long_range": Look("#CC79A7", "v"),
    "malis": Look("#56B4E9", "P"),
    "lsd": Look("#882255", "d"),
    "mtlsd": Look("#D55E00", "s"),
    "aclsd": Look("#009E73", "D"),
    "acrlsd": Look("#E69F00", "^"),
    "raw_watershed": Look(GREY, "h"),
}

# For setups of the user's own; these stay apart from those above for protanopes and deuteranopes, too. The two
# lengths have no common factor, so colour and marker pair up anew 20 times.
FREE_COLOURS = ("#332288", "#8B4513", "#FFAABB", "#003300")
FREE_MARKERS = ("<", ">", "p", "8", "*")

# Segmentations from elsewhere are all black and told apart by their markers.
EXTERNAL_COLOUR = "#000000"
EXTERNAL_MARKERS = ("X", "P", "*", "p", "8")

LABELS = {
    "baseline": "Baseline",
    "long_range": "Long range",
    "malis": "MALIS",
    "lsd": "LSD",
    "mtlsd": "MtLSD",
    "aclsd": "AcLSD",
    "acrlsd": "AcRLSD",
    "raw_watershed": "Watershed on raw",
    "ffn": "FFN",
    "ffn_filled": "FFN, background filled",
}


def label(name: str) -> str:
    """The name that readers see: ``"mtlsd"`` becomes ``"MtLSD"``, an unknown name stays as it is."""
    return LABELS.get(name, name)


class Palette:
    """The colour and marker of every setup of an experiment, the same in all its figures.

    Parameters
    ----------
    names : the experiment's setups, in its order. The paper's setups have fixed looks, whatever else there is;
        the others get the free colours one after the other.
    external : names of segmentations from elsewhere, in order: black, each with its own marker.

    Examples
    --------
    >>> Palette(["baseline", "mine"])["baseline"].colour
    '#0072B2'
    """

    def __init__(self, names: Sequence[str] = (), external: Sequence[str] = ()):
        self.names = tuple(names)
        self._looks = dict(KNOWN_LOOKS)
        own = [name for name in dict.fromkeys(names) if name not in KNOWN_LOOKS]
        for i, name in enumerate(own):
            self._looks[name] = Look(FREE_COLOURS[i % len(FREE_COLOURS)], FREE_MARKERS[i % len(FREE_MARKERS)])
        foreign = [name for name in dict.fromkeys(external) if name not in self._looks]
        for i, name in enumerate(foreign):
            self._looks[name] = Look(EXTERNAL_COLOUR, EXTERNAL_MARKERS[i % len(EXTERNAL_MARKERS)])

    def __getitem__(self, name: str) -> Look:
        """The look of ``name``; a name that the experiment does not have is drawn as an external segmentation."""
        return self._looks.get(name, Look(EXTERNAL_COLOUR, EXTERNAL_MARKERS[0]))

    def colour(self, name: str) -> str:
        """The colour of ``name`` as ``#RRGGBB``."""
        return self[name].colour

    def marker(self, name: str) -> str:
        """The matplotlib marker of ``name``."""
        return self[name].marker

    def sorted(self, names: Sequence[str]) -> list[str]:
        """``names`` without repeats: the experiment's setups first, in its order, then the others as they come."""
        unique = list(dict.fromkeys(names))
        return [n for n in self.names if n in unique] + [n for n in unique if n not in self.names]


_SETTINGS = {
    "font.size": 11,
    "axes.titlesize": 12,
    "axes.labelsize": 11,
    "xtick.labelsize": 10,
    "ytick.labelsize": 10,
    "legend.fontsize": 10,
    "legend.frameon": False,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.edgecolor": INK,
    "axes.axisbelow": True,
    "hatch.linewidth": 0.8,
    "lines.solid_capstyle": "round",
    # Names come from the user's configuration: a dollar sign in one is not a formula.
    "text.parse_math": False,
    "svg.fonttype": "path",
    # Without a salt the ids inside an SVG are random.
    "svg.hashsalt": "lsdflow",
}


@contextmanager
def context() -> Iterator[None]:
    """The settings that every figure is made and saved under; nothing of the caller's is changed for good."""
    with matplotlib.rc_context():
        matplotlib.rcdefaults()
        matplotlib.rcParams.update(_SETTINGS)
        yield


def new_figure(width: float, height: float) -> Figure:
    """An empty figure of ``width`` × ``height`` inches that fits its parts without overlaps."""
    return Figure(figsize=(width, height), layout="constrained", facecolor="white")


def plain_numbers() -> FuncFormatter:
    """Tick labels as plain numbers (0.01, 0.1, 1), for logarithmic axes."""
    return FuncFormatter(lambda value, _: f"{value:g}")


def save(figure: Figure, stem: str | os.PathLike) -> tuple[Path, Path]:
    """Write ``figure`` to ``<stem>.png`` (150 dpi) and ``<stem>.svg``; equal figures give equal bytes.

    Parameters
    ----------
    stem : path without ending; its folder is made when missing.

    Returns
    -------
    tuple of pathlib.Path
        The PNG and the SVG.
    """
    stem = Path(stem)
    stem.parent.mkdir(parents=True, exist_ok=True)
    # Not with_suffix: a stem such as "panel.0.29" has no ending to replace.
    png, svg = (stem.with_name(stem.name + ending) for ending in (".png", ".svg"))
    with context():
        figure.savefig(png, dpi=150, metadata={"Software": None})
        figure.savefig(svg, metadata={"Date": None, "Creator": None})
    return png, svg
