"""fedwave's fluid schedulers on its goodput tables next to Sionna's slot loop: when finite, unequal uploads end.

Both sides know the same: mean SINR by grant, payloads, and when each is ready. Fading, link adaptation, transport block
errors and the scheduler are Sionna's slot by slot on one side; tables and processor sharing on the other. The tables
are read without soft combining and without channel ageing, which the slot loop does not have.
"""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from typing import Literal

import numpy as np

from fedwave.core.keys import Key
from fedwave.core.registry import lookup
from fedwave.core.types import Floats, Ints
from fedwave.wireless.link import slots_per_second
from fedwave.wireless.phy import goodput
from fedwave.wireless.phy.build.codes import RE_PER_PRB
from fedwave.wireless.reference.carrier import Carrier
from fedwave.wireless.reference.cells import SCHEDULERS
from fedwave.wireless.reference.fading import Fading
from fedwave.wireless.reference.slot_loop import SlotLoop, run_slots
from fedwave.wireless.sharing.rates import USERS as AMONG
from fedwave.wireless.sharing.rates import Rates

USERS = (1, 5, 10, 20, 50)
SEEDS = range(5)
TABLE = 2
PRBS, TARGET_DB = 51, 25.0
FADING = Fading(speed_m_s=30.0 / 3.6)


@dataclass(frozen=True)
class Case:
    """One cell and its users: ``sinr_db [U, M]`` by grant; ``bits``, ``ready_s`` ``[R, U]``, each seed its own."""

    carrier: Carrier
    fading: Fading
    sinr_db: Floats
    bits: Floats
    ready_s: Floats
    keys: tuple[Key, ...]

    def slot_bits(self, blocks: Floats, users: Floats | float = 1.0) -> Floats:
        """``[U, G]`` expected bits of a slot with ``blocks [G]`` granted, from the tables."""
        every = np.arange(1.0, self.carrier.prbs + 1.0)
        return goodput.slot_bits(
            np.stack([np.interp(np.log(blocks), np.log(every), row) for row in self.sinr_db]),
            blocks,
            direction=self.carrier.direction,
            mcs_table=TABLE,
            profile="nlos",
            delay_spread_s=self.fading.delay_spread_s,
            users=users,
            harq=False,
        )

    @cached_property
    def rates(self) -> Rates:
        """Goodput by grant, and what being served at one's peaks adds, as a network at table fidelity has them."""
        prbs = self.carrier.prbs
        known = np.asarray(goodput.GRANTS, dtype=float)
        grants = np.append(known[known < prbs], prbs)
        few = np.maximum(prbs / AMONG, 1.0)
        plain, best = self.slot_bits(few), self.slot_bits(few, AMONG.astype(float))
        gain = np.divide(best, plain, out=np.ones_like(best), where=plain > 0.0)
        per_second = slots_per_second(self.carrier.subcarrier_khz) * self.carrier.share
        return Rates.usable(per_second * self.slot_bits(grants), grants.astype(np.int64), gain)

    @property
    def useful_blocks(self) -> Ints:
        """``[U]`` the grant beyond which a user's rate does not grow."""
        return 1 + np.argmax(self.slot_bits(np.arange(1.0, self.carrier.prbs + 1.0)), axis=1)


def make_case(
    users: int,
    direction: Literal["up", "down"] = "up",
    *,
    seeds: Sequence[int] = SEEDS,
    full_db: tuple[float, float] = (3.0, 25.0),
    seconds: float = 8.0,
    spread_s: float = 2.0,
) -> Case:
    """Users whose SINR with all blocks is spread evenly over ``full_db``, in random order.

    The uplink is power-limited: with m of M blocks the SINR is ``10 log10(M / m)`` more, up to 25 dB. Payloads are
    log-uniform over a factor of 8 and scaled so that equal sharing takes about ``seconds``; users are ready at random
    within ``spread_s``.
    """
    key = Key(2024).fold(users)
    carrier = Carrier(PRBS, direction=direction, data_elements=RE_PER_PRB[direction])
    full = np.linspace(*full_db, users)[np.argsort(key.uniform(np.arange(users))[:, 0])]
    spread_db = 10.0 * np.log10(PRBS / np.arange(1, PRBS + 1)) if direction == "up" else np.zeros(PRBS)
    sinr = np.minimum(full[:, None] + spread_db, TARGET_DB)
    draw = np.stack([key.fold("case", seed).uniform(np.arange(users), 2) for seed in seeds])
    keys = tuple(key.fold("fading", seed) for seed in seeds)
    case = Case(carrier, FADING, sinr, draw[:, :, 0], spread_s * draw[:, :, 1], keys)
    even = case.rates.at(np.arange(users), np.full(users, max(PRBS / users, 1.0))) * min(1.0, PRBS / users)
    return replace(case, bits=seconds * even / 2.0 * 8.0 ** (draw[:, :, 0] - 0.5))


def simulate(case: Case, scheduler: str, *, beta: float = 0.995) -> SlotLoop:
    """The slot loop on a case; proportional fair remembers ``1 / (1 - beta)`` slots."""
    return run_slots(
        case.sinr_db,
        case.bits,
        case.ready_s,
        carrier=case.carrier,
        fading=case.fading,
        keys=case.keys,
        scheduler=SCHEDULERS[scheduler],
        mcs_table=TABLE,
        beta=beta,
        max_blocks=case.useful_blocks,
    )


def predict(case: Case, scheduler: str) -> Floats:
    """Ends ``[R, U]`` by fedwave's scheduler of that name, fluid, on the tables."""
    fluid = lookup("scheduler", scheduler)()
    return np.stack([fluid.finish(*row, case.rates) for row in zip(case.ready_s, case.bits, strict=True)])


@dataclass(frozen=True)
class Agreement:
    """Relative error of transfer times ``(predicted - measured) / measured``, over users and seeds."""

    transfers: int
    bias: float
    mean_abs: float
    p90_abs: float
    worst: float
    within_10: float


def agreement(predicted_s: Floats, measured_s: Floats, ready_s: Floats) -> Agreement:
    """Compare finish times ``[R, U]``; a transfer takes from when it is ready to when it ends."""
    error = (predicted_s - measured_s) / (measured_s - ready_s)
    size = np.abs(error)
    return Agreement(
        transfers=error.size,
        bias=float(error.mean()),
        mean_abs=float(size.mean()),
        p90_abs=float(np.quantile(size, 0.9)),
        worst=float(size.max()),
        within_10=float((size <= 0.1).mean()),
    )


def compare(
    scheduler: str, direction: Literal["up", "down"], users: int, *, beta: float = 0.995, **options
) -> tuple[Agreement, Agreement]:
    """Of each transfer; and of each user, its error averaged over seeds. ``options`` go to :func:`make_case`."""
    case = make_case(users, direction, **options)
    measured, predicted = simulate(case, scheduler, beta=beta).finish_s, predict(case, scheduler)
    took, told = measured - case.ready_s, predicted - case.ready_s
    mean_error = ((told - took) / took).mean(axis=0, keepdims=True)
    return agreement(predicted, measured, case.ready_s), agreement(mean_error, np.zeros_like(mean_error), -np.ones(1))


def cost_ratio(users: int = 10, seconds: float = 2.0) -> dict[str, float]:
    """Time of the slot loop and of fedwave on the same job, one seed, and their ratio.

    ``slot_loop_s`` and ``fluid_s`` are process seconds (imports not counted; the fluid one a mean over 20 runs, rates
    from the tables included); ``simulated_s`` is what they simulate, ``slots`` how many slots that is.
    """
    case = make_case(users, seeds=(0,), seconds=seconds)
    _ = case.rates
    begin = time.process_time()
    done = simulate(case, "round_robin")
    slot_loop_s = time.process_time() - begin
    begin = time.process_time()
    for _ in range(20):
        predict(replace(case), "round_robin")  # a copy has its rates yet to look up
    fluid_s = (time.process_time() - begin) / 20
    return {
        "users": users,
        "simulated_s": float(done.finish_s.max()),
        "slots": len(done.slot_bits),
        "slot_loop_s": slot_loop_s,
        "fluid_s": fluid_s,
        "ratio": slot_loop_s / fluid_s,
    }
