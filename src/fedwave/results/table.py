"""One row per round, for the terminal."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from fedwave.results.format import MISSING, data, duration, si

COLUMNS = ("round", "simulated\ntime", "held-out\nloss, accuracy", "up", "down", "energy", "updates", "lost to")


def cells(record: Mapping[str, Any]) -> tuple[str, ...]:
    """The texts of one round's row, in the order of :data:`COLUMNS`."""
    lost = {name: count for name, count in record.get("status", {}).items() if name != "delivered" and count}
    return (
        str(record["round"]),
        duration(record["sim_time_s"]),
        metrics(record.get("eval")),
        data(record["uplink_bits"]),
        data(record["downlink_bits"]),
        si(record["energy_j"], "J"),
        f"{record['delivered']}/{record['clients']}",
        ", ".join(f"{name.replace('_', ' ')} {count}" for name, count in lost.items()),
    )


def number(value: float) -> str:
    """Three decimals; powers of ten for what has diverged."""
    return f"{value:.3f}" if abs(value) < 1e4 else f"{value:.2e}"


def metrics(evaluated: Mapping[str, float] | None) -> str:
    """Held-out loss, and accuracy where there is one: ``0.732, 86.6 %``."""
    if not evaluated or "loss" not in evaluated:
        return MISSING
    text = number(evaluated["loss"])
    return f"{text}, {evaluated['accuracy']:.1%}".replace("%", " %") if "accuracy" in evaluated else text
