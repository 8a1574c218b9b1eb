"""fedwave: train, adapt and plan foundation models by federated learning over simulated wireless networks."""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from fedwave.core.errors import BadInput, FedwaveError, Infeasible, Refused
    from fedwave.core.keys import Key
    from fedwave.core.registry import register
    from fedwave.core.types import RoundRecord
    from fedwave.experiment import Experiment
    from fedwave.methods.method import Method
    from fedwave.planner import Plan, plan
    from fedwave.simulation import Run, resume, run, stream
    from fedwave.tasks.task import Task
    from fedwave.transforms.transform import Transform
    from fedwave.wireless.network import Network

_HOMES = {
    "BadInput": "core.errors",
    "Experiment": "experiment",
    "FedwaveError": "core.errors",
    "Infeasible": "core.errors",
    "Key": "core.keys",
    "Method": "methods.method",
    "Network": "wireless.network",
    "Plan": "planner",
    "Refused": "core.errors",
    "RoundRecord": "core.types",
    "Run": "simulation",
    "Task": "tasks.task",
    "Transform": "transforms.transform",
    "plan": "planner",
    "register": "core.registry",
    "resume": "simulation",
    "run": "simulation",
    "stream": "simulation",
}
__all__ = [
    "BadInput", "Experiment", "FedwaveError", "Infeasible", "Key", "Method", "Network", "Plan", "Refused",
    "RoundRecord", "Run", "Task", "Transform", "plan", "register", "resume", "run", "stream",
]  # fmt: skip
__version__ = "0.1.0"


def __getattr__(name: str) -> Any:
    """Import on first use, so that ``import fedwave`` stays light."""
    if name not in _HOMES:
        raise AttributeError(f"module 'fedwave' has no attribute {name!r}")
    return getattr(importlib.import_module(f"fedwave.{_HOMES[name]}"), name)


def __dir__() -> list[str]:
    return __all__
