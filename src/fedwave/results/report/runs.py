"""Run folders as a report reads them, and what a run came to."""

from __future__ import annotations

import json
import tomllib
from collections import Counter
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from fedwave.core.errors import BadInput
from fedwave.results import client_log
from fedwave.results.client_log import ClientTable
from fedwave.results.files import disk
from fedwave.results.run_folder import RunFolder

PATH_PARTS = ("downlink", "compute", "uplink", "server")
ENERGY_PARTS = ("compute", "radio", "server")
BASE_FIELDS = ("bits", "seconds", "bits_on_air", "cells", "unreached_share", "joules_mean")  # NaN where not stated


@dataclass(frozen=True)
class RunLog:
    """One run, read: the job as a table and as text, the lines of its log, its clients, the metrics at the start.

    ``base`` is the one-time delivery of the base model, empty where the run has none.
    """

    folder: Path
    job: dict[str, Any]
    toml: str
    environment: dict[str, Any]
    records: list[dict[str, Any]]
    clients: ClientTable
    initial: dict[str, float]
    base: dict[str, float] = field(default_factory=dict)

    @property
    def seed(self) -> int:
        """The job's seed."""
        return int(self.job.get("seed", 0))

    @property
    def finished(self) -> bool:
        """All rounds of the job are in the log."""
        return len(self.records) >= int(self.job.get("rounds", 0))

    @property
    def metrics(self) -> list[str]:
        """Held-out metrics that some round has."""
        found = {name: None for record in self.records for name in record.get("eval") or {}}
        return list(found)

    def column(self, name: str, missing: float = 0.0) -> np.ndarray:
        """``[rounds]`` one field of the lines; ``missing`` where a line lacks it."""
        values = [record.get(name) for record in self.records]
        return np.array([missing if value is None else value for value in values], dtype=float)


def load(folder: str | Path) -> RunLog:
    """Read a run folder, of a finished run or one that was interrupted.

    Raises
    ------
    BadInput : it is not a run folder, a file of it is damaged, or no round is in its log yet.
    """
    files = RunFolder(folder).open()
    records = files.records() if files.rounds.exists() else []
    if not records:
        raise BadInput(f"{folder} has no round in its rounds.jsonl yet: there is nothing to report")
    text = files.experiment.read_text(encoding="utf-8")
    try:
        job = tomllib.loads(text)
    except tomllib.TOMLDecodeError as error:
        raise BadInput(f"{files.experiment} is damaged: it is not TOML ({error})") from None
    clients = client_log.read(folder)
    known = np.isin(
        clients.rows["round"], [record["round"] for record in records]
    )  # a round in progress has no line yet
    return RunLog(
        folder=Path(folder),
        job=job,
        toml=text,
        environment=json.loads(files.environment.read_text(encoding="utf-8")),
        records=records,
        clients=ClientTable(clients.rows[known], clients.devices, clients.statuses),
        initial=_initial(files),
        base=_base(files.path / "base_delivery.json"),
    )


def _base(path: Path) -> dict[str, float]:
    """What the file says of the base model's delivery; empty where there is none."""
    if not path.exists():
        return {}
    with disk(path):
        text = path.read_text(encoding="utf-8")
    try:
        found = json.loads(text)
        return {name: np.nan if found.get(name) is None else float(found[name]) for name in BASE_FIELDS}
    except (ValueError, TypeError, AttributeError) as error:
        raise BadInput(f"{path} is damaged: it is not a table of numbers ({error})") from None


def _initial(files: RunFolder) -> dict[str, float]:
    """The held-out metrics before the first round, which each checkpoint carries; empty where none can be read."""
    for number in reversed(files.kept()):
        note = files.checkpoints / f"round_{number:06d}" / "meta.json"
        try:
            found = json.loads(note.read_text(encoding="utf-8"))["meta"]["initial"]
            return {name: float(value) for name, value in found.items() if value is not None}
        except (OSError, ValueError, KeyError, TypeError, AttributeError):
            continue
    return {}


def lost(run: RunLog) -> Counter[str]:
    """Updates that did not count, by reason, most frequent first."""
    reasons: Counter[str] = Counter()
    for record in run.records:
        reasons.update(losses(record))
    return Counter(dict(reasons.most_common()))


def losses(record: dict[str, Any]) -> dict[str, int]:
    """One round's lost updates by reason; older lines have no ``lost``, and their ``status`` serves."""
    if "lost" in record:
        return {name: len(ids) for name, ids in record["lost"].items()}
    return {name: count for name, count in record.get("status", {}).items() if name != "delivered"}


def totals(run: RunLog) -> dict[str, Any]:
    """What a run came to, in plain numbers."""
    final = next((record["eval"] for record in reversed(run.records) if record.get("eval")), {})
    return {
        "run": str(run.folder),
        "finished": run.finished,
        "rounds": len(run.records),
        "initial": run.initial,
        "final": {name: value for name, value in final.items() if value is not None},
        "sim_time_s": float(run.records[-1].get("sim_time_s") or 0.0),
        "uplink_bits": float(run.column("uplink_bits").sum()),
        "downlink_bits": float(run.column("downlink_bits").sum()),
        "uplink_symbols": float(run.column("uplink_symbols").sum()),
        "energy_j": float(run.column("energy_j").sum()),
        "energy_gnb_j": float(run.column("energy_gnb_j").sum()),
        "handovers": int(run.column("handovers").sum()),
        "clients": int(run.column("clients").sum()),
        "delivered": int(run.column("delivered").sum()),
        "lost": dict(lost(run)),
        "wall_s": float(run.column("wall_s").sum()),
    }
