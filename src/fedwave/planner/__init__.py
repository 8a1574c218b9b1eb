"""To what extent a model suits federated learning over a network: the same round, on shapes alone."""

from fedwave.planner.changes import Change, nearest
from fedwave.planner.constraints import Constraint, Yardsticks
from fedwave.planner.rehearsal import Plan, plan

__all__ = ["Change", "Constraint", "Plan", "Yardsticks", "nearest", "plan"]
