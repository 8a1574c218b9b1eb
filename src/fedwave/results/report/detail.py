"""One run in numbers for figures: rounds, the timeline of a round, device classes; reduced where large."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np

from fedwave.results.report import causes
from fedwave.results.report.compare import evenly
from fedwave.results.report.runs import ENERGY_PARTS, PATH_PARTS, RunLog, losses, lost

_MOST_BINS = 200  # bars of the figures by round
_MOST_ROWS = 30_000  # clients of all timelines of a page together
_MOST_PER_ROUND = 100
_DELIVERED = 0


def by_round(run: RunLog) -> dict[str, Any]:
    """Sums, or means, over bins of consecutive rounds; each bin is one round up to 200 rounds.

    ``round`` and ``last`` bound a bin. Seconds of the critical path are means; energy, bytes and losses are sums.
    ``gnb`` is the base stations' energy, apart from ``energy``; ``prb`` the mean share of uplink blocks used (NaN where
    no round of a bin has one; empty where none has), ``symbols`` the analog symbols of sums in the air (empty where
    there are none). ``lost`` is by cause where there is a log of clients, else by reason.
    """
    count = len(run.records)
    width = -(-count // _MOST_BINS)
    starts = np.arange(0, count, width)
    sizes = np.diff(starts, append=count)
    numbers = run.column("round")

    def total(values: np.ndarray) -> np.ndarray:
        return np.add.reduceat(values, starts)

    first, used = numbers[starts].astype(int).tolist(), run.column("prb_use", np.nan)
    known, symbols = total(np.isfinite(used).astype(float)), run.column("uplink_symbols")
    return {
        "width": int(width),
        "round": first,
        "last": numbers[starts + sizes - 1].astype(int).tolist(),
        "time": run.column("sim_time_s")[starts + sizes - 1].tolist(),
        "path": {part: (total(run.column(f"{part}_s")) / sizes).tolist() for part in PATH_PARTS},
        "energy": {part: np.cumsum(total(run.column(f"energy_{part}_j"))).tolist() for part in ENERGY_PARTS},
        "up": np.cumsum(total(run.column("uplink_bits") / 8.0)).tolist(),
        "down": np.cumsum(total(run.column("downlink_bits") / 8.0)).tolist(),
        "clients": total(run.column("clients")).tolist(),
        "delivered": total(run.column("delivered")).tolist(),
        "gnb": np.cumsum(total(run.column("energy_gnb_j"))).tolist(),
        "prb": (total(np.nan_to_num(used)) / np.where(known > 0.0, known, np.nan)).tolist() if known.any() else [],
        "symbols": total(symbols).tolist() if symbols.any() else [],
        "lost": _lost(run, first, total),
    }


def _lost(run: RunLog, first: list[int], total: Callable[[np.ndarray], np.ndarray]) -> Mapping[str, Sequence[float]]:
    """Lost updates by bin of rounds."""
    if len(run.clients.rows) and len(run.clients.rows) == run.column("clients").sum():
        return causes.by_bin(run, first)
    missing = [losses(record) for record in run.records]
    return {name: total(np.array([float(m.get(name, 0)) for m in missing])).tolist() for name in lost(run)}


def timelines(run: RunLog, share: float = 1.0) -> dict[str, Any]:
    """The clients of each round in time, column by column, round after round, the slowest client first.

    All rounds and clients where they fit (30,000 rows for the whole page, of which this run may use ``share``); else
    at most 100 clients a round (half of them the slowest, the rest an even sample in order of finishing) of rounds that
    are evenly spaced. ``starts`` are the rounds' first rows, ``bound`` the row that ended the round (-1: the deadline
    did, or nobody took part).
    """
    rows, records = run.clients.rows, {record["round"]: record for record in run.records}
    numbers, first = np.unique(rows["round"], return_index=True)
    if not len(numbers):
        return {"round": []}
    groups = np.split(rows, first[1:])
    per_round = min(max(len(g) for g in groups), _MOST_PER_ROUND)
    kept = evenly(len(groups), max(int(_MOST_ROWS * share) // per_round, 1))
    picked, bound = [], []
    for index in kept:
        ordered = groups[index][_slowest_first(groups[index])]
        binder = _bound(ordered, records[numbers[index]])
        places = _sample(len(ordered), binder)
        picked.append(ordered[places])
        bound.append(places.index(binder) if binder >= 0 else -1)
    table = np.concatenate(picked)
    chosen = [records[numbers[index]] for index in kept]
    return {
        "round": [record["round"] for record in chosen],
        "starts": np.cumsum([0, *map(len, picked)]).tolist(),
        "size": [len(groups[index]) for index in kept],
        "bound": bound,
        "round_s": [record["round_s"] for record in chosen],
        "server_s": [record.get("server_s", 0.0) for record in chosen],
        **{name: table[name].tolist() for name in ("id", "device", "status", "downlink_s", "compute_s", "uplink_s")},
        "sinr_db": np.round(table["sinr_db"].astype(float), 1).tolist(),
        "rounds_left_out": len(groups) - len(kept),
    }


def _path_s(rows: np.ndarray) -> np.ndarray:
    """When each client's own part ended."""
    return np.nansum([rows["downlink_s"], rows["compute_s"], rows["uplink_s"]], axis=0)


def _slowest_first(rows: np.ndarray) -> np.ndarray:
    """Those that ran out of time or were lost below those that were heard; within each, the slowest first."""
    return np.lexsort((rows["id"], -_path_s(rows), rows["status"] != _DELIVERED))


def _bound(rows: np.ndarray, record: dict[str, Any]) -> int:
    """The place of the client whose end was the round's; -1 where the deadline was, or nobody took part."""
    if "deadline" in losses(record) or not len(rows):
        return -1
    left_s = np.abs(_path_s(rows) - (record["round_s"] - record.get("server_s", 0.0)))
    nearest = int(left_s.argmin())
    return nearest if record["round_s"] > 0 and left_s[nearest] <= 1e-3 * record["round_s"] else -1


def _sample(count: int, binder: int) -> list[int]:
    """The places to show of ``count``: the first half of the allowance, an even sample of the rest, and the binder."""
    if count <= _MOST_PER_ROUND:
        return list(range(count))
    half = _MOST_PER_ROUND // 2
    rest = {half + place for place in evenly(count - half, half)}
    return [*range(half), *sorted(rest | ({binder} if binder >= half else set()))]


def devices(run: RunLog) -> list[dict[str, Any]]:
    """A row per device class that was met: medians of its parts of a round, joules a round, what was lost."""
    rows, table = run.clients.rows, []
    for index, name in enumerate(run.clients.devices):
        own = rows[rows["device"] == index]
        if not len(own):
            continue
        seconds = {part: own[f"{part}_s"][np.isfinite(own[f"{part}_s"])] for part in ("downlink", "compute", "uplink")}
        table.append(
            {
                "name": name,
                "clients": len(np.unique(own["id"])),
                "turns": len(own),
                "lost": float(np.mean(own["status"] != _DELIVERED)),
                "compute_j": float(own["compute_j"].mean()),
                "radio_j": float(own["radio_j"].mean()),
                **{f"{part}_s": float(np.median(s)) if len(s) else None for part, s in seconds.items()},
            }
        )
    return table
