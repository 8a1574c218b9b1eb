"""Figures of runs; matplotlib is loaded when the first one is drawn, without a display."""

from __future__ import annotations

import itertools
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from fedwave.core.errors import BadInput
from fedwave.results.files import disk

if TYPE_CHECKING:
    from matplotlib.axes import Axes

Records = Sequence[Mapping[str, Any]]
Curve = tuple[np.ndarray, np.ndarray, np.ndarray]

# Okabe & Ito's palette, told apart with any colour vision.
_COLOURS = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9", "#000000")
_STYLE: dict[Any, Any] = {
    "font.size": 10,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.edgecolor": "#666666",
    "axes.labelcolor": "#222222",
    "xtick.color": "#444444",
    "ytick.color": "#444444",
    "axes.grid": True,
    "grid.color": "#e6e6e6",
    "grid.linewidth": 0.8,
    "legend.frameon": False,
}


def loss_curve(
    runs: Mapping[str, Sequence[Records]],
    path: str | Path,
    *,
    metric: str = "loss",
    label: str = "held-out loss",
    references: Mapping[str, float] | None = None,
    title: str | None = None,
) -> Path:
    """Draw ``metric`` against simulated time and against uplink megabytes of the whole cohort, side by side.

    Parameters
    ----------
    runs : for each legend entry the runs of its seeds, each the records of ``rounds.jsonl``. Several seeds are thin
        lines, with their pointwise median as a bold one.
    path : the PNG (or any format that matplotlib knows by its suffix).
    metric : the key of a record's ``eval``.
    label : the text of the vertical axis, with its unit.
    references : horizontal dashed lines.

    Raises
    ------
    BadInput : no run has an evaluated round, or the file cannot be written.
    """
    import matplotlib
    from matplotlib.figure import Figure

    curves = {name: [_curve(records, metric) for records in seeds] for name, seeds in runs.items()}
    if not any(len(values) for seeds in curves.values() for _, _, values in seeds):
        raise BadInput(f"no run to draw has an evaluated round with {metric!r}")
    with matplotlib.rc_context(_STYLE):
        figure = Figure(figsize=(9.0, 3.8), dpi=150, layout="constrained")
        left, right = figure.subplots(1, 2, sharey=True)
        seconds, unit = _time_unit(max(s[-1] for seeds in curves.values() for s, _, _ in seeds if len(s)))
        for colour, (name, seeds) in zip(itertools.cycle(_COLOURS), curves.items(), strict=False):
            _draw(left, [(s / seconds, v) for s, _, v in seeds], name, colour)
            _draw(right, [(m, v) for _, m, v in seeds], name, colour)
        for axes, text in ((left, f"simulated time ({unit})"), (right, "uplink, whole cohort (MB)")):
            axes.set_xlabel(text)
            axes.set_xlim(left=0)
            _references(axes, references or {})
        left.set_ylabel(label)
        if len(curves) > 1 or references:
            right.legend(loc="best", fontsize=9)
        if title:
            figure.suptitle(title, x=0.01, ha="left", fontsize=11, fontweight="bold")
        with disk(Path(path)):
            figure.savefig(path)
    return Path(path)


def _curve(records: Records, metric: str) -> Curve:
    """Simulated seconds, uplink megabytes so far and the metric, at each evaluated round."""
    megabytes = np.cumsum([record["uplink_bits"] for record in records]) / 8e6
    points = [
        (record["sim_time_s"], sent, record["eval"][metric])
        for record, sent in zip(records, megabytes, strict=True)
        if (record.get("eval") or {}).get(metric) is not None
    ]
    seconds, sent, values = np.array(points, dtype=float).reshape(-1, 3).T
    return seconds, sent, values


def _time_unit(longest_s: float) -> tuple[float, str]:
    for size, name in ((86400.0, "days"), (3600.0, "h"), (60.0, "min")):
        if longest_s >= 3 * size:
            return size, name
    return 1.0, "s"


def _draw(axes: Axes, seeds: Sequence[tuple[np.ndarray, np.ndarray]], name: str, colour: str) -> None:
    if len(seeds) > 1:
        for x, y in seeds:
            axes.plot(x, y, color=colour, linewidth=0.8, alpha=0.45)
    shortest = min(len(x) for x, _ in seeds)
    x, y = (np.median([seed[axis][:shortest] for seed in seeds], axis=0) for axis in (0, 1))
    text = name if len(seeds) == 1 else f"{name} (median of {len(seeds)} seeds)"
    axes.plot(x, y, color=colour, linewidth=2.0, marker="o", markersize=3.5, label=text)


def _references(axes: Axes, references: Mapping[str, float]) -> None:
    for style, (name, value) in zip(itertools.cycle(("--", ":", "-.")), references.items(), strict=False):
        axes.axhline(value, color="#777777", linewidth=1.2, linestyle=style, label=name, zorder=1)
