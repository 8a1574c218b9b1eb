"""One row per round, for the terminal."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import TYPE_CHECKING, Any

from fedwave.results.format import MISSING, data, duration, si

if TYPE_CHECKING:
    from rich.table import Table

COLUMNS = ("round", "simulated\ntime", "held-out\nloss", "up", "down", "energy", "delivered", "lost to")


def rounds_table(records: Iterable[Mapping[str, Any]] = (), *, title: str | None = None) -> Table:
    """A rich table of ``records`` (lines of ``rounds.jsonl``); add a row for each new one with :func:`cells`."""
    from rich import box
    from rich.table import Table

    table = Table(title=title, box=box.SIMPLE_HEAD, header_style="bold", title_justify="left")
    for name in COLUMNS:
        table.add_column(name, justify="left" if name == "lost to" else "right", no_wrap=name != "lost to")
    for record in records:
        table.add_row(*cells(record))
    return table


def cells(record: Mapping[str, Any]) -> tuple[str, ...]:
    """The texts of one round's row, in the order of :data:`COLUMNS`."""
    loss = (record.get("eval") or {}).get("loss")
    lost = {name: count for name, count in record.get("status", {}).items() if name != "delivered" and count}
    return (
        str(record["round"]),
        duration(record["sim_time_s"]),
        MISSING if loss is None else f"{loss:.3f}",
        data(record["uplink_bits"]),
        data(record["downlink_bits"]),
        si(record["energy_j"], "J"),
        f"{record['delivered']}/{record['clients']}",
        ", ".join(f"{name.replace('_', ' ')} {count}" for name, count in lost.items()),
    )
