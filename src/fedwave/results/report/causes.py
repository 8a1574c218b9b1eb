"""Why updates did not count: the reason of the log, and for those that were late what took longest."""

from __future__ import annotations

from typing import Any

import numpy as np

from fedwave.core.types import Ints
from fedwave.results.client_log import LOG_STATUSES
from fedwave.results.report.runs import RunLog

DEADLINE = "deadline"
LATE = ("deadline_access", "deadline_compute", "deadline_rate")
_DELIVERED = 0


def causes(rows: np.ndarray, statuses: tuple[str, ...] = LOG_STATUSES) -> tuple[Ints, tuple[str, ...]]:
    """``[C]`` what became of each turn, as places in the names that follow: ``statuses``, then :data:`LATE`.

    A turn has its status; "deadline" by the largest of three parts of the client's time:

    - ``deadline_access``: connecting, ``access_s``;
    - ``deadline_compute``: ``compute_s``;
    - ``deadline_rate``: on the air or waiting for resource blocks, ``downlink_s + uplink_s - access_s``.

    Parts that are not known (NaN) count as 0; of equal parts the first in this order is the cause. A turn without any
    stays "deadline".

    Parameters
    ----------
    rows : ``[C]`` records of :data:`fedwave.results.client_log.CLIENT`.
    statuses : the names behind their ``status``, the first being "delivered".
    """
    names, found = (*statuses, *LATE), rows["status"].astype(np.int64)
    late = np.flatnonzero(found == statuses.index(DEADLINE)) if DEADLINE in statuses else np.empty(0, dtype=np.int64)
    access, compute, down, up = (
        np.nan_to_num(rows[name][late].astype(float), nan=0.0, posinf=np.finfo(float).max / 4)
        for name in ("access_s", "compute_s", "downlink_s", "uplink_s")
    )
    parts = np.stack([access, compute, np.maximum(down + up - access, 0.0)])
    known = parts.max(axis=0) > 0.0
    found[late[known]] = len(statuses) + parts.argmax(axis=0)[known]
    return found, names


def _lost(run: RunLog) -> tuple[Ints, list[tuple[int, str]]]:
    """Causes of all turns, and those that occur, most frequent first."""
    codes, names = causes(run.clients.rows, run.clients.statuses)
    counts = np.bincount(codes, minlength=len(names))
    order = np.argsort(-counts, kind="stable").tolist()
    return codes, [(code, names[code]) for code in order if code != _DELIVERED and counts[code]]


def by_bin(run: RunLog, first: list[int]) -> dict[str, list[int]]:
    """Lost turns by cause, most frequent first, in bins of rounds that begin with those of ``first`` (ascending)."""
    codes, met = _lost(run)
    place = np.searchsorted(first, run.clients.rows["round"], side="right") - 1
    return {name: np.bincount(place[codes == code], minlength=len(first)).tolist() for code, name in met}


def by_device(run: RunLog) -> dict[str, Any]:
    """The table of causes: ``causes`` (columns) and ``rows`` by device class with turns and a count per cause.

    Where there are several classes, the last row is their sum.
    """
    codes, met = _lost(run)
    table = []
    for index, device in enumerate(run.clients.devices):
        own = codes[run.clients.rows["device"] == index]
        if len(own):
            table.append({"name": device, "turns": len(own), "lost": [int(np.sum(own == code)) for code, _ in met]})
    if len(table) > 1:
        sums = [sum(column) for column in zip(*(row["lost"] for row in table), strict=True)]
        table.append({"name": "all devices", "turns": len(codes), "lost": sums})
    return {"causes": [name for _, name in met], "rows": table}
