"""Hexagonal layouts: where the sites are, which way their sectors look, and distances with wrap-around."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property

import numpy as np

from fedwave.core.errors import BadInput
from fedwave.core.keys import Key
from fedwave.core.types import Floats, Ints

SITES = (1, 7, 19, 37)
SECTORS = {1: (0.0,), 3: (30.0, 150.0, 270.0)}  # boresights in degrees, TR 38.901 Table 7.8-1
_ATTEMPTS = 64  # a position is too near its site with probability < 0.91 (a circle in its hexagon)


@dataclass(frozen=True)
class Layout:
    """Sites on a hexagonal grid in rings around the origin; each site's area is the hexagon of points nearest to it.

    The first ring's first site lies on the x axis, so the boresights of three sectors point at corners of the hexagon.
    Cell c is sector ``c % sectors`` of site ``c // sectors``.

    With ``wrap_around`` the cluster repeats: it tiles the plane by the translations ``(rings + 1) a + rings b``, where
    a and b are neighbouring steps of the site grid, and rotations of this by 60 degrees. A displacement from site to
    user is taken to the nearest copy of the site.

    Parameters
    ----------
    sites : 1, 7, 19 or 37 (0 to 3 rings).
    sectors : 1 or 3 per site.
    inter_site_distance_m : > 0.
    wrap_around : distances on the torus; without, outer cells have less interference.

    Raises
    ------
    BadInput : another number of sites or sectors, or a distance that is not positive and finite.
    """

    sites: int = 19
    sectors: int = 3
    inter_site_distance_m: float = 500.0
    wrap_around: bool = True

    def __post_init__(self) -> None:
        """Refuse layouts that do not exist."""
        if self.sites not in SITES:
            raise BadInput(f"sites: {self.sites!r} is not a hexagonal cluster, choose one of {SITES}")
        if self.sectors not in SECTORS:
            raise BadInput(f"sectors: {self.sectors!r} per site is not modelled, choose one of {tuple(SECTORS)}")
        if not 0.0 < self.inter_site_distance_m < np.inf:
            raise BadInput(f"inter_site_distance_m: must be positive, got {self.inter_site_distance_m:g}")

    @property
    def rings(self) -> int:
        """Rings of sites around the one in the middle."""
        return SITES.index(self.sites)

    @property
    def cells(self) -> int:
        """Sectors of all sites."""
        return self.sites * self.sectors

    @property
    def boresight_deg(self) -> tuple[float, ...]:
        """Azimuth of each sector's antenna, counter-clockwise from the x axis."""
        return SECTORS[self.sectors]

    @property
    def cell_radius_m(self) -> float:
        """Farthest point of a site's hexagon, inter-site distance / sqrt(3)."""
        return self.inter_site_distance_m / 3.0**0.5

    @property
    def extent_m(self) -> float:
        """Diameter of the circle around the cluster, hexagons included."""
        return 2.0 * (self.rings * self.inter_site_distance_m + self.cell_radius_m)

    @cached_property
    def site_m(self) -> Floats:
        """Positions of the sites, ``[sites, 2]``: the middle, then ring by ring counter-clockwise."""
        step = self._directions()
        points = [np.zeros(2)]
        for ring in range(1, self.rings + 1):
            for side in range(6):
                points += [ring * step[side] + i * step[(side + 2) % 6] for i in range(ring)]
        return np.array(points)

    @cached_property
    def wrap_m(self) -> Floats:
        """Two translations, 60 degrees apart, that carry the cluster to neighbouring copies, ``[2, 2]``."""
        a, b, c = self._directions()[:3]
        return np.array([(self.rings + 1) * a + self.rings * b, (self.rings + 1) * b + self.rings * c])

    @property
    def wrap_deg(self) -> float:
        """Azimuth of the first translation."""
        return float(np.degrees(np.arctan2(self.wrap_m[0, 1], self.wrap_m[0, 0])))

    def _directions(self) -> Floats:
        angle = np.pi / 3.0 * np.arange(6)
        return self.inter_site_distance_m * np.stack([np.cos(angle), np.sin(angle)], axis=1)

    def displacement_m(self, position_m: Floats) -> Floats:
        """From each site's nearest copy to each user, ``[C, sites, 2]``, O(1) per pair.

        In coordinates of the two translations, the nearest point of a triangular lattice follows by rounding the three
        cube coordinates (which sum to zero) and correcting the one that was rounded most.
        """
        offset = np.asarray(position_m, dtype=float)[:, None, :] - self.site_m
        return self._reduced(offset) if self.wrap_around else offset

    def fold(self, position_m: Floats) -> Floats:
        """The same positions inside the cluster's fundamental hexagon, ``[C, 2]``; unchanged without wrap-around."""
        return self._reduced(np.asarray(position_m, dtype=float)) if self.wrap_around else position_m

    def _reduced(self, offset: Floats) -> Floats:
        q, r = np.moveaxis(offset @ np.linalg.inv(self.wrap_m), -1, 0)
        cube = np.stack([q, r, -q - r])
        near = np.rint(cube)
        error = np.abs(near - cube)
        worst = error.argmax(axis=0)
        near[0] = np.where(worst == 0, -near[1] - near[2], near[0])
        near[1] = np.where(worst == 1, -near[0] - near[2], near[1])
        return offset - np.moveaxis(near[:2], 0, -1) @ self.wrap_m

    def place(self, ids: Ints, key: Key, *, min_distance_m: float) -> Floats:
        """Uniform over the sites' hexagons, at least ``min_distance_m`` from the site, ``[C, 2]`` metres.

        A site at random, then a point of its hexagon (one of three rhombi); a point that is too near is drawn again.
        Client i's position depends on the key and i alone.

        Raises
        ------
        BadInput : a circle of ``min_distance_m`` that does not fit into a hexagon.
        """
        if not 0.0 <= min_distance_m < self.inter_site_distance_m / 2.0:
            raise BadInput(
                f"min_distance_m: {min_distance_m:g} must be below half the inter-site distance, "
                f"{self.inter_site_distance_m / 2.0:g} m"
            )
        key = key.fold("placement")
        ids = np.asarray(ids, dtype=np.int64)
        site = np.minimum(key.fold("site").uniform(ids)[:, 0] * self.sites, self.sites - 1).astype(int)
        offset = self._in_hexagon(key.fold("point", 0).uniform(ids, 3))
        for attempt in range(1, _ATTEMPTS):
            near = np.flatnonzero(np.hypot(offset[:, 0], offset[:, 1]) < min_distance_m)
            if not len(near):
                break
            offset[near] = self._in_hexagon(key.fold("point", attempt).uniform(ids[near], 3))
        short = np.hypot(offset[:, 0], offset[:, 1]) < min_distance_m
        offset[short] = [min_distance_m, 0.0]  # one in 400 even for the largest circle that fits
        return self.site_m[site] + offset

    def _in_hexagon(self, u: Floats) -> Floats:
        """Uniform points of the hexagon around the origin from three uniform draws each, ``[n, 2]``."""
        angle = np.pi / 6.0 + 2.0 * np.pi / 3.0 * np.arange(4)
        corner = self.cell_radius_m * np.stack([np.cos(angle), np.sin(angle)], axis=1)
        rhombus = np.minimum(u[:, 0] * 3, 2).astype(int)
        return u[:, 1:2] * corner[rhombus] + u[:, 2:3] * corner[rhombus + 1]
