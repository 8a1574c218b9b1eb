"""What a network is: it places clients, and turns the bits of a round into a :class:`Delivery`. It sees no tensor."""

from __future__ import annotations

from abc import ABC, abstractmethod

from fedwave.core.keys import Key
from fedwave.core.types import Cohort, Compute, Delivery, Floats, Work, World
from fedwave.wireless.base_delivery import BaseDelivery


class Network(ABC):
    """Base of every network."""

    @abstractmethod
    def place(self, n: int, key: Key) -> Floats:
        """Positions ``[N, 2]`` in metres relative to the site, client i's from its own stream of ``key``."""

    @abstractmethod
    def deliver(
        self,
        world: World,
        cohort: Cohort,
        work: Work,
        compute: Compute,
        key: Key,
        *,
        static_key: Key,
        deadline_s: float | None,
        server_s: float = 0.0,
        server_j: float = 0.0,
    ) -> Delivery:
        """Seconds, joules and fate of every client of the cohort.

        Parameters
        ----------
        key : the round's key; ``static_key`` the scenario's, for draws that stay (shadowing, indoor, a trace's offset).
        deadline_s : when the server stops waiting, from the round's start; ``None``: it does not.
        server_s, server_j : what the server adds at the round's end.
        """

    def notes(self, static_key: Key) -> list[str]:
        """Sentences about what makes this network work badly, whatever is sent over it."""
        return []

    def for_planning(self) -> Network:
        """The same network as a plan takes it: nothing heavy, nothing that must be installed first."""
        return self

    def deliver_base(self, world: World, bits: float, static_key: Key) -> BaseDelivery | None:
        """The one-time delivery of a base model of ``bits`` to everybody; ``None`` where a network does not say."""
        return None
