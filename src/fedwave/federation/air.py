"""What cannot be summed in the air, said when the job is built."""

from __future__ import annotations

from fedwave.core.errors import Refused
from fedwave.core.registry import name_of
from fedwave.core.types import count_values
from fedwave.federation.setting import Setting
from fedwave.wireless.networks.cell import Cell
from fedwave.wireless.uplinks.aircomp import AirComp

_INSTEAD = "or use network.uplink = 'digital'"


def check_air(setting: Setting) -> None:
    """Raise :class:`Refused` where the job's updates cannot be added in the air.

    A method that needs each client's own reply, a transform that sends codes, more clients than the carrier can
    measure. How many clients are in which of several cells, and how fast they move, shows in the rounds only.
    """
    network = setting.network
    if not isinstance(network, Cell) or not isinstance(network.uplink, AirComp):
        return
    schema = setting.method.uplink(setting.spec)
    for name, part in schema.items():
        if part.reduce != "sum":
            raise Refused(
                f"network.uplink: 'aircomp' gives the server a sum, and method {name_of(setting.method)!r} needs each "
                f"client's own {name}; take a method whose replies are summed, {_INSTEAD}"
            )
    for transform in setting.codec.up.transforms:
        if not transform.additive:
            raise Refused(
                f"network.uplink: 'aircomp' adds values in the air, and transform {name_of(transform)!r} sends codes "
                f"that do not add up; leave it out, {_INSTEAD}"
            )
    if network.sites * network.sectors == 1:
        clients = min(setting.sampler.cohort, len(setting.population))
        network.uplink.time(float(count_values(schema)), clients, network.air_grid)
