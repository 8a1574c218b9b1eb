"""What a sum in the air occupies, and how its time is spent: the update, and what makes the sum possible."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from fedwave.core.errors import Refused

SYMBOLS_PER_SLOT = 14  # normal cyclic prefix, TS 38.211 Table 4.3.2-1; a slot's fourteenth contains its prefix


@dataclass(frozen=True)
class AirGrid:
    """What a sum occupies.

    Parameters
    ----------
    prbs : resource blocks.
    subcarrier_khz : their spacing.
    uplink_share : share of the time that is uplink.
    coherence_s : how long channels hold; infinite where nothing moves.
    """

    prbs: int
    subcarrier_khz: int
    uplink_share: float
    coherence_s: float

    @property
    def subcarriers(self) -> int:
        """12 of each resource block."""
        return 12 * self.prbs

    @property
    def symbol_s(self) -> float:
        """Time that one uplink OFDM symbol takes, its cyclic prefix and what is not uplink included."""
        return 1e-3 * 15.0 / self.subcarrier_khz / SYMBOLS_PER_SLOT / self.uplink_share


@dataclass(frozen=True)
class Overhead:
    """What comes on top of the update.

    Parameters
    ----------
    blocks : groups of subcarriers, each with a channel of its own.
    dmrs_symbols : demodulation pilots, of the 14 symbols of a slot.
    devices_per_pilot : devices whose channels one symbol sounds.
    csi_bits : report of one block's gain.
    normaliser_bits, timing_bits : once for each device.
    told_bits : each number that everybody is told: the normaliser, and the denoising factor of each block.
    bits_per_re : digital control bits on a subcarrier and symbol.
    """

    blocks: int
    dmrs_symbols: int
    devices_per_pilot: int
    csi_bits: int
    normaliser_bits: int
    timing_bits: int
    told_bits: int
    bits_per_re: float


@dataclass(frozen=True)
class AirTime:
    """How a sum of ``devices`` in one cell spends its OFDM symbols.

    Two values go on every subcarrier and symbol that is no pilot, whatever the number of devices: ``data``. What grows
    with the number is ``measured``, spent once in every coherence period: sounding each device's channel, reporting it
    and being told what to do about it; and ``once``, normaliser and timing advance (what the base station says is
    charged at the uplink's share of the time too).

    Raises
    ------
    Refused : no time is left between two measurements, or there are more blocks than subcarriers.
    """

    values: float
    devices: int
    grid: AirGrid
    overhead: Overhead

    def __post_init__(self) -> None:
        """Refuse what the carrier cannot carry."""
        blocks, grid = self.overhead.blocks, self.grid
        if blocks > grid.subcarriers:
            raise Refused(
                f"uplink.blocks: {blocks} blocks need as many subcarriers, and {grid.subcarriers} are free for the sum"
            )
        if self._room < 1.0:
            most = most_devices(grid, self.overhead)
            fewer = f"fewer clients (sampler.cohort; here at most {most} in a cell)" if most else "slower clients"
            raise Refused(
                f"network.uplink: to measure {self.devices} channels takes {self.measured * grid.symbol_s * 1e3:.3g} ms"
                f" and they hold for {grid.coherence_s * 1e3:.3g} ms; take {fewer} or fewer uplink.blocks"
            )

    @property
    def data(self) -> float:
        """Symbols of the update, demodulation pilots included."""
        carrying = 1.0 - self.overhead.dmrs_symbols / SYMBOLS_PER_SLOT
        return float(np.ceil(self.values / (2.0 * self.grid.subcarriers)) / carrying)

    @property
    def measured(self) -> float:
        """Symbols of one measurement of all channels."""
        return float(_measured(np.array([self.devices]), self.grid, self.overhead)[0])

    @property
    def once(self) -> float:
        """Symbols of normaliser and timing advance."""
        bits = self.devices * (self.overhead.normaliser_bits + self.overhead.timing_bits)
        return float(np.ceil(bits / (self.overhead.bits_per_re * self.grid.subcarriers)))

    @property
    def _room(self) -> float:
        """Symbols of the update in one coherence period."""
        return self.grid.coherence_s / self.grid.symbol_s - self.measured

    @property
    def periods(self) -> int:
        """Coherence periods of the sum, at least 1."""
        return max(1, int(np.ceil(self.data / self._room)))

    def seconds(self, periods: int) -> float:
        """From the first pilot to the last symbol, measured ``periods`` times; 0 where there is nothing to send."""
        if self.values <= 0 or self.devices == 0:
            return 0.0
        return (self.data + periods * self.measured + self.once) * self.grid.symbol_s

    def control_bits(self, periods: int) -> float:
        """Digital bits that each device sends: a report for each block and measurement, the normaliser."""
        if self.values <= 0:
            return 0.0
        return float(periods * self.overhead.blocks * self.overhead.csi_bits + self.overhead.normaliser_bits)


def most_devices(grid: AirGrid, overhead: Overhead) -> int | None:
    """Devices of a cell whose channels can be measured before they change, with a symbol left; ``None``: any number."""
    room = grid.coherence_s / grid.symbol_s - 1.0
    if not np.isfinite(room):
        return None
    devices = np.arange(1, max(int(room * overhead.devices_per_pilot), 0) + 1)
    return int((_measured(devices, grid, overhead) <= room).sum())


def _measured(devices: np.ndarray, grid: AirGrid, overhead: Overhead) -> np.ndarray:
    carried = overhead.bits_per_re * grid.subcarriers
    pilots = np.ceil(devices / overhead.devices_per_pilot)
    reports = np.ceil(devices * overhead.blocks * overhead.csi_bits / carried)
    return pilots + reports + np.ceil((1 + overhead.blocks) * overhead.told_bits / carried)
