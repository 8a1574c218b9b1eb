"""TR 38.901 at system level with antennas, by Sionna: couplings of up to a thousand users at given positions."""

from __future__ import annotations

from dataclasses import dataclass, field
from functools import partial
from typing import Any

import numpy as np
from numpy.typing import ArrayLike

from fedwave.core.errors import BadInput, unknown
from fedwave.core.keys import Key
from fedwave.core.types import Bools, Floats
from fedwave.wireless.channel import SCENARIOS
from fedwave.wireless.reference.backend import DEVICE, require_sionna, seeded
from fedwave.wireless.reference.rays import Drawn

MAX_USERS = 1000  # users are correlated in pairs: memory grows with their square
MAX_LINKS = 20_000

_ANTENNAS = {"element": "38.901", "omni": "omni"}


@dataclass(frozen=True)
class SystemChannel:
    """Links of U users and S cells, ``[U, S]``.

    ``coupling_db`` : received over transmitted power, antennas included: the power of all paths, mean over draws of
    the fast fading. ``loss_db`` : path loss, shadow fading and penetration, without antennas. ``shadow_db`` : the
    shadow fading in it. ``los`` : line of sight (of the outdoor part of the path where the user is indoors).
    ``delay_spread_s`` : root mean square. ``drawn`` : what :class:`~fedwave.wireless.reference.rays.Rays` start from.
    """

    coupling_db: Floats
    loss_db: Floats
    shadow_db: Floats
    los: Bools
    delay_spread_s: Floats
    drawn: Drawn = field(repr=False)


def system_channel(
    scenario: str,
    position_m: ArrayLike,
    cell_m: ArrayLike,
    *,
    key: Key,
    carrier_ghz: float = 3.5,
    h_bs_m: float = 25.0,
    h_ut_m: ArrayLike = 1.5,
    boresight_deg: ArrayLike = 0.0,
    tilt_deg: float = 0.0,
    antenna: str = "element",
    indoor: ArrayLike = False,
    in_car: ArrayLike = False,
    o2i_model: str = "low",
    los: bool | None = None,
    offset_m: ArrayLike | None = None,
    draws: int = 16,
) -> SystemChannel:
    """Draw large-scale parameters and rays (TR 38.901 7.4, 7.5) for single-antenna users and cells.

    Below 6 GHz Sionna takes the single penetration loss of TR 38.901 Table 7.4.3-3 for UMa and UMi (20 dB and 0.5 dB
    per metre, up to 25 m), whatever ``o2i_model`` is. Cells at one place share a site's draws.

    Parameters
    ----------
    scenario : "UMa", "UMi", "RMa" or "InH" (mixed office).
    position_m : ``[U, 2]``; ``cell_m [S, 2]`` the site of each cell.
    h_ut_m, indoor, in_car : scalar or ``[U]``; cars are known to RMa only.
    boresight_deg : scalar or ``[S]``, counter-clockwise from the x axis; ``tilt_deg`` mechanical, downwards.
    antenna : of the cells: "element" (TR 38.901 Table 7.3-1, 8 dBi) or "omni"; vertical polarisation. Users: omni.
    los : force it for users outdoors; ``None``: drawn.
    offset_m : ``[U, S, 2]`` from cell to user, where that is not the difference of positions (wrap-around).
    draws : of the rays, at the same large-scale parameters.

    Raises
    ------
    BadInput : Sionna is missing, too many users or links, or shapes that do not fit.
    """
    users, cells = np.asarray(position_m, dtype=float), np.asarray(cell_m, dtype=float)
    if scenario not in SCENARIOS:
        raise unknown("scenario", scenario, SCENARIOS)
    if antenna not in _ANTENNAS:
        raise unknown("antenna", antenna, _ANTENNAS)
    for name, value in (("position_m", users), ("cell_m", cells)):
        if value.ndim != 2 or value.shape[1] != 2 or not len(value) or not np.isfinite(value).all():
            raise BadInput(f"{name}: finite values [n, 2] are needed, got shape {value.shape}")
    if len(users) > MAX_USERS or len(users) * len(cells) > MAX_LINKS:
        raise BadInput(
            f"position_m: {len(users)} users and {len(cells)} cells are too many "
            f"(at most {MAX_USERS} users and {MAX_LINKS} links)"
        )
    torch = require_sionna("system")
    with seeded(key.fold("system-channel")), torch.no_grad():
        make = partial(_model, scenario, carrier_ghz, o2i_model, _ANTENNAS[antenna])
        model = make()
        inside = indoor if scenario != "InH" else True  # as Sionna wants it: in the site's own building
        topology = _topology(users, cells, h_bs_m, h_ut_m, boresight_deg, tilt_deg, inside, offset_m)
        if scenario == "RMa":
            topology["in_car"] = _per(in_car, len(users), torch.bool)[None]
        model.set_topology(los="random" if los is None else los, **topology)
        power = torch.stack([(model(1, 1.0)[0].abs() ** 2).sum(dim=(2, 4, 5, 6))[0] for _ in range(draws)])
        # What set_topology drew; Sionna has no public reader for it.
        drawn, sight = model._lsp, model._scenario.outdoor_los.clone()
    shadow_db = -10.0 * np.log10(drawn.sf[0].double().numpy())
    return SystemChannel(
        coupling_db=10.0 * np.log10(power.mean(dim=0).double().numpy()),
        loss_db=(drawn.pathloss[0].double().numpy() + shadow_db).T,
        shadow_db=shadow_db.T,
        los=sight[0].numpy().T,
        delay_spread_s=drawn.ds[0].double().numpy().T,
        drawn=Drawn(make, topology, sight, drawn),
    )


def _model(scenario: str, carrier_ghz: float, o2i_model: str, pattern: str) -> Any:
    """Sionna's channel for a downlink between single antennas."""
    from sionna.phy.channel.tr38901 import InH, PanelArray, RMa, UMa, UMi

    def antenna(kind: str) -> Any:
        return PanelArray(
            num_rows_per_panel=1,
            num_cols_per_panel=1,
            polarization="single",
            polarization_type="V",
            antenna_pattern=kind,
            carrier_frequency=carrier_ghz * 1e9,
            device=DEVICE,
        )

    common = {"ut_array": antenna("omni"), "bs_array": antenna(pattern), "direction": "downlink", "device": DEVICE}
    if scenario == "InH":
        return InH(carrier_ghz * 1e9, indoor_scenario="mixed", **common)
    if scenario == "RMa":
        return RMa(carrier_ghz * 1e9, **common)
    return {"UMa": UMa, "UMi": UMi}[scenario](carrier_ghz * 1e9, o2i_model=o2i_model, **common)


def _topology(
    users: Floats,
    cells: Floats,
    h_bs_m: float,
    h_ut_m: ArrayLike,
    boresight_deg: ArrayLike,
    tilt_deg: float,
    indoor: ArrayLike,
    offset_m: ArrayLike | None,
) -> dict[str, Any]:
    """Arguments of ``set_topology``: one batch example, orientations in radians."""
    import torch

    def joined(*columns: ArrayLike, rows: int) -> Any:
        full = [np.broadcast_to(np.asarray(column, dtype=float).T, (rows,)) for column in columns]
        return torch.as_tensor(np.stack(full, axis=-1), dtype=torch.float32)[None]

    u, s = len(users), len(cells)
    out = {
        "ut_loc": joined(users[:, 0], users[:, 1], h_ut_m, rows=u),
        "bs_loc": joined(cells[:, 0], cells[:, 1], h_bs_m, rows=s),
        "ut_orientations": torch.zeros(1, u, 3),
        "bs_orientations": joined(np.radians(boresight_deg), np.radians(tilt_deg), 0.0, rows=s),
        "ut_velocities": torch.zeros(1, u, 3),
        "in_state": _per(indoor, u, torch.bool)[None],
        "bs_site_ids": torch.as_tensor(np.unique(cells, axis=0, return_inverse=True)[1].reshape(-1)),
    }
    if offset_m is not None:
        offset = np.asarray(offset_m, dtype=float)
        if offset.shape != (u, s, 2):
            raise BadInput(f"offset_m: shape {offset.shape} must be [users, cells, 2] = {(u, s, 2)}")
        copy = np.moveaxis(users[:, None, :] - offset, 0, 1)
        height = np.full((s, u, 1), float(h_bs_m))
        out["bs_virtual_loc"] = torch.as_tensor(np.concatenate([copy, height], axis=2), dtype=torch.float32)[None]
    return out


def _per(value: ArrayLike, count: int, dtype: Any) -> Any:
    import torch

    return torch.as_tensor(np.broadcast_to(np.asarray(value), (count,)).copy(), dtype=dtype)
