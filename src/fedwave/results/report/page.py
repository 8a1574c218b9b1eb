"""The page itself: a template, a style sheet and a script from this package, plotly.js, and the numbers as JSON.

``plotly-basic.min.js`` is the npm package plotly.js-basic-dist-min 4.1.1, unchanged (MIT, ``plotly-basic.LICENSE``).
It draws all that a report has in a quarter of the bytes of the whole library, which the Python package plotly brings.
"""

from __future__ import annotations

import json
import math
from collections.abc import Sequence
from importlib import resources
from pathlib import Path
from typing import Any

from fedwave.core.errors import BadInput
from fedwave.results import format as text
from fedwave.results.files import disk, write_text
from fedwave.results.report import causes, detail, radio
from fedwave.results.report.compare import Group, curves, group
from fedwave.results.report.parts import network_assumes, network_rows, parts
from fedwave.results.report.runs import RunLog, load, lost, totals

REASONS = {
    "missed_broadcast": "the client never received the round's message",
    "outage": "no uplink, or the update was lost on the air",
    "deadline": "the update was not in when the server stopped waiting",
    "deadline_access": "late, and connecting took the largest part of its time",
    "deadline_compute": "late, and computing took the largest part of its time",
    "deadline_rate": "late, and transfers took the largest part of its time, waiting for resource blocks included",
    "memory": "the work does not fit the device's memory",
    "battery": "the battery cannot pay for the work",
    "radio_link_failure": "the connection broke off during a transfer",
    "access": "the connection to the base station did not come about",
    "refused": "the scheduler did not admit the client to the round",
    "quorum": "too few updates came in for a step, and the round was given up",
    "not_finite": "the update held NaN or infinity and was thrown away",
}


def write_report(folders: Sequence[str | Path], out: str | Path) -> Path:
    """Write one HTML file about the runs in ``folders``; it needs nothing else and asks nothing of the network.

    Runs that differ only in their seed become one curve with a band from the lowest to the highest.

    Raises
    ------
    BadInput : a folder is not a run folder or holds no round yet, or ``out`` cannot be written.
    """
    if not folders:
        raise BadInput("a report needs at least one run folder")
    runs = [load(folder) for folder in folders]
    page, out = render(runs), Path(out)
    if out.is_dir():
        raise BadInput(f"{out} is a folder: name the HTML file to write")
    with disk(out):
        out.parent.mkdir(parents=True, exist_ok=True)
        write_text(out, page)
    return out


def render(runs: Sequence[RunLog]) -> str:
    """The page as text."""
    import jinja2
    from markupsafe import Markup

    groups = group(runs)
    names = _run_names(groups)
    figures = {
        "groups": [{"label": g.label, "seeds": list(g.seeds), "curves": curves(g)} for g in groups],
        "runs": [_figures(run, names[id(run)], 1.0 / len(runs)) for run in runs],
        "reasons": REASONS,
    }
    environment = jinja2.Environment(
        loader=jinja2.FunctionLoader(_file), autoescape=True, trim_blocks=True, lstrip_blocks=True,
        undefined=jinja2.StrictUndefined,
    )  # fmt: skip
    environment.filters |= {"duration": text.duration, "data": text.data, "si": text.si, "number": _number}
    return environment.get_template("report.html.j2").render(
        title=_title(groups),
        groups=[_compared(g) for g in groups],
        runs=[{"index": index, **_described(run, names[id(run)])} for index, run in enumerate(runs)],
        reasons=REASONS,
        style=Markup(_file("report.css")),
        script=Markup(_file("radio.js") + _file("report.js")),
        plotly=Markup(_file("plotly-basic.min.js")),
        figures=Markup(embedded(figures)),
    )


def embedded(value: Any) -> str:
    """JSON that may stand inside a script element: five significant digits, no NaN, nothing that HTML could read."""
    content = json.dumps(_short(value), allow_nan=False, separators=(",", ":"), ensure_ascii=True)
    return content.replace("<", "\\u003c").replace(">", "\\u003e").replace("&", "\\u0026")


def _file(name: str) -> str:
    return (resources.files("fedwave.results.report") / name).read_text(encoding="utf-8")


def _short(value: Any) -> Any:
    if isinstance(value, float):
        return (float(f"{value:.5g}") if abs(value) < 1e15 else value) if math.isfinite(value) else None
    if isinstance(value, dict):
        return {key: _short(item) for key, item in value.items()}
    return [_short(item) for item in value] if isinstance(value, (list, tuple)) else value


def _number(value: Any) -> str:
    if isinstance(value, float):
        return f"{value:.4g}"
    return f"{value:,}".replace(",", "\u202f") if isinstance(value, int) else str(value)


def _title(groups: list[Group]) -> str:
    run = groups[0].runs[0]
    task, method = (str(run.job.get(key, {}).get("name", key)) for key in ("task", "method"))
    if len(groups) > 1:
        return f"{len(groups)} jobs compared"
    seeds = len(groups[0].runs)
    return f"{task} with {method}" + (f", {seeds} seeds" if seeds > 1 else "")


def _run_names(groups: list[Group]) -> dict[int, str]:
    """A name per run: its group's, with the seed where the group has several, and the folder where need be."""
    names = {}
    for one in groups:
        for run in one.runs:
            name = one.label + (f", seed {run.seed}" if len(one.runs) > 1 else "")
            names[id(run)] = name if one.seeds.count(run.seed) == 1 else f"{name} ({run.folder.name})"
    return names


def _figures(run: RunLog, name: str, share: float) -> dict[str, Any]:
    radius = next((row["value"] for row in network_rows(run.job) if row["name"] == "radius_m"), None)
    return {
        "name": name,
        "devices": run.clients.devices,
        "statuses": run.clients.statuses,
        "deadline_s": run.job.get("federation", {}).get("deadline_s"),
        "radius_m": radius,
        "rounds": detail.by_round(run),
        "timelines": detail.timelines(run, share),
        "cell": radio.cell(run),
        "layout": radio.layout(run, radius),
        "signal": radio.signal(run),
        "distributions": radio.distributions(run),
        "blocks": radio.blocks(run),
    }


def _described(run: RunLog, name: str) -> dict[str, Any]:
    path = {part: float(run.column(f"{part}_s").sum()) for part in ("downlink", "compute", "uplink", "server")}
    spent = sum(path.values())
    return {
        **totals(run),
        "name": name,
        "folder": run.folder.resolve().name,
        "seed": run.seed,
        "planned": int(run.job.get("rounds", len(run.records))),
        "path": {part: seconds / spent for part, seconds in path.items()} if spent else {},
        "energy": {part: float(run.column(f"energy_{part}_j").sum()) for part in ("compute", "radio", "server")},
        "lost": dict(lost(run)),
        "devices": detail.devices(run),
        "causes": causes.by_device(run),
        "percentiles": radio.percentiles(run),
        "qos": radio.qos(run),
        "base": run.base,
        "toml": run.toml,
        "environment": {k: v for k, v in run.environment.items() if k not in ("packages", "assumptions", "run_format")},
        "packages": run.environment.get("packages", {}),
        "assumptions": [*run.environment.get("assumptions", ()), *network_assumes(run.job)],
        "network": network_rows(run.job),
        "parts": parts(run.job),
    }


def _compared(one: Group) -> dict[str, Any]:
    results = [totals(run) for run in one.runs]

    def spread(values: list[float]) -> dict[str, float]:
        ordered = sorted(values)
        middle = len(ordered) // 2
        median = ordered[middle] if len(ordered) % 2 else (ordered[middle - 1] + ordered[middle]) / 2
        return {"median": median, "low": ordered[0], "high": ordered[-1]}

    metrics = [name for name in results[0]["final"] if all(name in result["final"] for result in results)]
    return {
        "label": one.label,
        "seeds": list(one.seeds),
        "final": {name: spread([result["final"][name] for result in results]) for name in metrics},
        "sim_time_s": spread([result["sim_time_s"] for result in results]),
        "uplink_bits": spread([result["uplink_bits"] for result in results]),
        "energy_j": spread([result["energy_j"] for result in results]),
        "delivered": spread([result["delivered"] / max(result["clients"], 1) for result in results]),
    }
