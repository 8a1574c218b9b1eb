"""One round in a cellular network: who is let on the air, and every transfer through the cells."""

from __future__ import annotations

from dataclasses import replace
from functools import cached_property, partial
from typing import TYPE_CHECKING, Any

import numpy as np

from fedwave.core.keys import Key
from fedwave.core.types import STATUS, Bools, Cohort, Compute, Delivery, Floats, Ints, Work, World
from fedwave.wireless.cells.coverage import Coverage
from fedwave.wireless.cells.reception import Reception
from fedwave.wireless.cells.way import Way
from fedwave.wireless.flow import Links, run_round
from fedwave.wireless.radio import Radio
from fedwave.wireless.scheduler import Asked
from fedwave.wireless.sharing.passage import Moment, Passage
from fedwave.wireless.sharing.rates import Rates
from fedwave.wireless.short_term import short_term_factor
from fedwave.wireless.uplinks.air_passage import AirLinks, AirPassage, analog_work, most_values
from fedwave.wireless.uplinks.air_radio import air_grid, air_snr, full_power_dbm, sums_elsewhere_w_hz
from fedwave.wireless.uplinks.aircomp import AirComp

if TYPE_CHECKING:
    from fedwave.wireless.networks.cell import Cell
    from fedwave.wireless.reference.slot_passage import SlotPassage


class CellRound:
    """The cohort of a round in its cells."""

    def __init__(
        self,
        cell: Cell,
        world: World,
        cohort: Cohort,
        work: Work,
        compute: Compute,
        key: Key,
        static_key: Key,
        deadline_s: float | None,
    ) -> None:
        self.cell, self.world, self.cohort, self.compute, self.key = cell, world, cohort, compute, key
        self.until_s = np.inf if deadline_s is None else float(deadline_s)
        self.coverage = Coverage(cell, static_key, world.position_m)
        self.way = Way(cell, world, cohort.ids, static_key)
        analog = isinstance(cell.uplink, AirComp)
        up_bits = np.zeros(len(cohort)) if analog else work.up_bits  # sums interfere otherwise than coded uploads
        self.seen, self.radio = self.coverage.meet(
            world.position_m, cohort.ids, self.way.start_m, self.way.speed_m_s, work.down_bits, up_bits
        )
        self.backoff_db = np.zeros(len(cohort))
        self.uploads: tuple[Floats, Floats, Rates] | None = None
        self.up: Passage | SlotPassage | AirPassage
        if isinstance(cell.uplink, AirComp):
            self.up, self.work = self._in_the_air(cell.uplink, work)
        else:
            self.up, self.work = self._passage("up"), work
        share = self.coverage.free_blocks("down") / cell.prbs
        self.down = Reception(cell.downlink, self.radio, self._passage("down"), share, self.until_s)

    def delivery(self, *, server_s: float, server_j: float) -> Delivery:
        """What the network makes of the round."""
        cell, cohort = self.cell, self.cohort
        admitted = np.ones(len(cohort), dtype=bool)
        if cell.scheduler.chooses:
            admitted = cell.scheduler.admit(self.asked, self.key.fold("admit"))
        links = Links(
            down=self.down,
            up=self.up,
            connection=cell.connection,
            energy=cell.energy,
            sinr_db=self.radio.up_full_sinr_db,
            lost=np.zeros(len(cohort), dtype=bool),
            idle_s=self.world.radio_idle_s(cohort.ids),
            admitted=admitted,
            access=cell.access.for_links(cohort.ids, self.key, cell=self.seen.serving),
            paged_s=self._paged_s(admitted),
            send_w=self._send_w,
            failed=lambda: self.up.failed,
            stopped=lambda: self.up.stopped,
        )
        done = run_round(
            self.work,
            self.compute,
            links,
            deadline_s=None if np.isinf(self.until_s) else self.until_s,
            server_s=server_s,
            server_j=server_j,
        )
        if isinstance(self.up, AirPassage):
            done = self.up.settle(done)
        return replace(
            done,
            cell=self.seen.serving,
            position_m=self.way.start_m,
            up_bps=self.radio.up_full_bps,
            block_s=self.up.block_s,
            carrier_block_s=cell.prbs * len(self.in_use) * done.round_s,
            down_air_bits=self.down.air_bits,
            gnb_j=self._gnb_j(done.round_s),
            handovers=self.way.handovers,
            qos=self._qos(done.round_s),
            shortfall=self._shortfall(done),
            remembered={**self._memory(admitted, done), **self.way.memory()},
        )

    @cached_property
    def in_use(self) -> Ints:
        """The cells that serve somebody of the cohort, ascending."""
        return np.flatnonzero(np.bincount(self.seen.serving))

    @cached_property
    def asked(self) -> Asked:
        """What the scheduler knows before the round."""
        cohort, cell = self.cohort, self.cell
        up_bps, up_bits = self.radio.up_full_bps, self.work.up_bits
        seconds = np.divide(up_bits, up_bps, out=np.full(len(cohort), np.inf), where=up_bps > 0.0)
        power_dbm = self.radio.up_power_dbm(np.full(len(cohort), float(cell.prbs)))
        watts = cell.energy.send_w(power_dbm, cell.budget.tdd_uplink_share)
        sinr_db = self.radio.up_full_sinr_db - cell.budget.implementation_loss_db
        return Asked(
            ids=cohort.ids,
            cell=self.seen.serving,
            samples=cohort.samples,
            down_bits=self.work.down_bits,
            up_bits=up_bits,
            compute_s=self.compute.seconds.sum(axis=0),
            compute_j=self.compute.joules.sum(axis=0),
            down_bps=self.radio.down_full_bps,
            up_bps=up_bps,
            snr=10.0 ** (sinr_db / 10.0),
            fading=-np.log(self.key.fold("fading").uniform(cohort.ids)[:, 0]),
            radio_j=watts * seconds + cell.energy.uplink_j_per_bit * up_bits,
            deadline_s=self.until_s,
            memory=self.world.remembered(cohort.ids, cell.scheduler.initial, "scheduler"),
            round=cohort.round,
        )

    def _memory(self, admitted: Bools, done: Delivery) -> dict[str, Floats]:
        if not self.cell.scheduler.chooses:
            return {}
        kept = self.cell.scheduler.remember(self.asked, admitted, done.heard, done.radio_j + done.compute_j)
        return {f"scheduler.{name}": value for name, value in kept.items()}

    def _passage(self, direction: str) -> Passage | SlotPassage:
        if self.cell.fidelity == "system":
            from fedwave.wireless.reference.cells import slot_passage

            return slot_passage(self, direction)
        step_s, short_term = self.way.step_s, self.key.fold("short-term", direction)

        def moment(now_s: float, start_s: Floats, bits: Floats) -> Moment:
            radio, usable, failed = self.radio, np.ones(len(bits)), np.zeros(len(bits), dtype=bool)
            if np.isfinite(step_s):
                radio, usable, failed = self.way.moment(self.coverage, now_s, bits > 0.0)
            rates = self._rates(radio, direction, start_s, bits)
            if direction == "up" and self.uploads is None:
                self.uploads = start_s, bits, rates
            if not np.isfinite(step_s):
                usable = short_term_factor(radio, bits, direction, self.cohort.ids, short_term)
            return Moment(rates, radio.cell, usable, failed)

        return Passage(
            len(self.cohort),
            self.cell.scheduler,
            moment,
            self.coverage.free_blocks(direction),
            until_s=self.until_s,
            told_s=self.until_s if direction == "up" else np.inf,
            step_s=step_s,
            connected=self.cell.budget.connected_per_cell,
        )

    def _in_the_air(self, uplink: AirComp, work: Work) -> tuple[AirPassage, Work]:
        """The sum of the round, and what of ``work`` is digital then."""
        free = self.coverage.free_blocks("up")[self.seen.serving].min(initial=float(self.cell.prbs))
        grid = air_grid(self.cell, free, float(self.way.speed_m_s.max(initial=0.0)))

        def links(now_s: float, sends: Bools) -> AirLinks:
            radio, failed = self.radio, np.zeros(len(sends), dtype=bool)
            if np.isfinite(self.way.step_s):
                radio, _, failed = self.way.moment(self.coverage, min(now_s, self.until_s), sends)
            elsewhere = sums_elsewhere_w_hz(self.radio, self.seen.gain, self.seen.serving, grid.prbs)
            return AirLinks(air_snr(radio, grid.prbs, elsewhere), radio.cell, failed)

        air = AirPassage(uplink, links, self.cohort.ids, most_values(work), grid, self.key, self.until_s)
        return air, analog_work(uplink, work, grid)

    def _rates(self, radio: Radio, direction: str, start_s: Floats, bits: Floats) -> Rates:
        diversity = self.cell.scheduler.diversity
        if direction == "down":
            rates = radio.down(diversity=diversity)
        else:
            self.backoff_db = self._backed_off(start_s, bits)
            rates = radio.up(diversity=diversity, backoff_db=self.backoff_db if self.backoff_db.any() else None)
        if self.cell.fidelity == "link":
            from fedwave.wireless.reference.cells import link_level

            return link_level(self, rates, direction)
        return rates

    def _backed_off(self, start_s: Floats, bits: Floats) -> Floats:
        """What the scheduler takes off the power of those that send, cell by cell; as before for the others."""
        if not self.cell.scheduler.lowers_power:
            return self.backoff_db
        out = self.backoff_db.copy()
        sends = np.isfinite(start_s) & (bits > 0.0)
        free, uplink_share = self.coverage.free_blocks("up"), self.cell.budget.tdd_uplink_share
        for cell in np.unique(self.radio.cell[sends]):
            own = np.flatnonzero(sends & (self.radio.cell == cell))
            some = self.radio.take(own)
            out[own] = self.cell.scheduler.backoff_db(
                start_s[own],
                bits[own],
                self.asked.snr[own],
                partial(_backed_off_rates, some, self.cell.scheduler.diversity, float(free[cell])),
                self.until_s,
                uplink_share * 10.0 ** ((some.up_power_dbm(np.full(len(own), float(self.cell.prbs))) - 30.0) / 10.0),
            )
        return out

    def _paged_s(self, admitted: Bools) -> Floats:
        """When clients are called: a cell pages so many a second, which spreads their preambles."""
        called = np.bincount(self.seen.serving, weights=admitted, minlength=self.coverage.cells)
        window_s = called[self.seen.serving] / self.cell.budget.calls_per_s
        return window_s * self.key.fold("paging").uniform(self.cohort.ids)[:, 0]

    def _send_w(self) -> Floats:
        """Mean power of each upload, from its start to its end."""
        if isinstance(self.up, AirPassage):
            return self.up.send_w(self.cell.energy, full_power_dbm(self.radio))
        return self.up.used.mean_w(
            self.cell.energy,
            lambda blocks: self.radio.up_power_dbm(blocks) - self.backoff_db,
            self.cell.budget.tdd_uplink_share,
        )

    def _shortfall(self, done: Delivery) -> str:
        """The scheduler's word for the first cell whose uploads could not all be in time, at their first moment."""
        if self.uploads is None or not (done.status == STATUS["deadline"]).any():
            return ""
        start_s, bits, rates = self.uploads
        sends = np.isfinite(start_s) & (bits > 0.0) & (rates.full_bps > 0.0)
        free = self.coverage.free_blocks("up")
        for cell in np.unique(self.seen.serving[sends]):
            own = np.flatnonzero(sends & (self.seen.serving == cell))
            some = replace(rates.take(own), available=float(free[cell]))
            why = self.cell.scheduler.shortfall(self.cohort.ids[own], start_s[own], bits[own], some, self.until_s)
            if why:
                return why
        return ""

    def _qos(self, round_s: float) -> tuple[dict[str, Any], ...]:
        """What the background traffic of the cells in use gets, at the round's mean use of their carriers."""
        cells = self.in_use
        used = {
            "up": float(self.up.block_s.sum()) / self.cell.prbs,
            "down": self.down.air_s,
        }
        tables: list[dict[str, Any]] = []
        for direction, seconds in used.items():
            traffic = self.coverage.traffic(direction)
            if not traffic.flows or not len(cells) or round_s <= 0.0:
                continue
            each = self.coverage.seconds_per_bit(self.coverage.background, direction)
            users = np.concatenate([each[cell] for cell in cells])
            load = min(seconds / (len(cells) * round_s), traffic.share_for_fl(users))
            tables += [{"direction": direction, **report.to_dict()} for report in traffic.cost(users, load)]
        return tuple(tables)

    def _gnb_j(self, round_s: float) -> float:
        """Energy of the cells with clients over the round, at the share of it in which they send."""
        cells = len(self.in_use)
        load = min(self.down.air_s / (cells * round_s), 1.0) if round_s > 0.0 and cells else 0.0
        return self.cell.gnb.joules(round_s, load, cells)


def _backed_off_rates(radio: Radio, diversity: bool, free_blocks: float, backoff_db: Floats) -> Rates:
    return replace(radio.up(diversity=diversity, backoff_db=backoff_db), available=free_blocks)
