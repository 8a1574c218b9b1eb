"""The synchronous round: one straight function that joins method, engine, devices and network."""

from __future__ import annotations

import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from fedwave.core.config import Count, Positive
from fedwave.core.keys import Key
from fedwave.core.registry import register
from fedwave.core.types import STATUSES, Delivery, Ints, Message, Replies, RoundRecord, World
from fedwave.federation.setting import Setting, Turn, booked, prepare

if TYPE_CHECKING:
    from fedwave.engines.cohort import Session
    from fedwave.methods.method import State
    from fedwave.results.client_log import ClientLog
    from fedwave.results.memory_store import MemoryStore


@register("federation", "sync")
@dataclass(frozen=True)
class Sync:
    """The server waits for the whole cohort, or until the deadline.

    Parameters
    ----------
    deadline_s : what is not in by then is lost; none: wait for everyone who can be heard.
    quorum : updates needed for a step; with fewer the round passes without one.
    """

    deadline_s: Positive | None = None
    quorum: Count = 1


def begin(setting: Setting, session: Session) -> State:
    """The method's state before the first round."""
    return setting.method.init(setting.spec, session.initial, session, setting.key.fold("init"))


def play(
    setting: Setting,
    session: Session,
    store: MemoryStore,
    world: World,
    state: State,
    *,
    clients: ClientLog | None = None,
) -> Iterator[tuple[RoundRecord, World, State]]:
    """Play the remaining rounds; world and state after each, with the client memory, are what a checkpoint needs."""
    method, spec = setting.method, setting.spec
    while world.round < setting.rounds:
        started = time.perf_counter()
        turn = prepare(setting, world)
        message = method.broadcast(spec, state, turn.cohort)
        message = encode_down(setting, message, turn.cohort.ids, turn.key)
        replies = session.run(message, store, turn.cohort, turn.delivery, turn.key)
        if clients is not None:
            clients.append(turn.cohort, turn.delivery, world.position_m, replies)
        if len(replies):
            state = method.server_update(spec, state, replies, session, turn.key)
        world = world.after(turn.cohort, turn.delivery, _base_bits(setting, turn, replies))
        metrics = session.evaluate(*method.model(state)) if _evaluates(setting, world.round) else None
        yield _record(turn, replies, world, metrics, time.perf_counter() - started), world, state


def rehearse(
    setting: Setting, rounds: int | Sequence[int], *, anyhow: bool = False, times: float = 1.0
) -> Iterator[tuple[RoundRecord, Turn]]:
    """:func:`play` without its training lines: what ``plan`` looks at. Every reply is taken to be finite.

    Parameters
    ----------
    rounds : so many from the first on; or which ones, ascending. Those between them are only booked, see
        :func:`~fedwave.federation.setting.booked`.
    anyhow : as if memory and batteries sufficed (:func:`~fedwave.federation.setting.prepare`).
    times : rounds of the job for which a booked one stands, to its clients' batteries.
    """
    world = setting.world()
    like = None
    for number in range(rounds) if isinstance(rounds, int) else rounds:
        if like is None and number:
            like = prepare(setting, world, anyhow=anyhow)
        while like is not None and world.round < number:
            world = booked(setting, world, like, times)
        turn = prepare(setting, world, anyhow=anyhow)
        like = turn if len(turn.cohort) or like is None else like
        heard = np.flatnonzero(turn.delivery.heard)
        nothing = np.full(len(turn.cohort), np.nan)
        replies = Replies(parts={}, weight=nothing[heard], position=heard, rank=turn.cohort.rank[heard], loss=nothing)
        world = world.after(turn.cohort, turn.delivery, _base_bits(setting, turn, replies))
        yield _record(turn, replies, world, None, 0.0), turn


def encode_down(setting: Setting, message: Message, ids: Ints, key: Key) -> Message:
    """The message as devices decode it: shared parts through the downlink transforms once for all, own parts each."""
    down = setting.codec.down
    if not down.transforms:
        return message
    shared, own = {}, None
    for name, leaves in message.shared.items():
        one = {leaf: value[None] for leaf, value in leaves.items()}
        decoded = down.encode(one, None, [key.fold("encode_down", name)]).decode()
        shared[name] = {leaf: value[0] for leaf, value in decoded.items()}
    if message.own is not None:
        keys = {name: [key.fold("encode_own", name, int(client)) for client in ids] for name in message.own}
        own = {name: down.encode(leaves, None, keys[name]).decode() for name, leaves in message.own.items()}
    return Message(shared=shared, own=own, base=message.base)


def _base_bits(setting: Setting, turn: Turn, replies: Replies) -> float:
    """Bits of the base change that the replies cause."""
    counted = np.zeros(len(turn.cohort), dtype=bool)
    counted[replies.position] = True
    return setting.method.base_bits(setting.spec, turn.cohort, counted)


def _evaluates(setting: Setting, rounds_done: int) -> bool:
    return rounds_done == setting.rounds or bool(setting.eval_every and rounds_done % setting.eval_every == 0)


def _record(turn: Turn, replies: Replies, world: World, metrics: dict[str, float] | None, wall_s: float) -> RoundRecord:
    delivery, ids = turn.delivery, turn.cohort.ids
    down, compute, up = _critical_path(delivery)
    status = delivery.status
    lost = {STATUSES[code]: [int(i) for i in ids[status == code]] for code in np.unique(status) if code}
    counts = {name: int(np.sum(status == code)) for code, name in enumerate(STATUSES)}
    if replies.dropped:  # the network delivered them, and they do not count
        lost["not_finite"] = replies.dropped
        counts |= {"delivered": len(replies), "not_finite": len(replies.dropped)}
    radio, computing = float(delivery.radio_j.sum()), float(delivery.compute_j.sum())
    heard = np.isfinite(replies.loss)
    weight = turn.cohort.weight[heard]
    return RoundRecord(
        round=turn.cohort.round,
        sim_time_s=world.clock_s,
        round_s=delivery.round_s,
        compute_s=compute,
        uplink_s=up,
        downlink_s=down,
        server_s=delivery.server_s,
        uplink_bits=float(delivery.up_sent_bits.sum()),
        downlink_bits=_downlink_bits(delivery),
        energy_j=radio + computing + delivery.server_j,
        energy_compute_j=computing,
        energy_radio_j=radio,
        energy_server_j=delivery.server_j,
        clients=len(ids),
        delivered=len(replies),
        status={name: count for name, count in counts.items() if count},
        lost=lost,
        train_loss=float(np.average(replies.loss[heard], weights=weight)) if heard.any() else None,
        wall_s=wall_s,
        energy_gnb_j=delivery.gnb_j,
        prb_use=_prb_use(delivery),
        handovers=delivery.handovers,
        shortfall=delivery.shortfall or None,
        qos=list(delivery.qos) or None,
        uplink_symbols=None if delivery.up_symbols is None else float(delivery.up_symbols.sum()),
        cloud_s=turn.cloud_s or None,
        cloud_bits=turn.cloud_bits or None,
        eval=metrics,
    )


def _downlink_bits(delivery: Delivery) -> float:
    received = float(delivery.down_sent_bits.sum())
    return received if delivery.down_air_bits is None else delivery.down_air_bits


def _prb_use(delivery: Delivery) -> float | None:
    if delivery.block_s is None or delivery.carrier_block_s <= 0.0:
        return None
    return float(delivery.block_s.sum()) / delivery.carrier_block_s


def _critical_path(delivery: Delivery) -> tuple[float, float, float]:
    """Downlink, compute and uplink seconds of the client that ended the round, cut off where the round ended."""
    parts = np.stack([delivery.downlink_s, delivery.compute_s, delivery.uplink_s])
    left = max(delivery.round_s - delivery.server_s, 0.0)
    if not parts.size or np.isnan(parts[0]).all():
        return left, 0.0, 0.0  # nobody got beyond the download
    parts = np.nan_to_num(parts, nan=0.0, posinf=np.inf)
    critical = parts[:, int(np.argmax(parts.sum(0)))]
    cut = []
    for seconds in critical:
        cut.append(float(min(seconds, max(left, 0.0))))
        left -= seconds
    return cut[0], cut[1], cut[2]
