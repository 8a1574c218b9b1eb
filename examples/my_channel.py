"""A channel of your own in one file: links whose rate falls with distance, and a scheduler that serves one at a time.

python examples/my_channel.py
fedwave run job.toml 'network={name = "my_channel:Sidelink"}'
fedwave run job.toml 'network={name = "cell", scheduler = "my_channel:FirstCome"}'
"""

from dataclasses import dataclass
from typing import Any

import numpy as np

import fedwave as fw
from fedwave.core.config import Positive
from fedwave.tasks.toy import Toy
from fedwave.wireless.energy import FREE, Connection
from fedwave.wireless.flow import Links, run_round
from fedwave.wireless.networks.cell import Cell
from fedwave.wireless.scheduler import Scheduler


@dataclass(frozen=True)
class Sidelink(fw.Network):
    """Clients uniform in a square around a relay; each link has Shannon's rate ``B log2(1 + snr (d / 1 m)^-e)``."""

    side_m: Positive = 200.0
    bandwidth_hz: Positive = 1e6
    snr_at_1m: Positive = 1e7
    exponent: Positive = 3.0

    def place(self, n: int, key: Any) -> Any:
        return (key.uniform(np.arange(n), 2) - 0.5) * self.side_m

    def deliver(self, world, cohort, work, compute, key, *, static_key, deadline_s, server_s=0.0, server_j=0.0):
        distance_m = np.maximum(np.linalg.norm(world.position_m[cohort.ids], axis=1), 1.0)
        snr = self.snr_at_1m * distance_m**-self.exponent
        rate_bps = self.bandwidth_hz * np.log2(1.0 + snr)

        def transfer(start_s: Any, bits: Any) -> Any:
            return start_s + bits / rate_bps

        links = Links(
            down=transfer, up=transfer, connection=Connection(0.0, 0.0, inactivity_s=0.0), energy=FREE,
            sinr_db=10.0 * np.log10(snr), lost=np.zeros(len(cohort), dtype=bool),
        )  # fmt: skip
        return run_round(work, compute, links, deadline_s=deadline_s, server_s=server_s, server_j=server_j)


@dataclass(frozen=True)
class FirstCome(Scheduler):
    """All resource blocks to the transfer that was ready first."""

    def weights(self, ready_s: Any, bits: Any, rows: Any, until_s: float) -> Any:
        first = np.zeros(len(bits))
        first[np.argmin(ready_s)] = 1.0
        return np.maximum(first, 1e-6)  # the others wait, and take what is left over


if __name__ == "__main__":
    for network in (Sidelink(), Cell(scheduler=FirstCome()), Cell()):
        plan = fw.plan(fw.Experiment(task=Toy(dimension=100_000), network=network))
        print(f"{type(network).__name__}: round {plan.round_s:.2f} s, uplink {plan.uplink_s:.2f} s, {plan.verdict}")
