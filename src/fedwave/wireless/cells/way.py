"""The cohort's way through the cells during a round: where clients are, which cell serves them, what handovers cost."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from fedwave.core.keys import Key
from fedwave.core.types import Bools, Floats, Ints, World
from fedwave.wireless.geometry.handover import Link
from fedwave.wireless.geometry.mobility import Area, disc
from fedwave.wireless.radio import Radio

if TYPE_CHECKING:
    from fedwave.wireless.cells.coverage import Coverage
    from fedwave.wireless.networks.cell import Cell

_STEP_M = 5.0  # links are looked at again after so much movement: a fraction of the shadowing's correlation distance
_LONGEST_S, _SHORTEST_S = 10.0, 0.1
_KMH = 1.0 / 3.6


class Way:
    """Positions and serving cells of a cohort from the start of its round on.

    ``start_m [C, 2]`` where clients are then; ``speed_m_s [C]`` what their channels change with (those who stand still
    have moving surroundings); ``step_s`` how long the links hold (infinite where nobody moves); ``handovers`` of
    clients with a transfer under way so far.
    """

    def __init__(self, cell: Cell, world: World, ids: Ints, static_key: Key) -> None:
        self.cell, self.ids, mobility = cell, ids, cell.mobility
        key = static_key.fold("mobility")
        placed = world.position_m[ids]
        self.state = None
        self.start_m, own_speed = placed, np.zeros(len(ids))
        self.step_s = np.inf
        if mobility.moves:
            unknown = dict.fromkeys(mobility.memory, np.nan)
            kept = world.remembered(ids, unknown, "mobility")
            begun = mobility.resume(kept, ids, placed, key)
            self.state, self.path = mobility.advance(begun, ids, key, world.clock_s, _area(cell, static_key))
            self.start_m, own_speed = self.path.at(0.0), self.path.speed_m_s
            fastest = float(max(own_speed.max(initial=0.0), _STEP_M / _LONGEST_S))
            self.step_s = float(np.clip(_STEP_M / fastest, _SHORTEST_S, _LONGEST_S))
        self.speed_m_s = np.maximum(own_speed, cell.budget.fading_speed_kmh * _KMH)
        self.link: Link | None = None
        self.handovers = 0
        self._now = 0.0

    def memory(self) -> dict[str, Floats]:
        """What to keep of the clients between rounds."""
        return {} if self.state is None else {f"mobility.{name}": values for name, values in self.state.items()}

    def moment(self, coverage: Coverage, now_s: float, active: Bools) -> tuple[Radio, Floats, Bools]:
        """Links from ``now_s`` to a step later: the radio, the share of the time that interruptions leave, who is lost.

        Interference stays that of the round's start: who moves hardly changes how much all cells send. A question about
        an earlier moment starts the connections anew at the cells that are strongest then.
        """
        seen = coverage.look(self.path.at(now_s), self.ids)
        if self.link is None or now_s < self._now:
            self.link = Link.start(seen.serving)
        self._now = now_s

        def sinr_db(cell: Ints) -> Floats:
            return coverage.again(seen, cell, self.speed_m_s).down_sinr_db()

        rules = self.cell.handover
        before = self.link.handovers
        self.link, silent_s = rules.step(self.link, seen.gain, sinr_db, self.step_s)
        self.handovers += int((self.link.handovers - before)[active].sum())
        radio = coverage.again(seen, self.link.serving, self.speed_m_s)
        return radio, 1.0 - silent_s / self.step_s, self.link.lost


def _area(cell: Cell, key: Key) -> Area:
    """Where clients of ``cell`` move: its disc, or the cluster."""
    layout, least = cell.scene.layout, cell.resolved("min_distance_m")
    if cell.sites == 1:
        return disc(cell.radius, min_distance_m=least)
    fold = layout.fold if layout.wrap_around else None
    radius = np.inf if layout.wrap_around else layout.extent_m / 2.0

    def draw(numbers: Ints, key: Key) -> Floats:
        return layout.place(numbers, key, min_distance_m=least)

    return Area(draw, radius, fold)
