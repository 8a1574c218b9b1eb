"""One run's radio in numbers for figures: the map, SINR and rates, blocks by cell, what other users pay."""

from __future__ import annotations

import math
from typing import Any

import numpy as np

from fedwave.results.report.compare import evenly
from fedwave.results.report.parts import network_layout
from fedwave.results.report.runs import RunLog

_MOST_PLACES = 3000
_MOST_STEPS = 200  # of a curve of a distribution
_DELIVERED = 0
_NO_CELL = -1
PERCENTILES = (5, 50, 95)
QUANTITIES = ("sinr_db", "up_bps")  # of the uplink: SINR, and goodput alone on the whole carrier


def layout(run: RunLog, radius_m: float | None = None) -> dict[str, Any]:
    """The sites ``[[x, y], ...]`` and the borders of their cells, as lines ``x``, ``y`` broken by ``None``.

    A site's area is the hexagon with corners at 30 degrees + k 60 degrees, inter-site distance / sqrt(3) away; sectors
    part it along the bisectors of their boresights. A single site serves a disc (of ``radius_m``) and has no hexagon.
    Networks without a layout have one site, at the origin.
    """
    found = network_layout(run.job)
    if found is None:
        return {"sites": [[0.0, 0.0]], "sectors": 1, "x": [], "y": []}
    sites, looks = np.asarray(found.site_m, dtype=float), np.asarray(found.boresight_deg, dtype=float)
    single = len(sites) == 1
    radius = radius_m if single and radius_m else float(found.cell_radius_m)
    lines = [] if single else [site + _around(30.0 + 60.0 * np.arange(7), radius) for site in sites]
    if len(looks) > 1:
        edges = _around(looks + 180.0 / len(looks), radius)
        lines += [np.stack([site, site + edge]) for site in sites for edge in edges]
    return {"sites": np.round(sites, 1).tolist(), "sectors": len(looks), "x": _broken(lines, 0), "y": _broken(lines, 1)}


def _around(degrees: np.ndarray, radius: float) -> np.ndarray:
    angle = np.radians(degrees)
    return radius * np.stack([np.cos(angle), np.sin(angle)], axis=1)


def _broken(lines: list[np.ndarray], axis: int) -> list[float | None]:
    return [value for line in lines for value in [*np.round(line[:, axis], 1).tolist(), None]]


def cell(run: RunLog) -> dict[str, Any]:
    """Each client that took part: place and serving cell at last, mean uplink SINR, how often called and lost.

    3000 clients at most, evenly by id. In a cluster that repeats, a client is drawn in the hexagon of its nearest site.
    """
    rows = run.clients.rows
    ids, place, called = np.unique(rows["id"], return_inverse=True, return_counts=True)
    if not len(ids) or not (rows["x_m"].any() or rows["y_m"].any()):
        return {"id": []}  # the network has no places
    last = np.zeros(len(ids), dtype=int)
    np.maximum.at(last, place, np.arange(len(rows)))
    known = np.isfinite(rows["sinr_db"])
    heard = np.bincount(place, weights=known)
    sinr = np.bincount(place, weights=np.where(known, rows["sinr_db"], 0.0)) / np.where(heard > 0.0, heard, np.nan)
    missed = np.bincount(place, weights=rows["status"] != _DELIVERED)
    kept = evenly(len(ids), _MOST_PLACES)
    x_m, y_m = np.round(_drawn(run, rows[last][kept]), 1).T
    return {
        "id": ids[kept].tolist(),
        "x": x_m.tolist(),
        "y": y_m.tolist(),
        "device": rows["device"][last][kept].tolist(),
        "cell": rows["cell"][last][kept].tolist(),
        "sinr": np.round(sinr[kept], 1).tolist() if known.any() else [],
        "called": called[kept].tolist(),
        "lost": missed[kept].astype(int).tolist(),
        "left_out": len(ids) - len(kept),
    }


def _drawn(run: RunLog, rows: np.ndarray) -> np.ndarray:
    """``[C, 2]`` where clients stand on the map, in metres."""
    position = np.stack([rows["x_m"], rows["y_m"]], axis=1).astype(float)
    found = network_layout(run.job)
    if found is None or not found.wrap_around:
        return position
    offset = found.displacement_m(position)  # from the nearest copy of each site
    nearest = np.hypot(offset[..., 0], offset[..., 1]).argmin(axis=1)
    return found.site_m[nearest] + offset[np.arange(len(offset)), nearest]


def signal(run: RunLog) -> dict[str, Any]:
    """Updates by uplink SINR: heard and lost counts in bins of 3 dB."""
    rows = run.clients.rows
    rows = rows[np.isfinite(rows["sinr_db"])]
    if not len(rows):
        return {"edges": []}
    low, high = np.floor(rows["sinr_db"].min() / 3.0), np.floor(rows["sinr_db"].max() / 3.0) + 1.0
    edges = 3.0 * np.arange(low, high + 1.0)
    heard = rows["status"] == _DELIVERED
    return {
        "edges": edges.tolist(),
        "heard": np.histogram(rows["sinr_db"][heard], edges)[0].tolist(),
        "lost": np.histogram(rows["sinr_db"][~heard], edges)[0].tolist(),
    }


def distributions(run: RunLog) -> dict[str, list[dict[str, Any]]]:
    """The empirical distributions of :data:`QUANTITIES` over turns (clients and rounds): of all, then by device class.

    ``F(x_(i)) = i / n``, at 200 ranks at most; ``marks`` are the 5th, 50th and 95th percentile, the smallest values
    with ``F`` at least that; ``none`` is the share of turns without a link, whose rate is 0. What was not measured
    (NaN) is left out. A class appears where it is not the only one.
    """
    rows = run.clients.rows
    met = np.unique(rows["device"]).tolist()
    chosen = [("all devices", np.ones(len(rows), dtype=bool))]
    if len(met) > 1:
        chosen += [(run.clients.devices[device], rows["device"] == device) for device in met]
    return {
        name: [{"name": label, **curve} for label, own in chosen if (curve := _distribution(rows[name][own]))]
        for name in QUANTITIES
    }


def _distribution(values: np.ndarray) -> dict[str, Any]:
    values = np.sort(values[np.isfinite(values)].astype(float))
    count = len(values)
    if not count:
        return {}
    ranks = np.array(evenly(count, _MOST_STEPS))
    marks = [values[max(math.ceil(count * percent / 100.0), 1) - 1] for percent in PERCENTILES]
    return {
        "x": values[ranks].tolist(),
        "share": ((ranks + 1) / count).tolist(),
        "marks": [float(f"{value:.5g}") for value in marks],  # as the page embeds them, so that tables agree
        "none": float(np.mean(values == 0.0)),
        "turns": count,
    }


def percentiles(run: RunLog) -> list[dict[str, Any]]:
    """A row per device class, all of them first: turns, percentiles of :data:`QUANTITIES`, turns without a link."""
    rows: dict[str, dict[str, Any]] = {}
    for quantity, curves in distributions(run).items():
        for curve in curves:
            row = rows.setdefault(curve["name"], {"name": curve["name"], **dict.fromkeys(QUANTITIES), "none": None})
            row["turns"] = max(row.get("turns", 0), curve["turns"])
            row[quantity] = curve["marks"]
            if quantity == "up_bps":
                row["none"] = curve["none"]
    return list(rows.values())


def blocks(run: RunLog) -> dict[str, list[Any]]:
    """By serving cell: uplink resource blocks x seconds, turns, mean SINR; empty with fewer than two cells."""
    rows = run.clients.rows
    rows = rows[rows["cell"] > _NO_CELL]
    cells, place = np.unique(rows["cell"], return_inverse=True)
    if len(cells) < 2:
        return {"cell": []}
    known = np.isfinite(rows["sinr_db"])
    heard = np.bincount(place, weights=known)
    total_db = np.bincount(place, weights=np.where(known, rows["sinr_db"], 0.0))
    return {
        "cell": cells.tolist(),
        "block_s": np.bincount(place, weights=np.nan_to_num(rows["block_s"], posinf=0.0)).tolist(),
        "turns": np.bincount(place).tolist(),
        "sinr": (total_db / np.where(heard > 0.0, heard, np.nan)).tolist(),
    }


_MEANS = (
    "load", "carried", "delay_alone_s", "delay_s", "late_alone", "late", "late_target", "throughput_alone_bps",
    "throughput_bps",
)  # fmt: skip


def qos(run: RunLog) -> list[dict[str, Any]]:
    """What federated learning costs the other users: a row per direction and flow, means over the rounds that have it.

    ``delay_alone_s`` and ``delay_s`` are means over the rounds without overload (``None``: there are none),
    ``overload`` the share of rounds with; ``ok_alone`` and ``ok`` the shares of rounds in which the target is met.
    """
    found: dict[tuple[str, int, int], list[dict[str, Any]]] = {}
    for record in run.records:
        met: dict[tuple[str, int], int] = {}
        for flow in record.get("qos") or ():
            key = str(flow.get("direction", "")), int(flow["five_qi"])
            met[key] = met.get(key, 0) + 1
            found.setdefault((*key, met[key]), []).append(flow)
    return [_flow(direction, five_qi, flows) for (direction, five_qi, _), flows in found.items()]


def _flow(direction: str, five_qi: int, flows: list[dict[str, Any]]) -> dict[str, Any]:
    def mean(name: str) -> float | None:
        values = [float(flow[name]) for flow in flows if flow.get(name) is not None]
        values = [value for value in values if math.isfinite(value)]
        return sum(values) / len(values) if values else None

    return {
        "direction": direction,
        "five_qi": five_qi,
        "resource": flows[0].get("resource", ""),
        "rounds": len(flows),
        "overload": sum(flow.get("delay_s") is None for flow in flows) / len(flows),
        **{name: mean(name) for name in (*_MEANS, "ok_alone", "ok")},
    }
