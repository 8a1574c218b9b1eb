"""The goodput tables from Sionna: every state of a link, averaged over draws of fading."""

from __future__ import annotations

import json
from collections.abc import Iterator
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass
from itertools import product
from pathlib import Path
from typing import Any

import numpy as np

from fedwave.core.types import Floats
from fedwave.wireless.phy.build import adapt, draws
from fedwave.wireless.phy.build.codes import BLER_TARGET, codes
from fedwave.wireless.phy.goodput import RESOLUTION_BITS, RESOLUTION_GAIN, table_file

DIRECTIONS, MCS_TABLES, PROFILES = ("down", "up"), (1, 2, 3), ("nlos", "los")
BLOCKS = (1, 2, 3, 4, 6, 8, 11, 16, 23, 32, 45, 64, 90, 128, 185, 273)
SPREADS_S = (10e-9, 30e-9, 100e-9, 300e-9, 1000e-9)
INNOVATIONS = (0.0, 0.1, 0.2, 0.35, 0.5, 0.7, 0.87, 1.0)
USERS = (1, 4, 16, 64)
GAIN_EVERY = 5  # SINRs of the gain among all
GAIN_BLOCKS = BLOCKS[::3]
SEED = 1
_STORED = {"first": np.int16, "harq": np.int16, "gain": np.int16}

State = tuple[int, int, int, int]  # profile, blocks, delay spread, innovation
Pair = tuple[str, int]  # direction, MCS table


def states() -> list[State]:
    """Indices of every state that a table has an entry for."""
    return list(product(range(len(PROFILES)), range(len(BLOCKS)), range(len(SPREADS_S)), range(len(INNOVATIONS))))


@dataclass(frozen=True)
class Entry:
    """A state of a link: averages, and payload per slot ``[U, H]`` of the best of ``USERS``, where tabulated."""

    averages: adapt.Averages
    best_bits: Floats | None


def entry(state: State, count: int) -> dict[Pair, Entry]:
    """One state over ``count`` draws, for each direction and MCS table."""
    profile, blocks, spread, innovation = state
    rho = float(np.sqrt(1.0 - INNOVATIONS[innovation] ** 2))
    band = SPREADS_S[spread] * BLOCKS[blocks] * draws.PRB_HZ
    curves = draws.attempts(PROFILES[profile], band, BLOCKS[blocks], rho, count, SEED)

    def one(direction: str, table: int) -> Entry:
        code = codes(direction, table, BLOCKS[blocks])
        best = None
        if BLOCKS[blocks] in GAIN_BLOCKS:
            best = np.stack([adapt.averages(curves, code, users, GAIN_EVERY).harq_bits for users in USERS])
        return Entry(adapt.averages(curves, code), best)

    return {pair: one(*pair) for pair in product(DIRECTIONS, MCS_TABLES)}


def entries(count: int, workers: int) -> Iterator[tuple[State, dict[Pair, Entry]]]:
    """Each state and its entry, as they come."""
    every = states()
    if workers == 1:
        yield from ((state, entry(state, count)) for state in every)
        return
    with ProcessPoolExecutor(workers) as pool:
        yield from zip(every, pool.map(entry, every, [count] * len(every), chunksize=4), strict=True)


class Tables:
    """Arrays that entries are put into, and the files that they become."""

    def __init__(self) -> None:
        shape = (len(PROFILES), len(BLOCKS), len(SPREADS_S), len(INNOVATIONS))
        grid = adapt.sinr_grid_db()
        pairs = list(product(DIRECTIONS, MCS_TABLES))
        self.first = {pair: np.zeros((*shape, len(grid))) for pair in pairs}
        self.harq = {pair: np.zeros((*shape, len(grid))) for pair in pairs}
        self.extension = {pair: np.zeros(shape) for pair in pairs}
        few = (shape[0], len(GAIN_BLOCKS), *shape[2:], len(USERS), len(grid[::GAIN_EVERY]))
        self.gain = {pair: np.ones(few) for pair in pairs}

    def put(self, state: State, found: dict[Pair, Entry]) -> None:
        """Enter one state."""
        grid, blocks = adapt.sinr_grid_db(), BLOCKS[state[1]]
        for pair, one in found.items():
            self.first[pair][state] = _rising(one.averages.first_bits) / blocks
            self.harq[pair][state] = _rising(one.averages.harq_bits) / blocks
            ours = one.averages.extended >= 0.5
            self.extension[pair][state] = grid[len(ours) - 1 - int(np.argmax(ours[::-1]))] if ours.any() else grid[0]
            if one.best_bits is not None:
                place = (state[0], GAIN_BLOCKS.index(blocks), *state[2:])
                self.gain[pair][place] = _gain(one.best_bits)

    def write(self, folder: Path, info: dict[str, Any]) -> list[Path]:
        """One file per direction and MCS table; returns them."""
        grid, paths = adapt.sinr_grid_db(), []
        for pair in self.first:
            path = folder / table_file(*pair)
            arrays = {
                "sinr_db": grid,
                "blocks": np.array(BLOCKS),
                "delay_spread_s": np.array(SPREADS_S),
                "innovation": np.array(INNOVATIONS),
                "first": _differences(self.first[pair]),
                "harq": _differences(self.harq[pair]),
                "extension_db": self.extension[pair],
                "gain_db": grid[::GAIN_EVERY],
                "gain_blocks": np.array(GAIN_BLOCKS),
                "users": np.array(USERS),
                "gain": np.rint(self.gain[pair] / RESOLUTION_GAIN),
            }
            stored = {name: value.astype(_STORED.get(name, np.float32)) for name, value in arrays.items()}
            np.savez_compressed(path, info=json.dumps(info | {"direction": pair[0], "mcs_table": pair[1]}), **stored)
            paths.append(path)
        return paths


def info(count: int) -> dict[str, Any]:
    """What a table says of its making."""
    from importlib.metadata import version

    return {
        "sionna": version("sionna-no-rt"),
        "draws": count,
        "seed": SEED,
        "bler_target": BLER_TARGET,
        "profiles": {name: f"TDL-{draws.PROFILES[name]}" for name in PROFILES},
        "attempts": draws.ATTEMPTS,
    }


def _rising(bits: Floats) -> Floats:
    """Goodput cannot fall with the SINR; what falls in it is the noise of the draws."""
    return np.maximum.accumulate(bits)


def _differences(bits: Floats) -> Floats:
    """From one SINR to the next, in ``RESOLUTION_BITS``: they compress to half of what the values do."""
    return np.diff(np.rint(bits / RESOLUTION_BITS), axis=-1, prepend=0.0)


def _gain(best_bits: Floats) -> Floats:
    """Best of several over one, ``[U, S]``; at SINRs at which one carries next to nothing, as at the lowest other."""
    one = best_bits[0]
    carries = one > 1e-3 * one.max()
    ratio = np.where(carries, best_bits / np.maximum(one, 1e-12), 0.0)
    ratio = np.where(carries, ratio, ratio[:, [int(np.argmax(carries))]])
    return np.maximum.accumulate(np.maximum(ratio, 1.0), axis=0)  # what falls with the users is noise of the draws
