"""To what extent a model suits federated learning over a network: the same round, on shapes alone."""

from fedwave.planner.changes import Change, nearest
from fedwave.planner.constraints import Constraint, Yardsticks
from fedwave.planner.explanation import explain
from fedwave.planner.rehearsal import Plan, plan
from fedwave.planner.row import Row

__all__ = [
    "Change",
    "Constraint",
    "Plan",
    "Row",
    "Yardsticks",
    "explain",
    "nearest",
    "plan",
]
