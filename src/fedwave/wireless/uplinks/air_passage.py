"""The uplink of a round whose updates are summed in the air: who is in which cell's sum, and when it is over."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace

import numpy as np

from fedwave.core.errors import Refused
from fedwave.core.keys import Key
from fedwave.core.types import AirNoise, Bools, Delivery, Floats, Ints, Work
from fedwave.wireless.energy import EnergyModel
from fedwave.wireless.uplinks.air_time import AirGrid
from fedwave.wireless.uplinks.aircomp import AirComp, AirRound


@dataclass(frozen=True)
class AirLinks:
    """Channels at the moment of a sum, ``[C]``: mean SNR as in :meth:`AirComp.sum`, serving cells, links lost."""

    snr: Floats
    cell: Ints
    failed: Bools


def analog_work(uplink: AirComp, work: Work, grid: AirGrid) -> Work:
    """``work`` with the digital bits that a client really sends: the control of a sum, nothing of the update itself.

    The control is that of a sum of the whole cohort in one cell.

    Raises
    ------
    Refused : the server needs more than a sum, or updates in more than one turn of a round.
    """
    if work.up_values is None:
        raise Refused("uplink aircomp: the method needs each client's own reply, and sums in the air have none")
    if sum(bool((phase.up_bits > 0.0).any()) for phase in work.phases) > 1:
        raise Refused("uplink aircomp: sums one reply a round, and the method sends in several turns")
    values = most_values(work)
    control = 0.0
    if values > 0.0:
        time = uplink.time(values, 1, grid)
        control = time.control_bits(time.periods)
    phases = tuple(replace(phase, up_bits=np.where(phase.up_bits > 0.0, control, 0.0)) for phase in work.phases)
    return replace(work, phases=phases)


def most_values(work: Work) -> float:
    """Real values of the largest update."""
    return 0.0 if work.up_values is None else float(work.up_values.max(initial=0.0))


@dataclass
class AirPassage:
    """A :data:`~fedwave.wireless.flow.Transfer`: each cell sums once, and the server adds the cells' sums.

    A cell's sum starts when its last client is ready. The server waits until the last moment at which a sum still
    meets the deadline; who is ready later is late. The errors of the cells' sums add up. All cells measure their
    channels as often as the fullest one has to.

    Parameters
    ----------
    uplink : the policy.
    links : channels from a time of the round on, for clients who send.
    ids : ``[C]``.
    values : real values of an update, the same for all.
    grid : of a cell.
    key : the round's, for the fading.
    until_s : the deadline, infinite where there is none.

    After the call: ``coefficient [C, B]``, ``noise``, ``symbols``, ``control_bits``, ``tx_power_share [C]``, and as
    in :class:`~fedwave.wireless.sharing.passage.Passage` ``block_s`` (a cell's blocks x seconds, shared by those on
    the air), ``failed`` and ``stopped``; ``served_s [C]`` are seconds on the air, ``waited_s [C]`` the time from being
    ready to the sum (or to the deadline, or to the loss of the link), ``summed [C]`` who had something to send.

    Raises
    ------
    Refused : see :class:`~fedwave.wireless.uplinks.air_time.AirTime`.
    """

    uplink: AirComp
    links: Callable[[float, Bools], AirLinks]
    ids: Ints
    values: float
    grid: AirGrid
    key: Key
    until_s: float = np.inf
    coefficient: Floats = field(init=False)
    noise: AirNoise = field(init=False)
    symbols: Floats = field(init=False)
    control_bits: Floats = field(init=False)
    tx_power_share: Floats = field(init=False)
    block_s: Floats = field(init=False)
    served_s: Floats = field(init=False)
    waited_s: Floats = field(init=False)
    failed: Bools = field(init=False)
    stopped: tuple[Floats, Floats] = field(init=False)
    summed: Bools = field(init=False)

    def __post_init__(self) -> None:
        """Nothing sent yet."""
        count = len(self.ids)
        self.coefficient = np.zeros((count, self.uplink.blocks))
        self.noise = AirNoise("gaussian", 2.0, np.zeros(self.uplink.blocks))
        for name in ("symbols", "control_bits", "tx_power_share", "block_s", "served_s", "waited_s"):
            setattr(self, name, np.zeros(count))
        self.stopped = np.full(count, -np.inf), np.zeros(count)
        self.failed, self.summed = np.zeros(count, dtype=bool), np.zeros(count, dtype=bool)

    def __call__(self, start_s: Floats, bits: Floats) -> Floats:
        """When each client's part is in: infinite for those whom no block carries, after the deadline for the late."""
        sends = np.isfinite(start_s) & (bits > 0.0)
        end = np.where(np.isfinite(start_s) & ~sends, start_s, np.inf)
        if not sends.any():
            return end
        now = float(start_s[sends].max())
        links = self.links(now, sends)
        self.failed = links.failed & sends
        lost_s = np.maximum(start_s[self.failed], min(now, self.until_s))
        self.stopped[0][self.failed], self.waited_s[self.failed] = lost_s, lost_s - start_s[self.failed]
        sends &= ~self.failed
        _, count = np.unique(links.cell[sends], return_counts=True)
        periods = self.uplink.time(self.values, int(count.max(initial=0)), self.grid).periods
        self.coefficient = np.zeros((len(self.ids), self.uplink.blocks * periods))
        noises = []
        for cell in np.unique(links.cell[sends]):
            own = np.flatnonzero(sends & (links.cell == cell))
            end[own], noise = self._sum(own, links.snr[own], start_s[own], periods)
            noises.append(noise)
        if noises:
            self.noise = added(noises)
        return end

    def _sum(self, own: Ints, snr: Floats, start_s: Floats, periods: int) -> tuple[Floats, AirNoise]:
        longest = self.uplink.time(self.values, len(own), self.grid).seconds(periods)
        in_time = start_s <= self.until_s - longest
        done = self.uplink.sum(snr, self.ids[own], self.values, self.grid, in_time, self.key, periods)
        begin = float(np.max(start_s[in_time], initial=0.0)) if in_time.all() else self.until_s - longest
        on = in_time & ~done.silent
        waited_s = np.where(on, begin - start_s, np.where(in_time, 0.0, np.maximum(self.until_s - start_s, 0.0)))
        self._book(own, done, on, waited_s)
        late = np.maximum(start_s, self.until_s) + longest
        return np.where(on, begin + done.seconds, np.where(in_time, np.inf, late)), done.noise

    def _book(self, own: Ints, done: AirRound, on: Bools, waited_s: Floats) -> None:
        self.summed[own] = True
        self.coefficient[own] = done.coefficient
        for name in ("symbols", "control_bits", "tx_power_share"):
            getattr(self, name)[own] = getattr(done, name)
        self.served_s[own] = np.where(on, done.seconds, 0.0)
        self.block_s[own] = np.where(on, self.grid.prbs * done.seconds / max(int(on.sum()), 1), 0.0)
        self.waited_s[own] = waited_s

    def send_w(self, energy: EnergyModel, max_power_dbm: float) -> Floats:
        """Mean power from being ready to the end of the sum, ``[C]``: at rest while waiting, then on the air.

        On the air it sends for the uplink's share of the time. A model with a slope per bit has no rate here: the
        analog symbols cost its power while sending.
        """
        with np.errstate(divide="ignore"):
            power_dbm = max_power_dbm + 10.0 * np.log10(self.tx_power_share)
        whole = self.waited_s + self.served_s
        share = np.divide(self.served_s, whole, out=np.zeros(len(whole)), where=whole > 0.0)
        return share * energy.send_w(power_dbm, self.grid.uplink_share) + (1.0 - share) * energy.tail_w

    def settle(self, done: Delivery) -> Delivery:
        """``done`` with the sum's coefficients, noise, symbols and control bits; waiting is not time on the air."""
        coefficient = np.where(self.summed[:, None], self.coefficient, 1.0)  # nothing to send: nothing distorted
        return replace(
            done,
            coefficient=np.where(done.heard[:, None], coefficient, 0.0),
            noise=self.noise,
            up_symbols=self.symbols,
            up_sent_bits=self.control_bits,
            airtime=done.airtime - float(self.waited_s.sum()),
        )


def added(noises: Sequence[AirNoise]) -> AirNoise:
    """The noise of a sum of sums: Gaussian variances add, and alpha-stable ``scale^alpha``."""
    first = noises[0]
    if first.law == "gaussian":
        return replace(first, scale=np.sqrt(sum(noise.scale**2 for noise in noises)))
    heavy = sum(noise.scale**first.alpha for noise in noises) ** (1.0 / first.alpha)
    own = [np.zeros(len(n.scale)) if n.gaussian is None else n.gaussian for n in noises]
    return replace(first, scale=heavy, gaussian=np.sqrt(sum(std**2 for std in own)))
