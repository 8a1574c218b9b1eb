"""Sphinx extension: the pages that are made from the code, and docstrings as Sphinx likes them."""

from __future__ import annotations

import dataclasses
import importlib
import inspect
import pkgutil
import re
from pathlib import Path
from typing import Any

import job_reference
from docstrings import restructured, sections

from fedwave import listing
from fedwave.core.types import STATUSES, RoundRecord
from fedwave.devices import catalogue
from fedwave.results.client_log import CLIENT
from fedwave.wireless.energy import RadioEnergy
from fedwave.wireless.networks.cell import Cell

PACKAGES = {
    "experiment": [
        "fedwave.experiment",
        "fedwave.simulation",
        "fedwave.planner",
        "fedwave.baselines",
        "fedwave.remote",
    ],
    "core": ["fedwave.core"],
    "methods": ["fedwave.methods"],
    "tasks": ["fedwave.tasks"],
    "models": ["fedwave.models"],
    "transforms": ["fedwave.transforms"],
    "wireless": ["fedwave.wireless"],
    "devices": ["fedwave.devices"],
    "engines": ["fedwave.engines"],
    "federation": ["fedwave.federation"],
    "results": ["fedwave.results"],
    "testing": ["fedwave.testing"],
}
_CLIENT = {
    "round": "number of the round",
    "id": "number of the client",
    "device": "index into `devices` of `clients.json`",
    "status": "index into `statuses` of `clients.json`",
    "steps": "local steps asked for",
    "up_bits": "bits sent up, lost ones included",
    "down_bits": "bits received",
    "downlink_s": "time to receive, connecting included; NaN where the client never got that far",
    "compute_s": "time to compute; NaN as above",
    "uplink_s": "time to send, connecting included; NaN as above",
    "finish_s": "when its update was in, from the start of the round; infinite where it was not",
    "radio_j": "energy of its radio",
    "compute_j": "energy of its computing and waiting",
    "sinr_db": "uplink SINR with the whole band granted; NaN without a radio",
    "x_m": "position relative to the site",
    "y_m": "position relative to the site",
    "loss": "mean local training loss; NaN without training",
    "access_s": "part of its times spent connecting; NaN without a radio",
    "up_bps": "uplink rate alone on the whole carrier; NaN without a radio",
    "block_s": "uplink resource blocks x seconds used; NaN without a radio",
    "cell": "serving cell; -1 without a radio",
}
_RAISED = str.maketrans("-0123456789", "⁻⁰¹²³⁴⁵⁶⁷⁸⁹")
_UNITS = {"s": "s", "bits": "bit", "bps": "bit/s", "j": "J", "m": "m", "db": "dB"}


def setup(app: Any) -> dict[str, Any]:
    """Register with Sphinx."""
    app.connect("builder-inited", lambda app: generate(Path(app.srcdir) / "generated"))
    app.connect("autodoc-process-docstring", _docstring)
    app.connect("autodoc-process-signature", _signature)
    return {"parallel_read_safe": True}


def generate(folder: Path) -> None:
    """Write every generated page below ``folder``; files that would not change are left alone."""
    pages = {
        "job.md": job_reference.page(),
        "link_budget.md": link_budget(),
        "energy.md": _markdown_table(("entry", "default", "unit", "source"), RadioEnergy().rows()),
        "devices.md": devices(),
        "cell.md": quoted(Cell),
        "rounds.md": rounds(),
        "clients.md": clients(),
        "lists.md": lists(),
        **{f"reference/{name}.md": reference(name, modules) for name, modules in PACKAGES.items()},
    }
    for name, text in pages.items():
        path = folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        if not path.exists() or path.read_text(encoding="utf-8") != text:
            path.write_text(text, encoding="utf-8")


def link_budget() -> str:
    """``Cell().explain()`` without what belongs to energy."""
    energy = {name for name, *_ in RadioEnergy().rows()}
    rows = [row for row in Cell().explain() if row[0] not in energy]
    return _markdown_table(("entry", "default", "unit", "source"), rows)


def quoted(cls: type) -> str:
    """The prose of a class's docstring as a block quote."""
    prose = job_reference.markdown("\n".join(sections(cls.__doc__ or "")[""]))
    return "\n".join(f"> {line}".rstrip() for line in prose.split("\n")) + "\n"


def devices() -> str:
    """The catalogue: a section per device, a row per number."""
    parts = []
    for name in catalogue.names():
        rows = [(row.key, row.value, row.unit, row.basis, row.source) for row in catalogue.rows(name)]
        table = _markdown_table(("number", "value", "unit", "basis", "source"), rows)
        parts.append(f"### `{name}`\n\n{catalogue.describe(name)}\n\n{table}")
    return "\n".join(parts)


def rounds() -> str:
    """Fields of a line of ``rounds.jsonl``."""
    told = job_reference.parameters(RoundRecord)
    rows = [(f.name, _unit(f.name), told[f.name]) for f in dataclasses.fields(RoundRecord)]
    return (
        _markdown_table(("field", "unit", "meaning"), rows) + f"\nStatuses: {', '.join(f'`{s}`' for s in STATUSES)}.\n"
    )


def clients() -> str:
    """Fields of a record of ``clients.bin``."""
    rows = [(name, CLIENT[name].str, _unit(name), _CLIENT[name]) for name in CLIENT.names or ()]
    return _markdown_table(("field", "type", "unit", "meaning"), rows)


def lists() -> str:
    """What ``fedwave list`` shows of each kind of plug-in."""
    parts = []
    for kind in listing.plugin_kinds():
        rows = [(r["name"], job_reference.markdown(r["what"]), r["source"] or "–") for r in listing.rows(kind)]
        parts.append(f"## {kind}\n\n" + _markdown_table(("name", "what it does", "source"), rows))
    return "\n".join(parts)


def reference(title: str, roots: list[str]) -> str:
    """A page with every public module below ``roots``."""
    lines = [f"# {title}", ""]
    for root in roots:
        for name in _modules(root):
            lines += [f"## `{name}`", "", "```{eval-rst}", f".. automodule:: {name}", "   :members:", "```", ""]
    return "\n".join(lines)


def _modules(root: str) -> list[str]:
    module = importlib.import_module(root)
    inner = [m.name for m in pkgutil.walk_packages(getattr(module, "__path__", []), root + ".")]
    return [name for name in [root, *inner] if "._" not in name]


def _markdown_table(head: tuple[str, ...], rows: Any) -> str:
    lines = ["| " + " | ".join(head) + " |", "|" + "---|" * len(head)]
    for first, *rest in rows:
        cells = [f"`{first}`", *map(_cell, rest)]
        lines.append("| " + " | ".join(cell.replace("|", "\\|") for cell in cells) + " |")
    return "\n".join(lines) + "\n"


def _cell(value: Any) -> str:
    if isinstance(value, (int, float)):
        digits, _, power = f"{value:.6g}".partition("e")
        return digits + (f"\u00a0×\u00a010{str(int(power)).translate(_RAISED)}" if power else "")
    return re.sub(r"(https?://[^\s,;:)]+[^\s,;:.)])", r"<\1>", str(value))


def _unit(name: str) -> str:
    head, _, last = name.rpartition("_")
    return _UNITS.get(last, "") if head else ""


def _docstring(app: Any, what: str, name: str, obj: Any, options: Any, lines: list[str]) -> None:
    lines[:] = restructured(lines)


def _signature(app: Any, what: str, name: str, obj: Any, options: Any, signature: str, returns: str) -> Any:
    """The signature as it is written in the source: ``Positive | None``, not what pydantic makes of it."""
    try:
        found = inspect.signature(obj)
    except (TypeError, ValueError):
        return None
    text = re.sub(r"([\"'])Annotated\[(.+?), parts?\(.+?\)\]\1", r"\2", str(found))
    text = re.sub(r"(: |-> )([\"'])(.+?)\2", r"\1\3", text)
    text = re.sub(r"\((?:self|cls)(?:, )?", "(", text, count=1)
    arguments, _, result = text.partition(" -> ")
    return re.sub(r"<factory>|<object object at [^>]+>", "...", arguments), result.strip(
        "'"
    ) if result != "None" else ""
