"""One cell slot by slot with Sionna's fading, scheduler, link adaptation and error model: the fluid model's judge."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import ArrayLike

from fedwave.core.errors import BadInput
from fedwave.core.keys import Key
from fedwave.core.types import Floats
from fedwave.wireless.reference.backend import DEVICE, PDSCH, link_adaptation, require_sionna, seeded
from fedwave.wireless.reference.carrier import Carrier, check_adaptation, mean_sinr
from fedwave.wireless.reference.fading import Channel
from fedwave.wireless.reference.grants import capped, rotation

SCHEDULERS = ("pf", "round_robin")
_PIECES = 125, 1000  # slots whose fading is drawn at once: few at first, because short transfers end within them
_GRANT_MEMORY = 0.9  # of the grant that a PF scheduler expects to give (it sets the uplink's power density)


@dataclass(frozen=True)
class SlotLoop:
    """What became of the transfers: ``[R, U]`` per replication and user, ``[T]`` means over replications per slot.

    ``finish_s`` : end of the slot that delivered the last bit; infinite where some were left, ``ready_s`` without bits.
    ``delivered_bits``, ``left_bits`` : of the payload; their sum is what was to be sent.
    ``block_slots`` : resource blocks x slots granted; ``on_slots`` : slots with any of them.
    ``bler`` : transport blocks lost (NaN: none was sent).
    ``slot_bits``, ``slot_blocks``, ``slot_users`` : payload delivered, blocks granted, users with something to send.
    """

    finish_s: Floats
    delivered_bits: Floats
    left_bits: Floats
    block_slots: Floats
    on_slots: Floats
    bler: Floats
    slot_bits: Floats
    slot_blocks: Floats
    slot_users: Floats


def run_slots(
    sinr_db: ArrayLike,
    bits: ArrayLike,
    ready_s: ArrayLike,
    *,
    carrier: Carrier,
    fading: Channel,
    keys: Sequence[Key],
    scheduler: str = "pf",
    mcs_table: int = 2,
    bler_target: float = 0.1,
    beta: float = 0.98,
    max_blocks: ArrayLike | None = None,
    max_slots: int = 100_000,
) -> SlotLoop:
    """Send finite payloads over one cell until all are delivered, or ``max_slots`` of the direction are over.

    In each slot the scheduler grants blocks to users that are ready; SINR per block = mean SINR at that grant x fading;
    effective SINR by EESM; highest MCS whose error rate is at most ``bler_target``, else the lowest; error or not by
    chance. The channel of the slot is known exactly. Lost blocks stay in the queue and are sent afresh in a later
    slot: no soft combining. A user's last transport block may carry padding.

    "pf" is Sionna's ``PFSchedulerSUMIMO`` on ``log2(1 + SINR)`` per block, with the uplink's power density at the
    grant expected from the last ones; a user's average stands still while it has nothing to send. "round_robin"
    gives every ready user ``M / n`` adjacent blocks, shifted by one part every slot.

    Parameters
    ----------
    sinr_db : mean over fading per block, ``[U, M]`` (column m - 1: granted m blocks) or ``[U, 1]``.
    bits, ready_s : ``[U]``, or ``[R, U]`` for each replication its own; >= 0, finite.
    keys : one per replication; they run side by side.
    beta : Sionna's discount of past rates in "pf", per slot of the direction.
    max_blocks : ``[U]`` most blocks that a user can use in a slot; "pf" gives the rest to others.

    Raises
    ------
    BadInput : Sionna is missing, or a value is out of range.
    """
    mean = mean_sinr(sinr_db, carrier.prbs)
    check_adaptation(mcs_table, bler_target)
    if scheduler not in SCHEDULERS:
        raise BadInput(f"scheduler: {scheduler!r} is not one of {', '.join(SCHEDULERS)}")
    if not 0.0 < beta < 1.0:
        raise BadInput(f"beta: {beta!r} must be between 0 and 1")
    if not len(keys):
        raise BadInput("keys: at least one replication is needed")
    shape = (len(keys), len(mean))
    size, ready = _per_user(bits, shape, "bits"), _per_user(ready_s, shape, "ready_s")
    cap = np.full(len(mean), carrier.prbs) if max_blocks is None else np.asarray(max_blocks, dtype=np.int64)
    if cap.shape != shape[1:] or (cap < 1).any():
        raise BadInput(f"max_blocks: {shape[1]} numbers of at least 1 are needed")
    require_sionna("system")
    cell = _Cell(mean, size, ready, cap, carrier, scheduler, mcs_table, bler_target, beta)
    first = 0
    while first < max_slots and cell.busy:
        slots = min(max(_PIECES[0], first), _PIECES[1], max_slots - first)
        start = carrier.starts_s(np.arange(first, first + slots))
        if start[-1] >= cell.next_arrival_s():
            span = {"first": first, "slots": slots, "fidelity": "system"}
            each = [fading.gains(key, np.arange(len(mean)), carrier, **span) for key in keys]
            with seeded(keys[0].fold("errors", first)):
                cell.run(np.stack(each, axis=1), start)
        else:
            cell.skip(slots)
        first += slots
    return cell.result()


def _per_user(value: ArrayLike, shape: tuple[int, int], name: str) -> Floats:
    each = np.asarray(value, dtype=float)
    if each.shape not in (shape, shape[1:]) or not np.isfinite(each).all() or (each < 0.0).any():
        raise BadInput(f"{name}: finite values >= 0 for {shape[1]} users (and {shape[0]} replications) are needed")
    return np.broadcast_to(each, shape).copy()


class _Cell:
    """Queues of all replications ``[R, U]``, and the objects of Sionna that serve them."""

    def __init__(
        self,
        mean_db: Floats,
        bits: Floats,
        ready_s: Floats,
        cap: Any,
        carrier: Carrier,
        scheduler: str,
        mcs_table: int,
        bler_target: float,
        beta: float,
    ) -> None:
        import torch
        from sionna.sys import PFSchedulerSUMIMO

        shape = replications, users = bits.shape
        self.carrier, self.table = carrier, mcs_table
        self.phy, self.illa, _ = link_adaptation(carrier.data_elements, bler_target)
        self.grant = self._proportional_fair if scheduler == "pf" else self._round_robin
        self.pf = PFSchedulerSUMIMO(users, carrier.prbs, 1, batch_size=replications, beta=beta, device=DEVICE)
        self.snr = torch.as_tensor(10.0 ** (mean_db / 10.0), dtype=torch.float32)  # [U, M]
        self.user = torch.arange(users)
        self.cap = torch.as_tensor(cap)
        self.ready = torch.as_tensor(ready_s)
        self.left = torch.as_tensor(bits)
        self.finish = torch.where(self.left > 0.0, torch.inf, self.ready)
        self.delivered, self.granted, self.on, self.sent, self.lost = torch.zeros((5, *shape), dtype=torch.float64)
        self.expected = torch.full(shape, carrier.prbs / users)
        self.last_bits = torch.zeros(shape)
        self.known = torch.zeros(shape, dtype=torch.bool)
        self.trace: list[tuple[float, float, float]] = []

    @property
    def busy(self) -> bool:
        """Something is left in some queue."""
        return bool((self.left > 0.0).any())

    def next_arrival_s(self) -> float:
        """When the first user with something left was or will be ready."""
        return float(self.ready[self.left > 0.0].min())

    def skip(self, slots: int) -> None:
        """Slots before anyone is ready."""
        self.trace += [(0.0, 0.0, 0.0)] * slots

    def run(self, gain: Floats, start_s: Floats) -> None:
        """Some slots: ``gain [T, R, M, U]``, ``start_s [T]``."""
        import torch

        power = torch.as_tensor(gain)
        with torch.no_grad():
            for number, begin in enumerate(start_s):
                active = (self.left > 0.0) & (self.ready <= begin)
                if active.any():
                    self._slot(power[number], active, float(begin) + self.carrier.slot_s)
                elif self.busy:
                    self.skip(1)
                else:
                    return

    def _slot(self, gain: Any, active: Any, end_s: float) -> None:
        import torch

        granted = self.grant(gain, active)
        blocks = granted.sum(dim=1)
        mean = self.snr[self.user, blocks.clamp(min=1) - 1]
        sinr = (gain * mean[:, None, :] * granted)[:, None, :, :, None]  # one OFDM symbol and stream stand for the slot
        mcs = self.illa(sinr=sinr, mcs_table_index=self.table, mcs_category=PDSCH)
        decoded, ack, *_ = self.phy(mcs, sinr=sinr, mcs_table_index=self.table, mcs_category=PDSCH)
        self.last_bits = decoded.float()
        payload = torch.minimum(decoded.double(), self.left)
        self.left = self.left - payload
        self.delivered += payload
        self.granted += blocks
        self.on += blocks > 0
        self.sent += ack >= 0
        self.lost += ack == 0
        self.finish = torch.where(active & (self.left <= 0.0), end_s, self.finish)
        bits, used, users = (value.double().sum(dim=1).mean().item() for value in (payload, blocks, active))
        self.trace.append((bits, used, users))

    def _proportional_fair(self, gain: Any, active: Any) -> Any:
        """``[R, M, U]``: who gets which block."""
        import torch

        mean = self.snr[self.user, self.expected.round().long().clamp(1, self.carrier.prbs) - 1]
        rate = torch.log2(1.0 + gain * mean[:, None, :]) * active[:, None, :]
        self._welcome(torch.log2(1.0 + mean), active)
        last = torch.where(active, self.last_bits, self.pf.rate_achieved_past)
        granted = self.pf(last, rate[:, None])[:, 0, :, :, 0] & active[:, None, :]
        granted = capped(granted, self.pf.pf_metric[:, 0], active, self.cap)
        expected = _GRANT_MEMORY * self.expected + (1.0 - _GRANT_MEMORY) * granted.sum(dim=1)
        self.expected = torch.where(active, expected, self.expected)
        return granted

    def _welcome(self, efficiency: Any, active: Any) -> None:
        """Start the average of who is new where the others' are, relative to equal shares at their mean SINR.

        Sionna starts at 1 bit per slot, with which a newcomer would have the cell to itself until its average is known.
        """
        import torch

        new, old = active & ~self.known, active & self.known
        if not new.any():
            return
        share = self.carrier.prbs * efficiency / active.sum(dim=1, keepdim=True).clamp(min=1)
        average = self.pf.rate_achieved_past
        mine, others = (share * old).sum(dim=1, keepdim=True), (average * old).sum(dim=1, keepdim=True)
        bits = share * torch.where(mine > 0.0, others / mine.clamp(min=1e-9), float(self.carrier.data_elements))
        average.copy_(torch.where(new, bits, average))
        self.last_bits = torch.where(new, bits, self.last_bits)
        self.known = self.known | new

    def _round_robin(self, gain: Any, active: Any) -> Any:
        return rotation(active, self.carrier.prbs, self.cap, len(self.trace))

    def result(self) -> SlotLoop:
        """Everything as arrays."""
        import torch

        trace = np.array(self.trace, dtype=float).reshape(-1, 3)
        bler = torch.where(self.sent > 0.0, self.lost / self.sent.clamp(min=1.0), torch.nan)
        per_user = (self.finish, self.delivered, self.left, self.granted, self.on, bler)
        return SlotLoop(*(value.numpy() for value in per_user), *trace.T)
