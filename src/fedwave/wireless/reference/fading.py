"""Fast fading from Sionna: power gain of every user's channel in every slot and resource block."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Protocol

import numpy as np

from fedwave.core.errors import BadInput
from fedwave.core.keys import Key
from fedwave.core.types import Floats, Ints
from fedwave.wireless.budget import sourced
from fedwave.wireless.reference.backend import DEVICE, require_sionna, seeded
from fedwave.wireless.reference.carrier import Carrier


class Channel(Protocol):
    """What the slot loop and the link level ask of a small-scale channel of some users."""

    def gains(
        self, key: Key, users: Ints, carrier: Carrier, *, first: int, slots: int, fidelity: str, spacing: int = 1
    ) -> Floats:
        """``[T, M, U]`` power gains (float32), mean 1, in the direction's slots ``first, first + spacing, ...``.

        One value a slot and block. Different ``first`` give independent pieces (Sionna cannot continue a realisation).
        """
        ...


MODELS = (*(f"{kind}-{profile}" for kind in ("TDL", "CDL") for profile in "ABCDE"), "rayleigh")


@dataclass(frozen=True)
class Fading:
    """The small-scale channel of a user, of mean power 1.

    Parameters
    ----------
    model : "TDL-A" to "TDL-E", "CDL-A" to "CDL-E" (TR 38.901 7.7), or "rayleigh": one flat coefficient, new every slot.
    delay_spread_s, speed_m_s, carrier_ghz : of the profile; not used by "rayleigh".
    branches : receive antennas combined by maximum ratio. Independent for TDL and "rayleigh", a half-wavelength row of
        isotropic antennas for CDL. The gain is their mean, since an array gain belongs in the mean SINR.
    """

    model: str = "TDL-C"
    delay_spread_s: float = sourced(100e-9, "s", "TR 38.901 Table 7.7.3-1, nominal delay spread")
    speed_m_s: float = sourced(3.0 / 3.6, "m/s", "TR 38.901 Tables 7.2-1 and 7.2-3: 3 km/h")
    carrier_ghz: float = 3.5
    branches: int = 1

    def __post_init__(self) -> None:
        if self.model not in MODELS:
            raise BadInput(f"fading model: {self.model!r} is not one of {', '.join(MODELS)}")
        if self.branches < 1:
            raise BadInput(f"branches: {self.branches} must be at least 1")

    def gains(
        self, key: Key, users: Ints, carrier: Carrier, *, first: int, slots: int, fidelity: str, spacing: int = 1
    ) -> Floats:
        """See :meth:`Channel.gains`: a user's channel depends on the key and its number alone."""
        torch = require_sionna(fidelity)
        sampling = Sampling.of(carrier, first, slots, spacing)
        out = np.empty((slots, carrier.prbs, len(users)), dtype=np.float32)
        with torch.no_grad():
            for column, user in enumerate(users):
                with seeded(key.fold("fading", int(user), first)):
                    paths, delays = _impulse_response(self, sampling)
                out[:, :, column] = block_power(paths, delays, carrier)
        return out


@dataclass(frozen=True)
class EachFading:
    """Users whose channels have different statistics.

    Parameters
    ----------
    each : ``[U]`` the fading of each user.
    ids : ``[U]`` the numbers that select their draws.
    """

    each: tuple[Fading, ...]
    ids: Ints

    def gains(
        self, key: Key, users: Ints, carrier: Carrier, *, first: int, slots: int, fidelity: str, spacing: int = 1
    ) -> Floats:
        """See :meth:`Channel.gains`; ``users`` are places in ``each``."""
        span = {"first": first, "slots": slots, "fidelity": fidelity, "spacing": spacing}
        columns = [self.each[user].gains(key, self.ids[[user]], carrier, **span) for user in users]
        return np.concatenate(columns, axis=2)


@dataclass(frozen=True)
class Sampling:
    """The direction's slots ``first, first + spacing, ...`` on the even time grid that Sionna samples on.

    ``steps`` of ``step_s`` each; slot t is at step ``rows[t]``.
    """

    steps: int
    step_s: float
    rows: Any

    @classmethod
    def of(cls, carrier: Carrier, first: int, slots: int, spacing: int) -> Sampling:
        """Every slot of the pattern where the direction's slots are not evenly spaced."""
        import torch

        start = carrier.starts_s(first + spacing * np.arange(slots))
        index = np.rint((start - start[0]) / carrier.slot_s).astype(np.int64)
        stride = int(np.gcd.reduce(index)) or 1
        return cls(int(index[-1]) // stride + 1, stride * carrier.slot_s, torch.as_tensor(index // stride))


def block_power(paths: Any, delays: Any, carrier: Carrier) -> Floats:
    """``[T, M]``: ``mean_b |sum_p a_bp(t) exp(-j 2 pi f_m tau_p)|^2`` at the centre ``f_m`` of block m.

    A block is taken as flat, which holds for delay spreads well below 1 / (5 x block width).

    Parameters
    ----------
    paths, delays : coefficients ``[B, P, T]``, seconds ``[P]``.
    """
    import torch

    frequency = torch.as_tensor((np.arange(carrier.prbs) - (carrier.prbs - 1) / 2.0) * carrier.block_hz)
    turn = (-2.0 * np.pi * delays[:, None].double() * frequency).float()
    response = torch.einsum("bpt,pm->btm", paths, torch.polar(torch.ones_like(turn), turn))
    return (response.abs() ** 2).mean(dim=0).numpy()


def _impulse_response(fading: Fading, sampling: Sampling) -> tuple[Any, Any]:
    """Coefficients ``[B, P, T]`` and delays ``[P]``."""
    if fading.model == "rayleigh":
        from sionna.phy.channel import RayleighBlockFading

        model = RayleighBlockFading(1, fading.branches, 1, 1, device=DEVICE)
        a, tau = model(batch_size=len(sampling.rows), num_time_steps=1)
        return a[:, 0, :, 0, 0, :, 0].permute(1, 2, 0), tau[0, 0, 0]
    model = _tdl(fading) if fading.model.startswith("TDL") else _cdl(fading)
    a, tau = model(1, sampling.steps, 1.0 / sampling.step_s)
    return a[0, 0, :, 0, 0][:, :, sampling.rows], tau[0, 0, 0]


def _tdl(fading: Fading) -> Any:
    from sionna.phy.channel.tr38901 import TDL

    return TDL(
        fading.model[-1],
        fading.delay_spread_s,
        fading.carrier_ghz * 1e9,
        min_speed=fading.speed_m_s,
        num_rx_ant=fading.branches,
        device=DEVICE,
    )


def _cdl(fading: Fading) -> Any:
    from sionna.phy.channel.tr38901 import CDL, PanelArray

    def row(count: int) -> Any:
        return PanelArray(
            num_rows_per_panel=1,
            num_cols_per_panel=count,
            polarization="single",
            polarization_type="V",
            antenna_pattern="omni",
            carrier_frequency=fading.carrier_ghz * 1e9,
            device=DEVICE,
        )

    return CDL(
        fading.model[-1],
        fading.delay_spread_s,
        fading.carrier_ghz * 1e9,
        row(1),
        row(fading.branches),
        "uplink",
        min_speed=fading.speed_m_s,
        max_speed=fading.speed_m_s,
        device=DEVICE,
    )
