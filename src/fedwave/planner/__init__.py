"""To what extent a model suits federated learning over a network: the same round, on shapes alone."""

from fedwave.planner.rehearsal import Plan, plan

__all__ = ["Plan", "plan"]
