"""The suitability map: a verdict for every model, method, network and device, in about a millisecond each."""

from __future__ import annotations

import warnings
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import groupby
from typing import Any

import numpy as np

from fedwave.core.errors import BadInput, Refused
from fedwave.core.types import STATUSES, Bools, Floats, Ints
from fedwave.experiment import Experiment
from fedwave.planner.constraints import ENOUGH, Constraint, Terms, Yardsticks, all_constraints, binding, judge
from fedwave.planner.map.axes import Axes
from fedwave.planner.map.demands import Demand, demand, received
from fedwave.planner.map.jobs import Jobs
from fedwave.planner.map.links import Links, cohorts, links
from fedwave.planner.map.recipes import Recipe
from fedwave.planner.map.rounds import PARTS, Rounds, rounds
from fedwave.wireless.network import Network
from fedwave.wireless.networks.cell import Cell
from fedwave.wireless.uplinks.aircomp import AirComp

VERDICTS = ("unsuitable", "conditional", "suitable", "impossible")
"""Codes of :attr:`Map.verdict`; ``impossible``: there is no such job, :attr:`Map.refused` says why."""

ROUNDS = 20  # rehearsed at most, with the job's own seed

APPROXIMATION = (
    f"an approximation of single plans: up to {ROUNDS} rounds of the job's own seed stand for all, so that clients at "
    "other places, and later rounds, may fare otherwise; a network is rehearsed with a few payload sizes and taken as "
    "linear in the bits between them; clients of a round send together, each the mean payload; computing is added to "
    "their time, and a deadline cuts off what was rehearsed without one"
)
_CALLED = (
    "clients are called whatever their charge, also below fleet.min_charge; a single plan calls others in their place"
)
_USUAL = Yardsticks()
Progress = Callable[[int, int], None]


@dataclass(frozen=True)
class Map:
    """Arrays are ``[models, methods, networks, devices]``, without the last axes where these do not matter.

    ``binding`` is an index into ``bounds``; ``margin`` is NaN where no constraint binds. Seconds, joules and bits are
    those of a :class:`~fedwave.planner.Plan`, NaN where there is no such job. ``path_s`` has an axis more, its parts
    (``downlink``, ``compute``, ``uplink``) being the first.
    """

    axes: Axes
    verdict: Ints
    binding: Ints
    bounds: tuple[str, ...]
    margin: Floats
    round_s: Floats
    path_s: Floats
    energy_j: Floats
    delivered_share: Floats
    uplink_bits: Floats
    downlink_bits: Floats
    peak_memory_bytes: Floats
    trainable_parameters: Floats
    model_parameters: Floats
    refused: dict[tuple[str, str], str]
    assumptions: tuple[str, ...]
    jobs: Jobs
    rounds: int

    def cell(self, model: int, method: int, network: int, device: int) -> dict[str, Any]:
        """One cell, a flat table of plain values; numbers are ``None`` where there is no such job."""
        at, pair = (model, method, network, device), (model, method)
        names = self.axes
        row: dict[str, Any] = {
            "model": names.models[model],
            "method": names.methods[method].name,
            "network": names.networks[network],
            "device": names.devices[device],
            "verdict": VERDICTS[self.verdict[at]],
            "binding": self.bounds[self.binding[at]] if self.verdict[at] != 3 else None,
            "margin": _plain(self.margin[at]),
            "round_s": _plain(self.round_s[at]),
        }
        row |= {f"{part}_s": _plain(self.path_s[(index, *at)]) for index, part in enumerate(PARTS)}
        row |= {
            "uplink_bits_per_client": _plain(self.uplink_bits[at]),
            "downlink_bits_per_client": _plain(self.downlink_bits[at]),
            "energy_j_per_client": _plain(self.energy_j[at]),
            "peak_memory_bytes": _plain(self.peak_memory_bytes[pair]),
            "delivered_share": _plain(self.delivered_share[at]),
            "total_s": _plain(self.round_s[at] * self.rounds),
            "trainable_parameters": _plain(self.trainable_parameters[pair]),
            "model_parameters": _plain(self.model_parameters[pair]),
        }
        return row


def suitability(
    experiment: Experiment,
    axes: Axes,
    *,
    yardsticks: Yardsticks = _USUAL,
    progress: Progress = lambda done, total: None,
) -> Map:
    """The map of ``experiment`` over ``axes``, on its first rounds.

    ``progress`` is called with cells done and cells in all.

    Raises :class:`BadInput` where the job's task has no model, or a network's transfers cannot be taken by themselves.
    """
    jobs, total = Jobs(experiment), int(np.prod(axes.shape))
    prepared = total // 3
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        demands, refused = _demands(jobs, axes, lambda done, of: progress(done * prepared // of, total))
        table = _Table(jobs, axes, yardsticks, demands)
        for index, network in enumerate(axes.networks):
            table.fill(index, jobs.network(network))
            progress(prepared + (index + 1) * (total - prepared) // len(axes.networks), total)
    return table.finished(refused)


def _plain(value: Any) -> float | None:
    return float(value) if np.isfinite(value) else None


_Place = tuple[int, int, tuple[int, ...]]  # model, method, and devices of the axes


@dataclass(frozen=True)
class _Group:
    """Demands for which one rehearsal of a network serves: those with the same number of clients."""

    ids: Ints
    asked: Bools
    demands: dict[_Place, Demand]

    def payloads(self) -> Floats:
        """Bits of every client in every round, up and down; what one receives that never got a broadcast before too."""
        nobody, found = np.zeros_like(self.asked), []
        for one in self.demands.values():
            found.append(one.up_bits[:, self.asked].ravel())
            for got in (self.asked, nobody):
                found.append(received(one, self.asked, got, self.asked)[:, self.asked].ravel())
        return np.concatenate(found)


def _demands(jobs: Jobs, axes: Axes, progress: Progress) -> tuple[list[_Group], dict[tuple[str, str], str]]:
    """Of every model under every recipe; why there is none of some."""
    groups, refused = {}, {}
    for m, model in enumerate(axes.models):
        for r, recipe in enumerate(axes.methods):
            try:
                for some, job in _by_rank(jobs, axes, model, recipe):
                    setting = job.setting()
                    group = groups.get(len(setting.population))
                    if group is None:
                        group = _Group(*cohorts(setting, min(setting.rounds, ROUNDS)), {})
                        groups[len(setting.population)] = group
                    names = [axes.devices[d] for d in some]
                    group.demands[m, r, some] = demand(setting, names, group.ids, group.asked)
            except BadInput as error:
                refused[model, recipe.name] = str(error)
        progress(m + 1, len(axes.models))
    return list(groups.values()), refused


def _by_rank(jobs: Jobs, axes: Axes, model: str, recipe: Recipe) -> Iterator[tuple[tuple[int, ...], Experiment]]:
    """Devices on which clients have the same rank, with their job; those that a table of ranks leaves out last."""
    first = jobs.experiment(model, recipe, axes.networks[0], axes.devices[0])
    rank = getattr(getattr(first.task, "adapter", None), "rank", None)
    ranks = [rank.get(name) if isinstance(rank, Mapping) else rank for name in axes.devices]
    for one in sorted(dict.fromkeys(ranks), key=lambda one: one is None):
        some = tuple(d for d, own in enumerate(ranks) if own == one)
        yield some, jobs.experiment(model, recipe, axes.networks[0], axes.devices[some[0]]) if some[0] else first


class _Table:
    """The map under way."""

    def __init__(self, jobs: Jobs, axes: Axes, yardsticks: Yardsticks, groups: Sequence[_Group]) -> None:
        self.jobs, self.axes, self.yardsticks, self.groups = jobs, axes, yardsticks, groups
        shape = axes.shape
        self.verdict, self.binding = np.full(shape, 3), np.zeros(shape, dtype=np.int64)
        self.bounds: dict[str, int] = {}
        names = ("margin", "round_s", "energy_j", "delivered_share", "uplink_bits", "downlink_bits")
        self.numbers = {name: np.full(shape, np.nan) for name in names}
        self.path_s = np.full((len(PARTS), *shape), np.nan)

    def fill(self, n: int, network: Network) -> None:
        """All cells of one network."""
        if isinstance(network, Cell) and isinstance(network.uplink, AirComp):
            raise Refused("plan --map takes payloads in bits, and network.uplink = 'aircomp' sends none; use 'digital'")
        for group in self.groups:
            first = next(iter(group.demands.values())).setting
            try:
                found = links(replace(first, network=network), group.ids, group.asked, group.payloads())
            except Refused as error:
                where = self.axes.networks[n]
                raise Refused(
                    f"plan --map rehearses network {where!r} without a deadline, and it refuses: {error}"
                ) from None
            by_kind = sorted(group.demands, key=lambda at: (len(group.demands[at].up_bits), at[1:], at[0]))
            for _, some in groupby(by_kind, key=lambda at: (len(group.demands[at].up_bits), at[1:])):
                places = list(some)
                self._judge(n, places, [group.demands[at] for at in places], found)

    def _judge(self, n: int, places: Sequence[_Place], demands: Sequence[Demand], found: Links) -> None:
        """Demands of one recipe, on the same devices."""
        batteries = np.array([np.inf if one.battery_j is None else one.battery_j for one in demands[0].needs])
        down = np.stack([received(d, found.asked, *found.fate(d.down_bits, d.up_bits)) for d in demands])
        met = rounds(demands, down, found, batteries)
        for at, (m, r, devices) in enumerate(places):
            cells = (m, r, n, list(devices))
            self.numbers["uplink_bits"][cells] = demands[at].up_bits.sum(0)[found.asked].mean()
            self.numbers["downlink_bits"][cells] = down[at].sum(0)[found.asked].mean()
            for name in ("round_s", "energy_j"):
                self.numbers[name][cells] = getattr(met, name)[at]
            self.numbers["delivered_share"][cells] = met.heard[at]
            self.path_s[(slice(None), *cells)] = met.path_s[:, at]
            for index, d in enumerate(devices):
                self._cell((m, r, n, d), demands[at], met, (at, index))

    def _cell(self, place: tuple[int, int, int, int], asks: Demand, met: Rounds, at: tuple[int, int]) -> None:
        setting, needs = asks.setting, asks.needs[at[1]]
        share = None if needs.battery_j is None else float(met.energy_j[at]) / needs.battery_j
        constraints = all_constraints(
            {self.axes.devices[place[3]]: replace(needs, battery_share=share)},
            asks.server,
            dict(zip(PARTS, met.path_s[(slice(None), *at)].tolist(), strict=True)),
            float(met.access_s[at]),
            float(met.airtime_share[at]),
            terms=Terms.of(setting, self.yardsticks, server_s=asks.server_s, cohort=max(map(len, asks.cohorts))),
            yardsticks=self.yardsticks,
        )
        heard = float(met.heard[at])
        shares = met.lost[(slice(None), *at)].tolist()
        lost = {name: share for name, share in zip(STATUSES[1:], shares[1:], strict=True) if share > 0.0}
        bound = binding(constraints, lost if heard < ENOUGH else {})
        name = bound.name if isinstance(bound, Constraint) else bound
        verdict = judge(constraints, enough=bool(met.enough[at]), heard=heard)
        self.verdict[place] = VERDICTS.index(verdict)
        self.binding[place] = self.bounds.setdefault(name, len(self.bounds))
        self.numbers["margin"][place] = bound.margin if isinstance(bound, Constraint) else np.nan

    def finished(self, refused: dict[tuple[str, str], str]) -> Map:
        """All of it."""
        pairs = {name: np.full(self.axes.shape[:2], np.nan) for name in _OF_PAIRS}
        assumptions: dict[str, None] = dict.fromkeys(self.yardsticks.sentences())
        for group in self.groups:
            for at, one in group.demands.items():
                for name, what in _OF_PAIRS.items():
                    pairs[name][at[:2]] = what(one)
                assumptions |= dict.fromkeys(one.setting.spec.assumptions)
                if one.setting.fleet.min_charge and any(device.battery_j is not None for device in one.needs):
                    assumptions[_CALLED] = None
        own = (f"the map is {APPROXIMATION}", *self.jobs.assumptions(self.axes.models))
        return Map(
            axes=self.axes,
            verdict=self.verdict,
            binding=self.binding,
            bounds=tuple(self.bounds),
            path_s=self.path_s,
            **self.numbers,
            **pairs,
            refused=refused,
            assumptions=(*own, *assumptions),
            jobs=self.jobs,
            rounds=self.jobs.rounds,
        )


_OF_PAIRS: dict[str, Callable[[Demand], float]] = {
    "peak_memory_bytes": lambda one: one.needs[0].peak_memory_bytes,
    "trainable_parameters": lambda one: float(one.setting.spec.trainable_parameters),
    "model_parameters": lambda one: float(one.setting.spec.model_parameters),
}
