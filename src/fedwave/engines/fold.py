"""From the replies of groups to the reply of a round: weighted sums in float64, gathered rows in cohort order."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np

from fedwave.core import tree
from fedwave.core.blocks import along, starts
from fedwave.core.keys import Key
from fedwave.core.noise import air_noise
from fedwave.core.types import AirNoise, Bools, Cohort, Floats, Ints, Replies, Schema

if TYPE_CHECKING:
    from torch import Tensor


PIECE = 2**16  # values


class Fold:
    """Running weighted sums in float64 and gathered rows of one round's replies.

    Value j of the sums, on block b of B (:mod:`~fedwave.core.blocks`; B = 1 on digital links), becomes

        ``(sum_k c_kb w_k x_kj + nu noise_j) / sum_k c_kb w_k``,  ``nu = max_k RMS_j(w_k x_kj)``

    with one normaliser ``nu`` for the round, so that nobody exceeds unit symbol power and the scales of all clients
    agree. Where nobody is on a block its values are 0: an update that changes nothing. A client whose reply is not
    finite is left out with its weight; in the air no server can see that, so it is the client that notices and stays
    silent.

    Parameters
    ----------
    schema : parts of a reply.
    clients : size of the cohort, C.
    blocks : B.
    noise : what the air adds; ``None`` on digital links.
    """

    def __init__(self, schema: Schema, clients: int, blocks: int = 1, noise: AirNoise | None = None) -> None:
        self.schema, self.blocks, self.noise = schema, blocks, noise
        self.sums: dict[str, tree.Tree] = {name: {} for name, part in schema.items() if part.reduce == "sum"}
        self.rows: dict[str, list[tree.Tree]] = {name: [] for name, part in schema.items() if part.reduce == "gather"}
        self.loss = np.full(clients, np.nan)
        self.weights = np.zeros((clients, blocks))
        self.order: list[int] = []
        self.dropped: list[int] = []
        self.normaliser = 0.0
        self._start = {(part, leaf): number for part, leaf, number in starts(schema)}

    def add(self, positions: Ints, cohort: Cohort, coefficient: Floats, parts: Any, loss: Tensor) -> None:
        """Take in one group, ``coefficient [K, B]``; rows with coefficient 0 leave no trace, whatever is in them.

        Which clients make a group, and in which order, depends on how they were packed; in float64 that moves a sum by
        less than a float32 can tell.
        """
        import torch

        self.loss[positions] = loss.detach().double().cpu().numpy()
        weight = cohort.weight[positions][:, None] * coefficient.reshape(len(positions), self.blocks)
        counts = np.flatnonzero((weight > 0).any(axis=1))
        counts = counts[np.argsort(positions[counts], kind="stable")]
        self.weights[positions[counts]] = weight[counts]
        self.order += [int(p) for p in positions[counts]]
        picked, everyone = torch.as_tensor(counts), len(counts) == len(positions)
        factor = torch.as_tensor(weight if everyone else weight[counts])
        squares, values = np.zeros(len(counts)), 0
        for name, leaves in parts.items():
            if name in self.rows:
                self.rows[name].append({leaf: x[picked].clone() for leaf, x in leaves.items()})
                continue
            for leaf, x in leaves.items():
                flat = (x if everyone else x[picked]).flatten(1)
                term = self._weighed(flat, factor, self._start[name, leaf]).view(x.shape[1:])
                self.sums[name][leaf] = self.sums[name][leaf] + term if leaf in self.sums[name] else term
                if self.noise is not None:
                    squares += flat.double().square().sum(1).numpy()
                    values += flat.shape[1]
        if values:
            rms = cohort.weight[positions if everyone else positions[counts]] * np.sqrt(squares / values)
            self.normaliser = max(self.normaliser, float(rms.max(initial=0.0)))

    def merge(self, other: Fold, positions: Ints) -> None:
        """Take in what another fold of the same schema and blocks has of the clients at ``positions``, its cohort."""
        self.loss[positions], self.weights[positions] = other.loss, other.weights
        self.order += positions[np.array(other.order, dtype=np.int64)].tolist()
        self.dropped += other.dropped
        self.normaliser = max(self.normaliser, other.normaliser)
        for name, sums in other.sums.items():
            self.sums[name] |= {leaf: self.sums[name].get(leaf, 0.0) + x for leaf, x in sums.items()}
        for name, groups in other.rows.items():
            self.rows[name] += groups

    def close(self, cohort: Cohort, key: Key | None = None) -> Replies:
        """Weighted means of the sums; gathered rows in cohort order, whatever order they trained in.

        Noise is a function of ``key`` and a value's place in the payload, so it does not depend on the groups.
        """
        import torch

        position = np.array(sorted(self.order), dtype=np.int64)
        place = np.argsort(np.array(self.order, dtype=np.int64), kind="stable")
        own = self.weights.sum(axis=1)
        total = own.sum()
        parts = {name: self._mean(name, leaves, key) for name, leaves in self.sums.items() if total}
        for name, groups in self.rows.items():
            if groups:
                parts[name] = {n: torch.cat([g[n] for g in groups])[torch.as_tensor(place)] for n in groups[0]}
        return Replies(
            parts=parts,
            weight=own[position] / total if total else np.zeros(0),
            position=position,
            rank=cohort.rank[position],
            loss=self.loss,
            dropped=sorted(self.dropped),
        )

    def _mean(self, part: str, sums: tree.Tree, key: Key | None) -> tree.Tree:
        """Noise on the sums, then the division by what each block carried."""
        import torch

        totals = np.ascontiguousarray(self.weights.T).sum(axis=1)
        mean = {}
        for leaf, total in sums.items():
            flat, start = total.flatten(), self._start[part, leaf]
            if self.noise is not None and key is not None:
                noise = air_noise(self.noise, len(flat), start, key.fold("noise", part, leaf))
                flat = flat + self.normaliser * torch.as_tensor(noise)
            carried = torch.as_tensor(totals if self.blocks == 1 else along(totals, start, len(flat)))
            mean[leaf] = torch.where(carried > 0.0, flat / carried, 0.0).view(total.shape).float()
        return mean

    def _weighed(self, flat: Tensor, factor: Tensor, start: int) -> Tensor:
        """``sum_k factor[k, block of j] flat[k, j]``, in pieces whose float64 copies a processor's cache holds.

        Where blocks differ it is one client at a time.
        """
        import torch

        term = flat.new_zeros(flat.shape[1], dtype=torch.float64)
        if self.blocks == 1:
            width = max(1, PIECE // max(1, len(flat)))
            for piece, out in zip(flat.split(width, dim=1), term.split(width), strict=True):
                torch.mv(piece.double().t(), factor[:, 0], out=out)
            return term
        for own, row in zip(factor.numpy(), flat, strict=True):
            term.addcmul_(row.double(), torch.as_tensor(along(own, start, len(row))))
        return term


def finite(loss: Tensor, parts: dict[str, tree.Tree]) -> Bools:
    """Whose loss and values are all finite, ``[K]``."""
    import torch

    values = [loss.cpu().float(), *(value for leaves in parts.values() for value in leaves.values())]
    if torch.stack([value.sum(dtype=torch.float32) for value in values]).isfinite().all():
        return np.ones(len(loss), dtype=bool)  # a sum hands on what is not finite
    rows = [value.reshape(len(value), -1) for value in values]
    bounds = [bound for value in rows for bound in (value.amax(1), value.amin(1))]  # both hand on what is not a number
    return torch.stack([bound.float() for bound in bounds]).isfinite().all(0).numpy()
