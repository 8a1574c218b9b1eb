"""A cell network at fidelity "system" or "link": what of it Sionna computes, in the terms of ``fedwave.wireless``.

Both: each client's own fading, effective SINR, link adaptation with an exact view of the channel, block errors.
"system": large-scale state and rays of the whole population from TR 38.901 at system level, and every slot scheduled.
"link": fedwave's large-scale state, tapped delay lines, and the fluid scheduler on the rates that follow.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from fedwave.core.errors import BadInput, Refused
from fedwave.core.keys import Key
from fedwave.core.registry import name_of
from fedwave.core.types import Floats, Ints
from fedwave.wireless.phy.build.draws import PROFILES
from fedwave.wireless.reference.backend import require_sionna
from fedwave.wireless.reference.carrier import check_adaptation
from fedwave.wireless.reference.direction import Direction
from fedwave.wireless.reference.fading import EachFading, Fading
from fedwave.wireless.reference.population import Population
from fedwave.wireless.reference.rays import Rays
from fedwave.wireless.reference.slot_passage import SlotPassage
from fedwave.wireless.reference.system_channel import MAX_USERS
from fedwave.wireless.sharing.rates import Rates

if TYPE_CHECKING:
    from fedwave.wireless.cells.cell_round import CellRound
    from fedwave.wireless.networks.cell import Cell

SCHEDULERS = {"proportional_fair": "pf", "round_robin": "round_robin"}  # fedwave's name: the slot loop's
_RATE_SLOTS = 400


def check(cell: Cell) -> None:
    """Refuse what the reference does not model.

    Raises
    ------
    Refused, BadInput : clients that move, sums in the air, a scheduler or MCS table that Sionna does not have.
    """
    name = f'fidelity: "{cell.fidelity}"'
    if cell.mobility.moves:
        raise Refused(f"{name} is for clients that stand still, and mobility {name_of(cell.mobility)} moves them")
    if name_of(cell.uplink) != "digital":
        raise Refused(f"{name} is for the uplink digital, not {name_of(cell.uplink)}")
    if cell.fidelity == "system" and name_of(cell.scheduler) not in SCHEDULERS:
        known = " and ".join(SCHEDULERS)
        raise Refused(f"{name} has the schedulers {known}, not {name_of(cell.scheduler)}")
    for table in (cell.budget.uplink_mcs_table, cell.budget.downlink_mcs_table):
        check_adaptation(table, 0.1)


def population_of(cell: Cell, position_m: Floats, key: Key) -> Population | None:
    """All clients at ``position_m [N, 2]`` in Sionna's channel; ``None`` at fidelity "link", which keeps fedwave's.

    Raises
    ------
    BadInput : Sionna is missing, or there are too many clients for it.
    """
    require_sionna(cell.fidelity)
    if len(position_m) > MAX_USERS:
        raise BadInput(
            f'network.fidelity: "{cell.fidelity}" is for at most {MAX_USERS:,} clients, got {len(position_m):,} '
            '(use "table")'
        )
    return Population(cell, position_m, key) if cell.fidelity == "system" else None


def slot_passage(course: CellRound, direction: str) -> SlotPassage:
    """The transfers of a round's cohort at fidelity "system"."""
    cell, radio, ids, population = course.cell, course.radio, course.cohort.ids, course.coverage.population
    assert population is not None
    none_db = np.zeros(len(ids))  # neither of the slot loop's schedulers lowers a client's power

    def rays(who: Ints) -> Rays:
        return population.rays(ids[who], radio.cell[who], radio.speed_m_s[who])

    return SlotPassage(
        SCHEDULERS[name_of(cell.scheduler)],
        radio.cell,
        lambda blocks: Direction.of(cell, radio, direction, blocks, none_db),
        rays,
        blocks=course.coverage.free_blocks(direction),
        until_s=course.until_s,
        key=course.key.fold("slot loop", direction),
    )


def link_level(course: CellRound, tables: Rates, direction: str) -> Rates:
    """The rates of a round's cohort at fidelity "link": over fading of the profiles that the tables average over.

    ``tables`` gives the grants, and what being served at one's peaks adds.
    """
    cell, radio, ids = course.cell, course.radio, course.cohort.ids
    names = [f"TDL-{PROFILES['los' if sight else 'nlos']}" for sight in radio.los]
    each = zip(names, radio.delay_spread_s.tolist(), radio.speed_m_s.tolist(), strict=True)
    fading = EachFading(tuple(Fading(*one, carrier_ghz=cell.carrier_ghz) for one in each), ids)
    way = Direction.of(cell, radio, direction, cell.prbs, course.backoff_db)
    key, grants = course.key.fold("link", direction), tables.grants[1:]
    return Rates.usable(way.rates_bps(np.arange(len(ids)), grants, fading, key, _RATE_SLOTS), grants, tables.gain)
