"""fedwave's geometry next to Sionna's system-level TR 38.901 model: functions that return the measured differences.

Sionna ships parameter tables of TR 38.901 V16.1 and V19.2. Path loss, line of sight and shadow fading are the same in
both (and in V17, which fedwave follows); V16.1 is used, because delay spreads and reflective glass changed after V17.
Sionna puts c = 299,792,458 m/s into breakpoint distances where TR 38.901 has 3.0e8 m/s: up to 0.006 dB past them.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np
import torch
from sionna.phy import config
from sionna.phy.channel.tr38901 import PanelArray
from sionna.phy.channel.tr38901.antenna import AntennaElement
from sionna.phy.channel.tr38901.inh_scenario import InHScenario
from sionna.phy.channel.tr38901.lsp import LSPGenerator
from sionna.phy.channel.tr38901.rma_scenario import RMaScenario
from sionna.phy.channel.tr38901.uma_scenario import UMaScenario
from sionna.phy.channel.tr38901.umi_scenario import UMiScenario
from sionna.sys.metrics import geometry_sinr_db

from fedwave.core.keys import Key
from fedwave.wireless import channel
from fedwave.wireless.geometry import spreads
from fedwave.wireless.geometry.drop import drop
from fedwave.wireless.geometry.largescale import couple, line_of_sight
from fedwave.wireless.geometry.scene import Scene
from fedwave.wireless.geometry.shadowing import normal_map
from fedwave.wireless.geometry.topology import Layout

VERSION = "16.1"
CARRIER_GHZ = 3.5
NEAR_M, FAR_M = 10.0, {"UMa": 5_000.0, "UMi": 5_000.0, "RMa": 10_000.0, "InH": 150.0}
USER_HEIGHT_M = {"UMa": (1.5, 12.9), "UMi": (1.5, 22.5), "RMa": (1.0, 10.0), "InH": (1.0, 2.0)}
SITE_HEIGHT_M = {"UMa": 25.0, "UMi": 10.0, "RMa": 35.0, "InH": 3.0}
QUANTILES = (5, 50, 95)


def scenario_of(name: str, carrier_ghz: float, version: str = VERSION):
    """Sionna's scenario with one omnidirectional element at either end, double precision."""
    carrier_hz = carrier_ghz * 1e9
    panel = PanelArray(
        num_rows_per_panel=1,
        num_cols_per_panel=1,
        polarization="single",
        polarization_type="V",
        antenna_pattern="omni",
        carrier_frequency=carrier_hz,
        precision="double",
    )
    common = dict(ut_array=panel, bs_array=panel, direction="downlink", precision="double", spec_version=version)
    if name == "RMa":
        return RMaScenario(carrier_hz, **common)
    if name == "InH":
        return InHScenario(carrier_hz, "mixed", **common)
    return {"UMa": UMaScenario, "UMi": UMiScenario}[name](carrier_hz, "low", **common)


def set_users(scenario, position_m, height_m, displacement_m, h_bs_m, *, indoor, los=None, depth_m=None) -> None:
    """Users at ``position_m [B, n, 2]``; each site is where its copy nearest to the user stands, ``[B, n, S, 2]``."""
    batch, count, sites = displacement_m.shape[:3]
    copy = np.moveaxis(position_m[:, :, None] - displacement_m, 2, 1)
    high = np.full((batch, sites, count, 1), h_bs_m)
    zeros = torch.zeros
    scenario.set_topology(
        ut_loc=torch.tensor(np.concatenate([position_m, height_m[..., None]], axis=-1)),
        bs_loc=torch.tensor(np.concatenate([copy, high], axis=-1)[:, :, 0]),
        ut_orientations=zeros(batch, count, 3),
        bs_orientations=zeros(batch, sites, 3),
        ut_velocities=zeros(batch, count, 3),
        in_state=torch.tensor(indoor),
        los="random" if los is None else los if isinstance(los, bool) else torch.tensor(np.moveaxis(los, 2, 1)),
        bs_virtual_loc=torch.tensor(np.concatenate([copy, high], axis=-1)),
        bs_site_ids=torch.arange(sites),
        **({} if depth_m is None else {"distance_2d_in": torch.tensor(depth_m)}),
    )


def path_loss_difference_db(name: str, los: bool, version: str = VERSION, users: int = 20_000) -> float:
    """Largest difference of basic path loss over users at random distances (uniform in lg d), heights and azimuths."""
    rng, batch = np.random.default_rng(1), users // 200
    distance = np.exp(rng.uniform(np.log(NEAR_M), np.log(FAR_M[name]), (batch, 200)))
    angle = rng.uniform(0, 2 * np.pi, (batch, 200))
    position = distance[..., None] * np.stack([np.cos(angle), np.sin(angle)], axis=-1)
    height = rng.uniform(*USER_HEIGHT_M[name], (batch, 200))
    scenario = scenario_of(name, CARRIER_GHZ, version)
    indoor = np.full((batch, 200), name == "InH")
    set_users(scenario, position, height, position[:, :, None], SITE_HEIGHT_M[name], indoor=indoor, los=los)
    theirs = scenario.basic_pathloss[:, 0].numpy()
    ours = channel.path_loss_db(name, los, distance, CARRIER_GHZ, SITE_HEIGHT_M[name], height)
    return float(np.abs(ours - theirs).max())


def los_probability_difference(name: str, users: int = 20_000) -> float:
    """Largest difference of the probability of line of sight (UMa and UMi users up to 22.5 m high)."""
    rng, batch = np.random.default_rng(2), users // 200
    distance = rng.uniform(1.0, FAR_M[name] / 5, (batch, 200))
    position = np.stack([distance, np.zeros_like(distance)], axis=-1)
    height = rng.uniform(1.5, 22.5 if name in ("UMa", "UMi") else 2.0, (batch, 200))
    scenario = scenario_of(name, CARRIER_GHZ)
    indoor = np.full((batch, 200), name == "InH")
    set_users(scenario, position, height, position[:, :, None], SITE_HEIGHT_M[name], indoor=indoor)
    theirs = scenario.los_probability[:, 0].numpy()
    return float(np.abs(channel.los_probability(name, distance, height) - theirs).max())


def element_gain_db(scenario, layout: Layout, h_bs_m: float):
    """Sionna's 38.901 element towards its own departure angles, ``[B, S, sectors, n]``, no tilt."""
    element = AntennaElement("38.901", precision="double")
    azimuth = torch.deg2rad(scenario.los_aod)[:, :, None] - torch.deg2rad(torch.tensor(layout.boresight_deg))[:, None]
    azimuth = torch.remainder(azimuth + torch.pi, 2 * torch.pi) - torch.pi
    zenith = torch.deg2rad(scenario.los_zod)[:, :, None].expand_as(azimuth)
    vertical, horizontal = element.field(zenith, azimuth)
    return 10 * torch.log10(vertical**2 + horizontal**2)


@dataclass(frozen=True)
class Coupling:
    """Coupling loss ``[C, cells]`` in dB of the same users, ours and Sionna's."""

    ours_db: np.ndarray
    theirs_db: np.ndarray

    def difference_db(self) -> float:
        """Largest absolute difference."""
        return float(np.abs(self.ours_db - self.theirs_db).max())

    def sinr_difference_db(self) -> dict[int, float]:
        """Ours minus Sionna's percentiles of the full-load downlink SINR: 49 dBm on 20 MHz, noise figure 9 dB."""
        ours, theirs = (geometry(loss) for loss in (self.ours_db, self.theirs_db))
        return {q: float(np.percentile(ours, q) - np.percentile(theirs, q)) for q in QUANTILES}


def geometry(loss_db: np.ndarray) -> np.ndarray:
    """Sionna's geometry SINR in dB from coupling losses ``[C, cells]``."""
    return geometry_sinr_db(torch.tensor(loss_db), 49.0, 20e6, 9.0).numpy()


def scene_of(name: str, carrier_ghz: float, **fields) -> Scene:
    """The scenario's 19 sites with three sectors, wrapped around, distances of TR 38.901 Tables 7.2-1 and 7.2-3."""
    distance, least = {"UMa": (500.0, 35.0), "UMi": (200.0, 10.0), "RMa": (1_732.0, 35.0)}[name]
    layout = Layout(inter_site_distance_m=distance)
    return Scene(name, carrier_ghz, layout, h_bs_m=SITE_HEIGHT_M[name], min_distance_m=least, **fields)


def same_state(name: str, batch: int = 20, count: int = 200) -> Coupling:
    """Users outdoors, the same positions and the same line of sight, no shadow fading."""
    scene, key = scene_of(name, CARRIER_GHZ, indoor_share=0.0, shadowing=False), Key(3)
    ids = np.arange(batch * count)
    position = scene.layout.place(ids, key, min_distance_m=scene.min_distance_m)
    los = line_of_sight(scene, position, ids, key)
    scenario, shape = scenario_of(name, CARRIER_GHZ), (batch, count)
    set_users(
        scenario,
        position.reshape(*shape, 2),
        np.full(shape, scene.h_ut_m),
        scene.layout.displacement_m(position).reshape(*shape, -1, 2),
        scene.h_bs_m,
        indoor=np.zeros(shape, dtype=bool),
        los=los.reshape(*shape, -1),
    )
    theirs = scenario.basic_pathloss[:, :, None] - element_gain_db(scenario, scene.layout, scene.h_bs_m)
    theirs = theirs.permute(0, 3, 1, 2).reshape(len(ids), -1).numpy()
    return Coupling(-10 * np.log10(couple(scene, position, ids, key).gain.astype(float)), theirs)


def own_draws(name: str, batch: int = 20, count: int = 150) -> Coupling:
    """The same positions, walls and depths; either side draws line of sight and shadow fading (both correlated).

    6.5 GHz, because below 6 GHz Sionna takes the simplified penetration of TR 38.901 Table 7.4.3-3 for UMa and UMi.
    """
    scene, losses = scene_of(name, 6.5, indoor_share=0.5 if name == "RMa" else 0.8), []
    scene = replace(scene, in_car_share=1.0) if name == "RMa" else scene
    config.seed = 1
    scenario = scenario_of(name, scene.carrier_ghz)
    generator = LSPGenerator(scenario)
    for draw in range(batch):  # a batch each, to bound memory and because our maps are one realisation a key
        ids = np.arange(draw * count, (draw + 1) * count)
        position = scene.layout.place(ids, Key(9), min_distance_m=scene.min_distance_m)
        users = drop(scene, ids, Key(draw))
        set_users(
            scenario,
            position[None],
            users.height_m[None].astype(float),
            scene.layout.displacement_m(position)[None],
            scene.h_bs_m,
            indoor=users.indoor[None],
            depth_m=users.depth_m[None].astype(float),
        )
        generator.topology_updated_callback()
        large = generator()
        loss = large.pathloss - 10 * torch.log10(large.sf)
        theirs = loss[:, :, None] - element_gain_db(scenario, scene.layout, scene.h_bs_m)
        theirs = theirs.permute(0, 3, 1, 2).reshape(count, -1).numpy()
        losses.append((-10 * np.log10(couple(scene, position, ids, Key(draw)).gain.astype(float)), theirs))
    ours, theirs = (np.concatenate(column) for column in zip(*losses, strict=True))
    return Coupling(ours, theirs)


def shadow_autocorrelation(name: str = "UMa", state: str = "NLoS", seeds: int = 12) -> dict[float, tuple[float, float]]:
    """Correlation of shadow fading at multiples of the correlation distance: ours, Sionna's (of its own draws)."""
    multiples, correlation_m = np.array([0.0, 0.25, 0.5, 1.0, 2.0, 3.0]), spreads.shadow_correlation_m(name, state)
    scenario, draws = scenario_of(name, CARRIER_GHZ), 4_000
    line = np.stack([100.0 + multiples * correlation_m, np.zeros_like(multiples)], axis=-1)
    position = np.tile(line, (draws, 1, 1))
    shape = position.shape[:2]
    indoor = np.full(shape, state == "O2I")
    config.seed = 2
    set_users(scenario, position, np.full(shape, 1.5), position[:, :, None], SITE_HEIGHT_M[name], indoor=indoor,
              los=state == "LoS")  # fmt: skip
    generator = LSPGenerator(scenario)
    generator.topology_updated_callback()
    theirs = 10 * np.log10(generator().sf[:, 0].numpy())
    theirs = (theirs[:, :1] * theirs).mean(axis=0) / (theirs[:, 0] ** 2).mean()

    rng, ours = np.random.default_rng(0), []
    for seed in range(seeds):
        field = normal_map(Key(seed), correlation_m, 2_600.0)
        here, angle = rng.random((50_000, 1, 2)) * field.period_m, 2 * np.pi * rng.random((50_000, 1))
        step = multiples * correlation_m
        there = here + np.stack([step * np.cos(angle), step * np.sin(angle)], axis=-1)
        read = [field.values[field.index(points.reshape(-1, 2))].reshape(points.shape[:2]) for points in (here, there)]
        ours.append((read[0] * read[1]).mean(axis=0))
    return {float(m): (float(a), float(b)) for m, a, b in zip(multiples, np.mean(ours, axis=0), theirs, strict=True)}
