"""The values that pass between the layers. NumPy and plain Python only: ``plan`` runs on these without torch.

Axis letters: ``N`` clients in the population, ``C`` clients in a round's cohort, ``K`` clients stacked in the engine.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from functools import cached_property
from typing import Any, Literal, Protocol

import numpy as np
from numpy.typing import NDArray

Floats = NDArray[np.floating[Any]]
Ints = NDArray[np.int64]
Bools = NDArray[np.bool_]

DTYPE_BITS = {"float32": 32, "bfloat16": 16, "float16": 16, "float64": 64, "int64": 64, "int32": 32, "uint8": 8}


@dataclass(frozen=True)
class Leaf:
    """Shape and dtype of one tensor; ``rank_axis`` is the axis that shrinks to a client's own LoRA rank."""

    shape: tuple[int, ...]
    dtype: str = "float32"
    rank_axis: int | None = None

    @cached_property
    def size(self) -> int:
        """Number of values."""
        return math.prod(self.shape)

    @property
    def bits(self) -> int:
        """Size in bits when sent as it is."""
        return self.size * DTYPE_BITS[self.dtype]

    def at_rank(self, rank: int) -> Leaf:
        """This leaf for a client of LoRA rank ``rank`` (unchanged where it has no rank axis)."""
        if self.rank_axis is None or not 0 < rank < self.shape[self.rank_axis]:
            return self
        shape = list(self.shape)
        shape[self.rank_axis] = rank
        return replace(self, shape=tuple(shape))


Leaves = dict[str, Leaf]


@dataclass(frozen=True)
class Part:
    """One named part of a payload: its leaves, and whether the server needs the sum or each client's own.

    ``increment``: what was not sent can be sent later (updates, accumulators), so that error feedback has a meaning;
    outputs or fresh factors are values of their round and get none.
    """

    leaves: Leaves
    reduce: Literal["sum", "gather"] = "sum"
    increment: bool = True


Schema = dict[str, Part]


def at_rank(schema: Schema, rank: int) -> Schema:
    """The schema as a client of LoRA rank ``rank`` sends it."""
    return {
        name: replace(part, leaves={key: leaf.at_rank(rank) for key, leaf in part.leaves.items()})
        for name, part in schema.items()
    }


def count_values(schema: Schema) -> int:
    """Number of values in a payload."""
    return sum(leaf.size for part in schema.values() for leaf in part.leaves.values())


@dataclass(frozen=True)
class Spec:
    """What planning must know of a task: shapes, sizes and arithmetic, no tensors.

    Parameters
    ----------
    trainable : leaves that training may change, named as in the exported checkpoint.
    model_parameters : parameters of the whole model, the trainable ones included.
    base_bytes : bytes of the resident frozen weights.
    forward_flops, backward_flops : per sample (row of at most ``max_tokens``), backward as the adapter needs it.
    activation_bytes : kept for the backward pass, per sample.
    output : one sample's output (logits or predictions); ``None`` where its size is not fixed.
    bases : frozen weights under LoRA, module -> (d_out, d_in), for methods that change the base.
    lora_scale : alpha / r, the factor of B A (one for every client, whatever its rank).
    max_rank : LoRA rank that the leaves are sized for; 0 without LoRA.
    inference_bytes : working memory of a forward pass without gradients, per sample.
    tokens : of a sample as it is charged; 1 where samples have none.
    assumptions : sentences for the reader of a plan.
    """

    trainable: Leaves
    model_parameters: int
    base_bytes: int
    forward_flops: float
    backward_flops: float
    activation_bytes: float
    output: Leaf | None = None
    bases: dict[str, tuple[int, int]] = field(default_factory=dict)
    lora_scale: float = 1.0
    max_rank: int = 0
    inference_bytes: float = 0.0
    tokens: int = 1
    assumptions: tuple[str, ...] = ()

    @cached_property
    def trainable_parameters(self) -> int:
        """Number of trainable values."""
        return sum(leaf.size for leaf in self.trainable.values())


@dataclass(frozen=True)
class Population:
    """The clients of a job before any round, ``[N]`` each: samples held, LoRA rank, device class (index)."""

    samples: Ints
    rank: Ints
    device: Ints

    def __len__(self) -> int:
        return len(self.samples)


@dataclass(frozen=True)
class Cohort:
    """The clients of one round, ``[C]`` each.

    ``weight`` is the aggregation weight before normalisation, ``steps`` the local steps that each will make,
    ``rows`` the samples that those steps touch (ragged last batches counted exactly), ``last_round`` the round whose
    broadcast the client heard last (-1: only the initial delivery), ``site`` the serving site.
    """

    round: int
    ids: Ints
    weight: Floats
    samples: Ints
    steps: Ints
    rows: Ints
    rank: Ints
    device: Ints
    last_round: Ints
    site: Ints

    def __len__(self) -> int:
        return len(self.ids)

    def take(self, index: Any) -> Cohort:
        """Sub-cohort of the given positions."""
        fields = {name: value[index] for name, value in vars(self).items() if name != "round"}
        return Cohort(round=self.round, **fields)


@dataclass(frozen=True)
class Phase:
    """One turn of a round, ``[C]`` each: receive ``down_bits``, compute ``flops``, send ``up_bits``."""

    down_bits: Floats
    flops: Floats
    up_bits: Floats


@dataclass(frozen=True)
class Work:
    """What a method asks of each client in a round. ``memory_bytes [C]`` is the peak while training.

    ``touched_bytes [C]`` is the memory traffic of the computation, for the roofline. ``up_values [C]`` counts the real
    values of the reply, at each client's rank; ``None`` where the server needs more than their sum.
    """

    phases: tuple[Phase, ...]
    memory_bytes: Floats
    touched_bytes: Floats
    server_flops: float = 0.0
    base_bits: float = 0.0
    up_values: Floats | None = None

    @property
    def up_bits(self) -> Floats:
        """Uplink bits of all phases, ``[C]``."""
        return np.sum([phase.up_bits for phase in self.phases], axis=0)

    @property
    def down_bits(self) -> Floats:
        """Downlink bits of all phases, ``[C]``."""
        return np.sum([phase.down_bits for phase in self.phases], axis=0)


@dataclass(frozen=True)
class Compute:
    """What the devices make of the work: ``seconds [P, C]`` and ``joules [P, C]`` per phase, ``peak_bytes [C]``.

    ``fits [C]``: the work fits the device's memory; ``powered [C]``: the battery can pay for it. ``idle_w [C]`` is what
    the device draws while it waits in the round.
    """

    seconds: Floats
    joules: Floats
    peak_bytes: Floats
    fits: Bools
    powered: Bools
    idle_w: Floats


# Why an update counts (0) or does not. Strings in records; small integers in arrays.
STATUSES = (
    "delivered", "missed_broadcast", "outage", "deadline", "memory", "battery", "radio_link_failure", "refused",
    "quorum", "access",
)  # fmt: skip
STATUS = {name: code for code, name in enumerate(STATUSES)}


@dataclass(frozen=True)
class AirNoise:
    """Noise on the estimate of a weighted sum, value by value, for symbols of unit power; ``[B]`` per block.

    The receiver adds ``nu (scale_b n + gaussian_b n')``, where ``nu`` is the signalled normaliser: a client's largest
    root mean square of weight x value.

    Parameters
    ----------
    law : of ``n``: "gaussian" (standard normal), or "alpha_stable" (symmetric, characteristic function
        ``exp(-|t|^alpha)``; ``alpha = 2`` is Gaussian with variance 2).
    alpha : tail index, in (1, 2]; without a meaning for the Gaussian law.
    scale : factor of ``n``, >= 0.
    gaussian : standard deviation of a Gaussian part on top, >= 0; ``None``: no such part.
    """

    law: Literal["gaussian", "alpha_stable"]
    alpha: float
    scale: Floats
    gaussian: Floats | None = None


@dataclass(frozen=True)
class Delivery:
    """What the network made of a round: linear, and known before the training that it concerns.

    ``coefficient [C, B]`` is each link's factor (0 or 1 on digital links, B = 1; per block of ``core.blocks`` where
    updates are summed in the air, with ``noise`` on the sum and ``up_symbols [C]`` analog symbols sent; both ``None``
    on digital links), ``status [C]`` an index into
    :data:`STATUSES`. ``downlink_s``, ``compute_s``, ``uplink_s``, ``wait_s`` ``[C]`` are each client's parts (NaN where
    it never got that far); ``finish_s [C]`` when its update was in; ``round_s`` when the round ended.
    ``radio_j [C]``, ``compute_j [C]`` are joules, ``radio_parts_j`` by what they are for (``setup``:
    connecting and waiting for grants, ``air``: power while receiving and sending, ``bits``: what each bit adds,
    ``tail``); ``*_sent_bits [C]`` bits that went on the air, lost ones included;
    ``airtime`` the client-seconds on the air; ``radio_last_s [C]`` when each radio was last used,
    in seconds of the round (``-inf``: not at all; ``None``: the network has no radio to keep awake).
    ``access_s [C]`` seconds of its parts that a client spent connecting. What a network with a radio adds: ``cell [C]``
    the serving cell, ``position_m [C, 2]`` where the clients were when the round began, ``up_bps [C]`` the uplink rate
    with the whole carrier, ``block_s [C]`` uplink resource blocks x seconds used, ``carrier_block_s`` what there was of
    them in the cells that were used, ``down_air_bits`` bits on the air where one transmission serves many (``None``:
    all of ``down_sent_bits``), ``gnb_j`` energy of the base stations, ``handovers`` made, ``remembered`` what its
    scheduler remembers of the cohort (``[C]`` each), ``shortfall`` why it could not keep the deadline, ``qos`` what
    background traffic gets, a table per flow.
    """

    coefficient: Floats
    status: Ints
    downlink_s: Floats
    compute_s: Floats
    uplink_s: Floats
    finish_s: Floats
    round_s: float
    radio_j: Floats
    compute_j: Floats
    down_sent_bits: Floats
    up_sent_bits: Floats
    sinr_db: Floats
    server_s: float = 0.0
    server_j: float = 0.0
    airtime: float = 0.0
    radio_last_s: Floats | None = None
    access_s: Floats | None = None
    cell: Ints | None = None
    position_m: Floats | None = None
    up_bps: Floats | None = None
    block_s: Floats | None = None
    carrier_block_s: float = 0.0
    down_air_bits: float | None = None
    gnb_j: float = 0.0
    handovers: int = 0
    remembered: Mapping[str, Floats] = field(default_factory=dict)
    shortfall: str = ""
    qos: tuple[dict[str, Any], ...] = ()
    radio_parts_j: Mapping[str, Floats] = field(default_factory=dict)
    noise: AirNoise | None = None
    up_symbols: Floats | None = None

    def take(self, index: Any) -> Delivery:
        """What concerns the given positions of the cohort; figures of the whole round stay what they are."""
        own: dict[str, Any] = {name: v[index] for name, v in vars(self).items() if isinstance(v, np.ndarray)}
        for name in ("remembered", "radio_parts_j"):
            own[name] = {key: value[index] for key, value in getattr(self, name).items()}
        return replace(self, **own)

    @property
    def heard(self) -> Bools:
        """``[C]``: the update counts."""
        return self.status == STATUS["delivered"]

    @property
    def got_broadcast(self) -> Bools:
        """``[C]``: the client received the round's message."""
        return ~np.isnan(self.downlink_s)

    @property
    def trained(self) -> Bools:
        """``[C]``: the client received the message and did the work, whether or not it was heard."""
        never = np.isin(self.status, [STATUS[s] for s in ("missed_broadcast", "memory", "battery", "refused")])
        return ~never & self.got_broadcast


@dataclass(frozen=True)
class World:
    """The simulated world between rounds: clock, batteries, positions, who heard what. Part of the checkpoint.

    ``battery_j [N]`` (inf: mains), ``position_m [N, 2]`` relative to the site, ``last_round [N]``,
    ``base_bits [rounds so far]`` the size of each round's change to the base model.
    ``averages`` holds what schedulers and mobility remember, ``[N]`` each (NaN: never met); ``radio_until_s [N]`` the
    clock when a client's radio was used last (``-inf``: never), so that tails and set-ups are not charged twice.
    """

    round: int
    clock_s: float
    battery_j: Floats
    position_m: Floats
    last_round: Ints
    base_bits: Floats
    averages: Mapping[str, Floats] = field(default_factory=dict)
    radio_until_s: Floats | None = None

    def radio_idle_s(self, ids: Ints) -> Floats:
        """Seconds since each client's radio was used last, ``[C]``; infinite where it never was."""
        if self.radio_until_s is None:
            return np.full(len(ids), np.inf)
        return self.clock_s - self.radio_until_s[ids]

    def after(self, cohort: Cohort, delivery: Delivery, base_bits: float) -> World:
        """The world once the round is over: time has passed, energy is spent, who heard the broadcast is noted."""
        battery = self.battery_j.copy()
        battery[cohort.ids] = np.maximum(battery[cohort.ids] - delivery.radio_j - delivery.compute_j, 0.0)
        last = self.last_round.copy()
        last[cohort.ids[delivery.got_broadcast]] = self.round
        position = self.position_m
        if delivery.position_m is not None:
            position = position.copy()
            position[cohort.ids] = delivery.position_m
        return replace(
            self,
            round=self.round + 1,
            clock_s=self.clock_s + delivery.round_s,
            battery_j=battery,
            position_m=position,
            averages=self._averages_after(cohort, delivery),
            last_round=last,
            base_bits=np.append(self.base_bits, base_bits),
            radio_until_s=self._radio_after(cohort, delivery),
        )

    def remembered(self, ids: Ints, names: Mapping[str, float], owner: str) -> dict[str, Floats]:
        """What ``owner`` remembers of clients, ``[C]`` each; ``names`` with the values of those it never met."""
        unknown = np.full(len(self.last_round), np.nan)
        found = {name: self.averages.get(f"{owner}.{name}", unknown)[ids] for name in names}
        return {name: np.where(np.isnan(values), names[name], values) for name, values in found.items()}

    def _averages_after(self, cohort: Cohort, delivery: Delivery) -> Mapping[str, Floats]:
        averages = dict(self.averages)
        for name, values in delivery.remembered.items():
            kept = averages.get(name)
            averages[name] = np.full(len(self.last_round), np.nan) if kept is None else kept.copy()
            averages[name][cohort.ids] = values
        return averages

    def _radio_after(self, cohort: Cohort, delivery: Delivery) -> Floats | None:
        if delivery.radio_last_s is None:
            return self.radio_until_s
        never = np.full(len(self.last_round), -np.inf)
        until = never if self.radio_until_s is None else self.radio_until_s.copy()
        until[cohort.ids] = np.maximum(until[cohort.ids], self.clock_s + delivery.radio_last_s)
        return until


@dataclass
class Message:
    """What the server sends: ``shared`` parts to all, ``own`` parts ``[C, ...]`` to each, changes to the base model.

    The downlink schema counts both; an own part is charged to the client that it is for.

    ``base`` lists every base change so far as ``{module: (A [R, d_in], B [d_out, R])}``, the oldest first; a resident
    model applies those it has not applied yet.
    """

    shared: dict[str, dict[str, Any]]
    own: dict[str, dict[str, Any]] | None = None
    base: list[dict[str, tuple[Any, Any]]] = field(default_factory=list)


@dataclass
class Replies:
    """What came back: ``parts`` by name, ``{leaf: [...]}`` for sums, ``{leaf: [H, ...]}`` gathered from ``H`` heard.

    ``weight [H]`` are normalised weights of the gathered clients, ``position [H]`` their places in the cohort,
    ``rank [H]`` their LoRA ranks; ``loss [C]`` the mean local training loss (NaN where a client did not train);
    ``dropped`` the ids whose reply was not finite.
    """

    parts: dict[str, dict[str, Any]]
    weight: Floats
    position: Ints
    rank: Ints
    loss: Floats
    dropped: list[int] = field(default_factory=list)

    def __len__(self) -> int:
        return len(self.position)


@dataclass(frozen=True)
class RoundRecord:
    """One line of ``rounds.jsonl``. Units are in the names; sums are over the cohort.

    ``wall_s`` is the only field that two equal runs do not share.

    Parameters
    ----------
    round : number of the round, from 0.
    sim_time_s : simulated time at the end of the round, from the start of the run.
    round_s : how long the round took.
    compute_s, uplink_s, downlink_s : parts of the critical path: of the client that ended the round.
    server_s : aggregation, the server's own training, and the way to the cloud and back.
    uplink_bits, downlink_bits : bits that went on the air, lost ones included.
    energy_j : what clients and server spent, the sum of the three entries below.
    energy_compute_j : the clients' computing, waiting included.
    energy_radio_j : the clients' radios.
    energy_server_j : the server.
    clients : clients asked.
    delivered : updates that counted.
    status : number of clients by what became of them.
    lost : ids of the clients whose update did not count, by the reason.
    train_loss : mean local training loss of those heard, by aggregation weight.
    wall_s : real time on this machine.
    energy_gnb_j : what the base stations spent on the round's downlink, not part of ``energy_j``.
    prb_use : share of the uplink's resource blocks, in the cells with clients, that the round used; else absent.
    handovers : changes of the serving cell during the round.
    shortfall : why the scheduler could not keep the deadline, where it can tell.
    qos : what the background traffic gets without and with the round's transfers, a table per flow; absent without.
    uplink_symbols : analog symbols of sums in the air; absent on digital links.
    cloud_s, cloud_bits : to the cloud and back, part of ``server_s``; absent without a cloud.
    eval : held-out metrics; absent where the round was not evaluated.
    """

    round: int
    sim_time_s: float
    round_s: float
    compute_s: float
    uplink_s: float
    downlink_s: float
    server_s: float
    uplink_bits: float
    downlink_bits: float
    energy_j: float
    energy_compute_j: float
    energy_radio_j: float
    energy_server_j: float
    clients: int
    delivered: int
    status: dict[str, int]
    lost: dict[str, list[int]]
    train_loss: float | None
    wall_s: float
    energy_gnb_j: float = 0.0
    prb_use: float | None = None
    handovers: int = 0
    shortfall: str | None = None
    qos: list[dict[str, Any]] | None = None
    uplink_symbols: float | None = None
    cloud_s: float | None = None
    cloud_bits: float | None = None
    eval: dict[str, float] | None = None

    def to_dict(self) -> dict[str, Any]:
        """Plain dictionary, ``None`` fields left out."""
        return {key: value for key, value in vars(self).items() if value is not None}


class Wire(Protocol):
    """How payloads are encoded, as a method needs it for planning: the job's transforms, seen from outside."""

    def up_bits(self, schema: Schema) -> int:
        """Exact uplink bits of one client's payload."""
        ...

    def down_bits(self, schema: Schema) -> int:
        """Exact downlink bits of one broadcast."""
        ...
