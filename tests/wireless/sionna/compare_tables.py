"""The goodput tables next to Sionna's own link adaptation: functions that return the measured differences.

The reference draws channels from Sionna's TDL (of sinusoids, moving at a speed: the second of two looks is a report's
age later), and has Sionna choose the MCS on the first (``InnerLoopLinkAdaptation`` over ``EESM``) and say on the second
which share of the blocks fails (``PHYAbstraction``). Delay spreads, bandwidths, speeds and SINR lie between the points
of the tables. Where the report is old, the back-off is the fixed point of ``OuterLoopLinkAdaptation``: the least at
which blocks fail at the target rate, over the slots in which an MCS met it on what was seen.

Sionna has no error rates below MCS 3 of table 1 and MCS 2 of table 2; ``extended`` puts ours where its tables are
empty and changes nothing else. ``as_is`` is Sionna untouched.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, replace
from functools import lru_cache
from itertools import product
from typing import Any

import numpy as np
import torch
from sionna.phy import config
from sionna.phy.channel.tr38901 import TDL
from sionna.phy.nr.utils import MCSDecoderNR, TransportBlockNR, calculate_tb_size
from sionna.sys import EESM, InnerLoopLinkAdaptation, OuterLoopLinkAdaptation, PHYAbstraction

from fedwave.core.types import Floats
from fedwave.wireless import link
from fedwave.wireless.phy import goodput
from fedwave.wireless.phy.build import adapt, codes, draws

PDSCH = 1
CARRIER_HZ, PRB_HZ, REPORT_S = 3.5e9, 360e3, 5e-3
TARGET = 0.1
STEP_DB, LOWEST = 0.65, -30  # of mean SINR, and of the back-off; few are on the tables' grid of 0.5 dB
PLACES = range(-13, 54, 4)  # -8.45 to 33.15 dB
_VALUES = 1 << 24  # worked on at once
_FLOOR = 0.1  # bits per resource element: below it relative differences say nothing


@dataclass(frozen=True)
class Case:
    """A link of the reference: ``draws`` independent channels."""

    direction: str
    table: int
    profile: str
    blocks: int
    delay_spread_s: float
    speed_kmh: float
    draws: int
    seed: int = 1

    @property
    def correlation(self) -> float:
        """With the channel that was seen."""
        return float(goodput.csi_correlation(self.speed_kmh / 3.6, CARRIER_HZ, REPORT_S, self.profile == "los"))

    @property
    def elements(self) -> int:
        """That carry data in a slot and block."""
        return codes.RE_PER_PRB[self.direction]

    @property
    def looks(self) -> int:
        """Frequencies per block: SINR values that Sionna averages over; several within a coherence bandwidth."""
        wanted = 12.0 * self.delay_spread_s * PRB_HZ
        return next(k for k in (1, 2, 3, 4, 6, 12) if k == 12 or (k >= wanted and k * self.blocks >= 12))


@lru_cache(maxsize=2)
def _abstraction(extended: bool) -> tuple[Any, EESM]:
    """Sionna's error rates and effective SINR; extended: with curves where there were none."""
    if not extended:
        phy = PHYAbstraction(device="cpu")
        return phy, phy._sinr_effective_fun
    phy = PHYAbstraction(snr_db_interp_min_max_delta=(codes.LOW_DB, codes.HIGH_DB + 0.01, codes.STEP_DB), device="cpu")
    eesm = phy._sinr_effective_fun
    beta = torch.zeros(3, 29)
    for table in (1, 2, 3):
        curves, first = codes._curves(table)
        phy._bler_table_interp[PDSCH, table - 1, :first] = torch.as_tensor(curves[:first], dtype=torch.float32)
        ours = torch.as_tensor(codes.betas(table), dtype=torch.float32)
        beta[table - 1, : len(ours)] = ours
    eesm._beta_tensor = beta
    eesm._beta_table = {"index": {table: beta[table - 1].tolist() for table in (1, 2, 3)}}
    return phy, eesm


class _Sized(TransportBlockNR):
    """Transport blocks of a number of elements, whatever the number of SINR values that stand for them."""

    def __init__(self, elements: int) -> None:
        super().__init__(device="cpu")
        self.elements = elements

    def transport_block_size(self, modulation_order: Any, target_coderate: Any, num_coded_bits: Any, **kwargs: Any):
        return super().transport_block_size(
            modulation_order, target_coderate, modulation_order * self.elements, **kwargs
        )


class Reference:
    """Sionna's decisions for a case."""

    def __init__(self, case: Case, extended: bool = True) -> None:
        self.case = case
        self.phy, self.eesm = _abstraction(extended)
        self.sized = _Sized(case.elements * case.blocks)
        self.phy._transport_block_info = self.sized.transport_block_size
        self.illa = InnerLoopLinkAdaptation(self.phy, bler_target=TARGET, device="cpu")
        self.first_mcs = codes._curves(case.table)[1]
        self.power = self._channel()  # [looks at the channel, N, F]

    def _channel(self) -> torch.Tensor:
        """Power gains of the band, as seen and at the transmission, drawn by Sionna."""
        case = self.case
        config.seed = case.seed
        model = TDL(
            {"nlos": "C", "los": "D"}[case.profile],
            case.delay_spread_s,
            CARRIER_HZ,
            min_speed=case.speed_kmh / 3.6,
            device="cpu",
        )
        paths, delays = model(case.draws, 1 if case.speed_kmh == 0.0 else 2, 1.0 / REPORT_S)
        count = case.looks * case.blocks
        frequency = ((torch.arange(count) + 0.5) / count - 0.5) * case.blocks * PRB_HZ
        turn = -2.0 * torch.pi * delays[0, 0, 0][:, None] * frequency
        response = torch.einsum("bpt,pf->tbf", paths[:, 0, 0, 0, 0], torch.polar(torch.ones_like(turn), turn))
        return response.abs() ** 2

    def choose(self, sinr: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """MCS ``[N]``, and whether it meets the target, on SINR ``[N, F]``."""
        mcs = torch.cat([self._adapt(part) for part in torch.split(sinr, max(1, _VALUES // (29 * sinr.shape[1])))])
        return mcs, self.error(sinr, mcs) <= TARGET

    def _adapt(self, sinr: torch.Tensor) -> torch.Tensor:
        return self.illa(sinr=sinr[:, None, :, None, None], mcs_table_index=self.case.table, mcs_category=PDSCH)[:, 0]

    def error(self, sinr: torch.Tensor, mcs: torch.Tensor) -> torch.Tensor:
        """Transport block error rate ``[N]``."""
        kwargs = {"mcs_table_index": self.case.table, "mcs_category": PDSCH}
        return self.phy(mcs[:, None], sinr=sinr[:, None, :, None, None], **kwargs)[3][:, 0].clamp(0.0, 1.0)

    def bits(self, mcs: torch.Tensor) -> torch.Tensor:
        """Transport block sizes ``[N]``."""
        order, rate = MCSDecoderNR(device="cpu")(mcs[:, None], self.case.table, PDSCH)
        return self.sized.transport_block_size(order, rate, order)[0][:, 0]

    @lru_cache(maxsize=None)  # noqa: B019 -- of one reference, which is short-lived
    def seen(self, place: int) -> tuple[torch.Tensor, torch.Tensor]:
        """What link adaptation makes of the channel that it sees, at a mean SINR of ``place`` steps."""
        return self.choose(10.0 ** (place * STEP_DB / 10.0) * self.power[0])

    def sent(self, place: int, back_off: int) -> tuple[torch.Tensor, torch.Tensor]:
        """Bits received per element ``[N]`` and error rate, where the MCS is that of an SINR some steps lower."""
        mcs = self.seen(max(place - back_off, LOWEST))[0]
        error = self.error(10.0 ** (place * STEP_DB / 10.0) * self.power[-1], mcs)
        return mcs, error

    def adapted(self, place: int) -> list[tuple[float, torch.Tensor, torch.Tensor]]:
        """Weight, MCS and error rate ``[N]``: two back-offs between which blocks fail at the target rate."""
        met = self.seen(place)[1]

        def rate(error: torch.Tensor) -> float:
            return float(error[met].mean()) if met.any() else 0.0

        now = self.sent(place, 0)
        if len(self.power) == 1 or rate(now[1]) <= TARGET:
            return [(1.0, *now)]
        low, high = 0, round(20.0 / STEP_DB)  # Sionna's offset_max
        tried = {low: now, high: self.sent(place, high)}
        while high - low > 1:
            middle = (low + high) // 2
            tried[middle] = self.sent(place, middle)
            low, high = (low, middle) if rate(tried[middle][1]) <= TARGET else (middle, high)
        above, below = rate(tried[low][1]), rate(tried[high][1])
        part = float(np.clip((above - TARGET) / max(above - below, 1e-9), 0.0, 1.0))
        return [(1.0 - part, *tried[low]), (part, *tried[high])]

    def goodput(self, place: int) -> tuple[float, float, float]:
        """Bits per element: mean, its standard error, and the share that MCS without a curve in Sionna carry.

        A back-off solved for on the same draws moves with their error rate: ``slope`` bits per unit of it, which the
        standard error counts. ``E |h|^2 = 1`` is known, then and now: what the draws' mean power is off by is taken out
        by regression.
        """
        met = self.seen(place)[1].numpy()
        received, failed, means = np.zeros(self.case.draws), np.zeros(self.case.draws), []
        ours = 0.0
        for weight, mcs, error in self.adapted(place):
            each = (self.bits(mcs) * (1.0 - error)).numpy().astype(float) / self.sized.elements
            wrong = error.numpy() * met / max(met.mean(), 1e-12)
            means.append((each.mean(), wrong.mean()))
            received += weight * each
            failed += weight * wrong
            ours += weight * float(each[mcs.numpy() < self.first_mcs].sum())
        slope = 0.0
        if len(means) == 2:
            slope = (means[0][0] - means[1][0]) / max(means[0][1] - means[1][1], 1e-9)
        level = received - slope * failed
        power = self.power.mean(dim=2).numpy().astype(float).T - 1.0
        effect = np.linalg.lstsq(power - power.mean(axis=0), level - level.mean(), rcond=None)[0]
        rest = level - level.mean() - (power - power.mean(axis=0)) @ effect
        mean = received.mean() - power.mean(axis=0) @ effect
        return float(mean), float(rest.std() / np.sqrt(len(rest))), ours / max(float(received.sum()), 1e-12)


def table_goodput(case: Case, sinr_db: Floats) -> Floats:
    """Ours in bits per element, without combining (Sionna has none)."""
    bits = goodput.slot_bits(
        sinr_db,
        case.blocks,
        direction=case.direction,
        mcs_table=case.table,
        profile=case.profile,
        delay_spread_s=case.delay_spread_s,
        csi_correlation=case.correlation,
        harq=False,
    )
    return bits / (case.elements * case.blocks)


def outer_loop(case: Case, place: int, slots: int = 600, links: int = 300, step_db: float = 1.0) -> float:
    """Bits per element with Sionna's ``OuterLoopLinkAdaptation`` itself, slot after slot, each a draw of its own.

    What it is told: the effective SINR of the channel seen, for the MCS in use; whether the block got through, in slots
    in which an MCS met the target on what was seen. The first third of the slots is for its offset to settle.
    """
    reference, gamma = Reference(case), 10.0 ** (place * STEP_DB / 10.0)
    generator = torch.Generator().manual_seed(case.seed)
    counts = torch.full((links,), case.elements * case.blocks, dtype=torch.int32)
    olla = OuterLoopLinkAdaptation(reference.phy, links, TARGET, delta_up=step_db, device="cpu")
    kwargs = {"mcs_table_index": case.table, "mcs_category": PDSCH}
    _, met = reference.seen(place)
    highest = len(link.mcs_table(case.table)[0])
    by_mcs = torch.arange(highest, dtype=torch.int32)
    seen, now = (  # effective SINR [N, MCS]
        torch.cat([
            reference.eesm(
                part[:, None, :, None, None].expand(-1, 1, -1, highest, 1),
                mcs_index=by_mcs.expand(len(part), -1),
                mcs_table_index=case.table,
            )
            for part in torch.split(gamma * power, max(1, _VALUES // (highest * power.shape[1])))
        ])
        for power in (reference.power[0], reference.power[-1])
    )  # fmt: skip
    mcs, told, sums = torch.zeros(links, dtype=torch.int64), torch.full((links,), -1, dtype=torch.int32), []
    for slot in range(slots):
        draw = torch.randint(case.draws, (links,), generator=generator)
        mcs = olla(counts, told, seen[draw, mcs], **kwargs).long()
        error = reference.phy(mcs.int(), sinr_eff=now[draw, mcs], num_allocated_re=counts, **kwargs)[3].clamp(0.0, 1.0)
        through = (torch.rand(links, generator=generator) >= error).int()
        told = torch.where(met[draw], through, -1)
        if slot >= slots // 3:
            sums.append((reference.bits(mcs.int()) * (1.0 - error)).double().mean())
    return float(torch.stack(sums).mean()) / reference.sized.elements


def awgn_over_rating(direction: str = "down", table: int = 2, prbs: int = 51, delay_spread_s: float = 300e-9) -> Floats:
    """By how much a table without fading over-rates, at 5, 10, 15, 20 and 25 dB: wideband, no line of sight."""
    flat = draws.curves(np.ones((adapt.SAME_STATE, 1), dtype=complex))[None]
    at = np.array([5.0, 10.0, 15.0, 20.0, 25.0])
    plain = np.interp(at, adapt.sinr_grid_db(), adapt.averages(flat, codes.codes(direction, table, prbs)).first_bits)
    kwargs = {"direction": direction, "mcs_table": table, "profile": "nlos", "delay_spread_s": delay_spread_s}
    return plain / goodput.slot_bits(at, prbs, harq=False, **kwargs) - 1.0


def transport_block_differences() -> tuple[int, int]:
    """How many transport block sizes differ from Sionna's, of how many: grants, slots, MCS, layers, scaling."""
    different = total = 0
    for table, symbols, dmrs, overhead, layers, scaling in product(
        (1, 2, 3), (2, 5, 9, 12, 14), (6, 12, 24), (0, 6, 18), (1, 2, 3, 4), (1.0, 0.5, 0.25)
    ):
        if 12 * symbols <= dmrs + overhead:
            continue
        qm, rate = link.mcs_table(table)
        prbs, mcs = (each.ravel() for each in np.meshgrid(np.arange(1, 274), np.arange(len(qm)), indexing="ij"))
        ours = link.transport_block_bits(prbs, symbols, dmrs, overhead, qm[mcs], rate[mcs], layers, scaling)
        theirs = calculate_tb_size(
            torch.as_tensor(qm[mcs]),
            torch.as_tensor(rate[mcs] / 1024.0),
            num_prbs=torch.as_tensor(prbs),
            num_ofdm_symbols=symbols,
            num_dmrs_per_prb=dmrs,
            num_ov=overhead,
            num_layers=layers,
            tb_scaling=scaling,
            return_cw_length=False,
        )[0].numpy()
        different += int((ours != theirs).sum())
        total += len(ours)
    return different, total


def cases(count: int, seed: int = 1, effort: int = 1_500_000) -> list[Case]:
    """Links at random between the points of the tables: half of them with an old report (up to 60 km/h)."""
    rng, out = np.random.default_rng(seed), []
    for number in range(count):
        case = Case(
            direction=("down", "up")[number % 2],
            table=1 + number // 2 % 2,
            profile=("nlos", "los")[number // 4 % 2],
            blocks=int(np.exp(rng.uniform(0.0, np.log(273.0)))),
            delay_spread_s=float(np.exp(rng.uniform(np.log(12e-9), np.log(900e-9)))),
            speed_kmh=float(rng.uniform(1.0, 60.0)) if number // 8 % 2 else 0.0,
            draws=1_000,
            seed=seed + number,
        )
        values = case.looks * case.blocks * (1 if case.speed_kmh == 0.0 else 4)
        out.append(replace(case, draws=int(np.clip(effort // values, 1_000, 20_000))))
    return out


def rows(case: Case, places: Iterable[int] = PLACES, extended: bool = True) -> list[dict[str, Any]]:
    """A row per SINR: goodput of either side in bits per element, error bar, share of the extension."""
    reference, sinr_db = Reference(case, extended), STEP_DB * np.array(list(places))
    out = []
    with torch.no_grad():
        for place, sinr, mine in zip(places, sinr_db, table_goodput(case, sinr_db), strict=True):
            theirs, error_bar, share = reference.goodput(place)
            out.append({
                "case": case, "sinr_db": float(sinr), "ours": float(mine), "theirs": theirs,
                "error_bar": error_bar, "extension": share,
            })  # fmt: skip
    return out


def untouched(case: Case, places: Iterable[int] = PLACES) -> list[dict[str, Any]]:
    """Rows against Sionna as it is, with the share of the bits that the extension carries in the other reference."""
    share = [row["extension"] for row in rows(case, places)]
    plain = rows(case, places, extended=False)
    return [row | {"extension": each} for row, each in zip(plain, share, strict=True)]


def summary(found: list[dict[str, Any]]) -> dict[str, float]:
    """Relative differences where most bits rest on Sionna's curves, and absolute ones of the extension, apart."""
    ours, theirs, bar, share = (
        np.array([row[key] for row in found]) for key in ("ours", "theirs", "error_bar", "extension")
    )
    own = (share < 0.5) & (theirs >= _FLOOR)
    relative = np.abs(ours[own] / theirs[own] - 1.0)
    rest = np.abs(ours - theirs)[~own]
    return {
        "points": int(own.sum()),
        "mean": float(relative.mean()),
        "p99": float(np.quantile(relative, 0.99)),
        "bias": float((ours[own] / theirs[own] - 1.0).mean()),
        "error_bar": float((bar[own] / theirs[own]).mean()),
        "extension_points": int((~own).sum()),
        "extension_mean": float(rest.mean()) if len(rest) else 0.0,
        "extension_largest": float(rest.max()) if len(rest) else 0.0,
    }
