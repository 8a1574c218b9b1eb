"""The suitability map: models x methods x networks x devices, from one rehearsal per network instead of one a cell."""

from fedwave.planner.map.axes import Axes, axes_of
from fedwave.planner.map.grid import Map, suitability
from fedwave.planner.map.jobs import Jobs
from fedwave.planner.map.recipes import Recipe, recipes_of

__all__ = ["Axes", "Jobs", "Map", "Recipe", "axes_of", "recipes_of", "suitability"]
