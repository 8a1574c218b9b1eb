"""The air of a cellular network: the radio of clients where they stand, with interference that follows the load."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property, lru_cache
from typing import TYPE_CHECKING

import numpy as np

from fedwave.core.keys import Key
from fedwave.core.types import Bools, Floats, Ints
from fedwave.wireless import power
from fedwave.wireless.geometry import interference, spreads
from fedwave.wireless.geometry.interference import (
    downlink_interference,
    over_thermal_db,
    settle_load,
    uplink_interference,
)
from fedwave.wireless.geometry.largescale import LargeScale, couple
from fedwave.wireless.radio import Radio

if TYPE_CHECKING:
    from fedwave.wireless.networks.cell import Cell
    from fedwave.wireless.reference.population import Population
    from fedwave.wireless.traffic import Traffic

_PROBES = 50  # background users per cell that stand for everybody else's
_FIRST_PROBE = 2**40  # their ids, beyond those of clients
_SETTLED = 1e-3
_STEPS = 20
_KEPT_CLIENTS = 20_000


@dataclass(frozen=True)
class Load:
    """Share of the resource blocks in use by cell, ``[S]``, down and up, and cells that cannot carry their traffic."""

    down: Floats
    up: Floats
    overloaded: Bools


class Coverage:
    """The cells of a network as their clients meet them; ``key`` is constant over the job.

    ``population`` holds all clients, at ``position_m [N, 2]``, where Sionna draws their channels (fidelity "system").
    """

    def __init__(self, cell: Cell, key: Key, position_m: Floats | None = None) -> None:
        self.cell, self.key, self.budget = cell, key, cell.budget
        self.cells = cell.scene.layout.cells
        self._load: Load | None = None  # of all cells, once a cohort has settled; till then the background's
        self._floor: Floats | None = None
        self.population: Population | None = None
        if cell.fidelity != "table" and position_m is not None:
            from fedwave.wireless.reference.cells import population_of

            self.population = population_of(cell, position_m, key)

    def look(self, position_m: Floats, ids: Ints) -> LargeScale:
        """Large-scale state of clients at positions."""
        if self.population is not None:
            return self.population.look(ids)
        return couple(self.cell.scene, position_m, ids, self.key)

    def radio(
        self, seen: LargeScale, serving: Ints, speed_m_s: Floats, load: Load, up_floor_w_hz: Floats | None = None
    ) -> Radio:
        """The links of clients seen so, served by ``serving [C]``.

        ``up_floor_w_hz [S]``: uplink interference that the cohort itself makes at each cell, on top of the background.
        """
        coupling = -10.0 * np.log10(np.take_along_axis(seen.gain, serving[:, None], axis=1)[:, 0].astype(float))
        return Radio(
            carrier=self.cell.carrier,
            budget=self.budget,
            gnb_power_dbm=self.cell.resolved("gnb_power_dbm"),
            q_out_db=self.cell.handover.q_out_db,
            coupling_db=coupling,
            cell=serving,
            los=seen.los,
            delay_spread_s=spreads.delay_spread_s(
                self.cell.scenario, seen.los, self.cell.carrier_ghz, indoor=seen.indoor
            ),
            speed_m_s=speed_m_s,
            down_iot_db=self._down_iot_db(seen, serving, load.down),
            up_iot_db=self._up_iot_db(load.up, up_floor_w_hz)[serving],
        )

    def again(self, seen: LargeScale, serving: Ints, speed_m_s: Floats) -> Radio:
        """The links of clients where they are seen now, at the load that :meth:`settle` found."""
        return self.radio(seen, serving, speed_m_s, self._load or self.background, self._floor)

    @cached_property
    def background(self) -> Load:
        """Load of the cells without the clients: that of their traffic, or the budget's assumption."""
        start = np.full(self.cells, self.budget.neighbour_load if self.cells > 1 else 0.0)
        idle = Load(start, start, np.zeros(self.cells, dtype=bool))
        down, up = (self._settled(self.traffic(direction), idle, direction) for direction in ("down", "up"))
        return Load(down.load, up.load, down.overloaded | up.overloaded)

    def _settled(self, traffic: Traffic, idle: Load, direction: str) -> interference.Load:
        """The load at which rates carry what the flows ask for (load coupling: rates depend on the others' load)."""

        def asked(load: Floats) -> Floats:
            at = Load(load, load, idle.overloaded)
            return np.array([traffic.loads(s).sum() for s in self.seconds_per_bit(at, direction)])

        if not traffic.flows:
            return settle_load(lambda load: idle.down, self.cells)
        return settle_load(asked, self.cells)

    def traffic(self, direction: str) -> Traffic:
        """Background flows of a direction."""
        return self.cell.uplink_traffic if direction == "up" else self.cell.downlink_traffic

    def seconds_per_bit(self, load: Load, direction: str) -> list[Floats]:
        """Whole-carrier seconds per bit of the background users of each cell that have a link."""
        seen = self._probes
        radio = self.radio(seen, seen.serving, np.full(len(seen.serving), self.budget.fading_speed_kmh / 3.6), load)
        rate = (radio.up() if direction == "up" else radio.down()).full_bps
        linked = [rate[(seen.serving == cell) & (rate > 0.0)] for cell in range(self.cells)]
        overall = 1.0 / rate[rate > 0.0] if (rate > 0.0).any() else np.ones(1)
        return [1.0 / own if len(own) else overall for own in linked]

    def free_blocks(self, direction: str) -> Floats:
        """Resource blocks ``[S]`` of each cell that the clients may have beside the background traffic."""
        return self._free_up if direction == "up" else self._free_down

    @cached_property
    def _free_up(self) -> Floats:
        return self._free("up")

    @cached_property
    def _free_down(self) -> Floats:
        return self._free("down")

    def _free(self, direction: str) -> Floats:
        traffic = self.traffic(direction)
        whole = np.full(self.cells, float(self.cell.prbs))
        if not traffic.flows:
            return whole * traffic.fl_cap
        seconds = self.seconds_per_bit(self.background, direction)
        return whole * np.array([traffic.share_for_fl(s) for s in seconds])

    def overload(self) -> list[str]:
        """A sentence per direction in which background traffic leaves some cells nothing to give."""
        found = []
        for direction, name in (("up", "uplink_traffic"), ("down", "downlink_traffic")):
            capped = self.traffic(direction).fl_cap <= 0.0
            full = int((self.free_blocks(direction) <= 0.0).sum()) if self.traffic(direction).flows else 0
            if capped:
                found.append(f"network.{name}.fl_cap: is 0, so federated learning has none of the carrier")
            elif full:
                found.append(
                    f"network.{name}: the flows ask for more than all resource blocks in {full} of {self.cells} "
                    f"cell{'s' if self.cells > 1 else ''} (overload), so nothing is left for federated learning there"
                )
        return found

    def busy(self, bits: Floats, rate_bps: Floats, serving: Ints) -> Floats:
        """Share of the time that each cell's clients need, relative to the cell that needs longest, ``[S]``."""
        seconds = np.divide(bits, rate_bps, out=np.zeros(len(bits)), where=(rate_bps > 0.0) & np.isfinite(bits))
        work = np.bincount(serving, weights=seconds, minlength=self.cells)
        return work / max(float(work.max()), 1e-300)

    def meet(
        self, position_m: Floats, ids: Ints, start_m: Floats, speed_m_s: Floats, down_bits: Floats, up_bits: Floats
    ) -> tuple[LargeScale, Radio]:
        """A cohort's large-scale state and its radio, once load and rates agree.

        In one cell nobody's load matters to others. Clients who rest have the same links in every round then, which are
        kept for the whole population at ``position_m [N, 2]`` as long as that is cheap.
        """
        rests = self.cells == 1 and self.population is None and not self.cell.mobility.moves
        if rests and len(position_m) <= _KEPT_CLIENTS:
            seen, radio = _resting(self.cell, self.key, np.ascontiguousarray(position_m).tobytes())
            return seen.take(ids), radio.take(ids)
        seen = self.look(start_m, ids)
        return seen, self.settle(seen, speed_m_s, down_bits, up_bits)

    def settle(self, seen: LargeScale, speed_m_s: Floats, down_bits: Floats, up_bits: Floats) -> Radio:
        """The cohort's radio once load and rates agree: what it sends is interference in the other cells."""
        self._load, self._floor = None, None
        radio = self.again(seen, seen.serving, speed_m_s)
        if self.cells == 1:
            return radio
        before = np.zeros(2)
        for _ in range(_STEPS):
            down = self.busy(down_bits, radio.down_full_bps, seen.serving)
            up = self.busy(up_bits, radio.up_full_bps, seen.serving)
            load = Load(self._joined(self.background.down, down), self.background.up, self.background.overloaded)
            self._load, self._floor = load, self._made_by(seen, up_bits, radio, up)
            radio = self.again(seen, seen.serving, speed_m_s)
            now = np.array([radio.down_iot_db.mean(), radio.up_iot_db.mean()])
            if np.abs(now - before).max() < _SETTLED:
                break
            before = now
        return radio

    @staticmethod
    def _joined(background: Floats, own: Floats) -> Floats:
        return background + (1.0 - background) * own

    def _made_by(self, seen: LargeScale, up_bits: Floats, radio: Radio, busy: Floats) -> Floats:
        """Uplink interference of the cohort at each cell: in proportion to the time that each client is on the air."""
        rate = radio.up_full_bps
        seconds = np.divide(up_bits, rate, out=np.zeros(len(rate)), where=rate > 0.0)
        total = np.bincount(seen.serving, weights=seconds, minlength=self.cells)
        own = (1.0 - self.background.up) * busy
        share = np.divide(seconds * own[seen.serving], total[seen.serving], out=np.zeros(len(rate)), where=seconds > 0)
        return uplink_interference(seen.gain, seen.serving, self._density_w_hz(radio), share, self.cells)

    def _density_w_hz(self, radio: Radio) -> Floats:
        """Transmit power density of clients that have the whole carrier."""
        dbm = radio.up_power_dbm(np.full(len(radio.cell), float(self.cell.prbs)))
        return self._per_hz(dbm)

    def _per_hz(self, dbm: Floats) -> Floats:
        """Power over the whole carrier in W/Hz."""
        return 10.0 ** ((dbm - 30.0) / 10.0) / self.cell.carrier.bandwidth_hz

    def _down_iot_db(self, seen: LargeScale, serving: Ints, load: Floats) -> Floats:
        if self.cells == 1:
            return np.full(len(serving), self.budget.downlink_iot_db)
        watts = np.full(self.cells, 10.0 ** ((self.cell.resolved("gnb_power_dbm") - 30.0) / 10.0))
        noise = power.noise_dbm(self.cell.carrier.bandwidth_hz, self.budget.ue_noise_figure_db)
        received = downlink_interference(seen.gain, serving, load, watts)
        heard_db = over_thermal_db(received, 10.0 ** ((noise - 30.0) / 10.0))
        return self._with_other_sites(heard_db, self.budget.downlink_iot_db)

    def _up_iot_db(self, load: Floats, floor_w_hz: Floats | None) -> Floats:
        if self.cells == 1:
            return np.full(1, self.budget.uplink_iot_db)
        received = self._probe_interference(load)
        if floor_w_hz is not None:
            received = received + floor_w_hz
        noise = power.noise_dbm(1.0, self.budget.gnb_noise_figure_db)
        heard_db = over_thermal_db(received, 10.0 ** ((noise - 30.0) / 10.0))
        return self._with_other_sites(heard_db, self.budget.uplink_iot_db)

    def _with_other_sites(self, iot_db: Floats, margin_db: float) -> Floats:
        """Interference of a single site's own cells, and on top of it the budget's for the sites that are not there."""
        if self.cell.sites > 1:
            return iot_db
        return 10.0 * np.log10(10.0 ** (iot_db / 10.0) + 10.0 ** (margin_db / 10.0) - 1.0)

    def _probe_interference(self, load: Floats) -> Floats:
        seen, density = self._probes, self._probe_density_w_hz
        count = np.bincount(seen.serving, minlength=self.cells)
        share = load[seen.serving] / count[seen.serving]
        return uplink_interference(seen.gain, seen.serving, density, share, self.cells)

    @property
    def _probes(self) -> LargeScale:
        return _probes(self.cell, self.key)

    @cached_property
    def _probe_density_w_hz(self) -> Floats:
        seen = self._probes
        coupling = seen.loss_db.astype(float)
        blocks = np.full(len(coupling), float(self.cell.prbs))
        dbm = power.uplink_power_dbm(
            coupling, blocks=blocks, subcarrier_khz=self.cell.subcarrier_khz, budget=self.budget
        )
        return self._per_hz(dbm)


@lru_cache(maxsize=8)
def _probes(cell: Cell, key: Key) -> LargeScale:
    count = _PROBES * cell.scene.layout.cells
    place = cell.place(count, key.fold("probes"))
    return couple(cell.scene, place, _FIRST_PROBE + np.arange(count), key)


@lru_cache(maxsize=2)
def _resting(cell: Cell, key: Key, position_m: bytes) -> tuple[LargeScale, Radio]:
    """All clients of a cell in which nobody moves."""
    place = np.frombuffer(position_m).reshape(-1, 2)
    coverage = Coverage(cell, key)
    seen = coverage.look(place, np.arange(len(place)))
    speed_m_s = np.full(len(place), cell.budget.fading_speed_kmh / 3.6)
    return seen, coverage.radio(seen, seen.serving, speed_m_s, coverage.background).known()
