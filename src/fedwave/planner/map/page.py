"""The map as one HTML file that needs nothing else: a template, two style sheets, a script, and the numbers, packed."""

from __future__ import annotations

import base64
import zlib
from importlib import resources
from pathlib import Path
from typing import Any

import numpy as np

from fedwave.core.types import Floats
from fedwave.planner.map import write
from fedwave.planner.map.axes import entry
from fedwave.planner.map.grid import VERDICTS, Map
from fedwave.results.report.page import embedded

LOG_LOW, LOG_WIDTH = -9.0, 24.0  # decades that a packed number covers, from 1e-9 to 1e15
_STEPS = 65_534


def write_page(found: Map, out: Path, *, job: str) -> Path:
    """Write the page; ``job`` is the job file as the shown commands name it.

    Raises :class:`BadInput` where ``out`` cannot be written.
    """
    return write.write(out, render(found, job=job))


def render(found: Map, *, job: str) -> str:
    """The page as text."""
    import jinja2
    from markupsafe import Markup

    environment = jinja2.Environment(
        loader=jinja2.FunctionLoader(_file), autoescape=True, trim_blocks=True, lstrip_blocks=True,
        undefined=jinja2.StrictUndefined,
    )  # fmt: skip
    return environment.get_template("map.html.j2").render(
        axes=found.axes,
        cells=found.verdict.size,
        totals=write.totals(found),
        refused=found.refused,
        assumptions=found.assumptions,
        job=job,
        style=Markup(_file("report.css", "fedwave.results.report") + _file("map.css")),
        script=Markup(_file("map.js")),
        data=Markup(embedded(_data(found, job))),
    )


def _file(name: str, package: str = "fedwave.planner.map") -> str:
    return (resources.files(package) / name).read_text(encoding="utf-8")


def _data(found: Map, job: str) -> dict[str, Any]:
    axes = found.axes
    spent = np.where(found.path_s.sum(0) > 0.0, found.path_s.sum(0), 1.0)
    return {
        "job": job,
        "rounds": found.rounds,
        "axes": {
            "model": list(axes.models),
            "method": [one.name for one in axes.methods],
            "network": list(axes.networks),
            "device": list(axes.devices),
        },
        "parameters": [entry(name).parameters_m * 1e6 for name in axes.models],
        "what": [one.what for one in axes.methods],
        "overrides": [list(one.overrides) for one in axes.methods],
        "task": [found.jobs.task_overrides(name) for name in axes.models],
        "verdicts": list(VERDICTS),
        "bounds": list(found.bounds),
        "log": [LOG_LOW, LOG_WIDTH / _STEPS],
        "verdict": _text((found.verdict * 32 + found.binding).astype("<u1")),
        "margin": _packed(found.margin),
        "round_s": _packed(found.round_s),
        "energy_j": _packed(found.energy_j),
        "delivered": _bytes(found.delivered_share),
        "downlink": _bytes(found.path_s[0] / spent),
        "uplink": _bytes(found.path_s[2] / spent),
        "up_bits": _packed(found.uplink_bits),
        "down_bits": _packed(found.downlink_bits),
        "memory": _packed(found.peak_memory_bytes),
        "trainable": _packed(found.trainable_parameters),
        "refused": {f"{model}|{method}": why for (model, method), why in found.refused.items()},
    }


def _packed(values: Floats) -> str:
    """16 bits each, on a logarithmic scale; 0 where there is no number, 1 for nothing."""
    with np.errstate(all="ignore"):
        step = np.rint((np.log10(values) - LOG_LOW) / LOG_WIDTH * _STEPS)
    codes = 1.0 + np.clip(np.nan_to_num(step, neginf=0.0), 0.0, _STEPS)
    return _text(np.where(np.isnan(values), 0.0, codes).astype("<u2"))


def _bytes(shares: Floats) -> str:
    return _text(np.rint(np.nan_to_num(shares).clip(0.0, 1.0) * 200.0).astype("<u1"))


def _text(values: np.ndarray) -> str:
    """The bytes of an array, deflated, as base64."""
    return base64.b64encode(zlib.compress(np.ascontiguousarray(values).tobytes(), 9)).decode("ascii")
