"""Fast fading of drawn TR 38.901 links: rays, slot by slot, for the large-scale state that they were drawn with."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from copy import copy
from dataclasses import dataclass
from typing import Any

import numpy as np

from fedwave.core.keys import Key
from fedwave.core.types import Floats, Ints
from fedwave.wireless.reference.backend import require_sionna, seeded
from fedwave.wireless.reference.carrier import Carrier
from fedwave.wireless.reference.fading import Sampling, block_power

_PER_USER = ("ut_loc", "ut_orientations", "in_state", "in_car")
_PER_CELL = ("bs_loc", "bs_orientations")
_PER_LINK = "bs_virtual_loc"


@dataclass(frozen=True)
class Drawn:
    """Links of users and cells whose large-scale parameters are drawn.

    Parameters
    ----------
    model : makes a channel model of Sionna without a topology.
    topology : arguments of ``set_topology``, a batch of one.
    los, parameters : line of sight ``[1, S, U]`` and large-scale parameters (``LSP``) of that topology.
    """

    model: Callable[[], Any]
    topology: Mapping[str, Any]
    los: Any
    parameters: Any

    def link(self, user: int, cell: int, velocity_m_s: Floats) -> Any:
        """Sionna's model of one link alone, with the parameters drawn for it."""
        import torch

        u, s = [user], [cell]
        one = {name: value[:, u] for name, value in self.topology.items() if name in _PER_USER}
        one |= {name: value[:, s] for name, value in self.topology.items() if name in _PER_CELL}
        if _PER_LINK in self.topology:
            one[_PER_LINK] = self.topology[_PER_LINK][:, s][:, :, u]
        velocity = torch.as_tensor(velocity_m_s, dtype=torch.float32).reshape(1, 1, 3)
        model = self.model()
        model.set_topology(los=self.los[:, s][:, :, u], ut_velocities=velocity, **one)
        model._lsp = copy(self.parameters)  # Sionna has no public way to set what was drawn before
        for name, value in vars(self.parameters).items():
            setattr(model._lsp, name, value[:, s][:, :, u])
        return model


@dataclass(frozen=True)
class Rays:
    """The small-scale channel of some users to their cells: a :class:`~fedwave.wireless.reference.fading.Channel`.

    Power relative to ``coupling_db``, which is a mean over draws of the rays: the mean over time is not exactly 1.

    Parameters
    ----------
    drawn : all links.
    user, cell : ``[U]`` which of them.
    coupling_db : ``[U]`` mean power of each.
    speed_m_s : ``[U]``, in a direction that is drawn.
    """

    drawn: Drawn
    user: Ints
    cell: Ints
    coupling_db: Floats
    speed_m_s: Floats

    def gains(
        self, key: Key, users: Ints, carrier: Carrier, *, first: int, slots: int, fidelity: str, spacing: int = 1
    ) -> Floats:
        """See :meth:`Channel.gains`; ``users`` are places in ``user``. Each link has its own stream of ``key``."""
        torch = require_sionna(fidelity)
        sampling = Sampling.of(carrier, first, slots, spacing)
        heading = 2.0 * np.pi * key.fold("heading").uniform(self.user)[:, 0]
        out = np.empty((slots, carrier.prbs, len(users)), dtype=np.float32)
        with torch.no_grad():
            for column, place in enumerate(users):
                user, cell = int(self.user[place]), int(self.cell[place])
                direction = np.array([np.cos(heading[place]), np.sin(heading[place]), 0.0])
                with seeded(key.fold("rays", user, cell, first)):
                    model = self.drawn.link(user, cell, self.speed_m_s[place] * direction)
                    a, tau = model(sampling.steps, 1.0 / sampling.step_s)
                power = block_power(a[0, 0, :, 0, 0][:, :, sampling.rows], tau[0, 0, 0], carrier)
                out[:, :, column] = power * 10.0 ** (self.coupling_db[place] / -10.0)
        return out
