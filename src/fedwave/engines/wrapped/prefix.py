"""The frozen-prefix activation cache: what the layers below the first trained one make of a row is computed once.

With N layers of which the last L are trained, a step costs N + L layer passes; from a row's second visit on, 2 L.
"""

from __future__ import annotations

import hashlib
import json
from contextlib import AbstractContextManager, nullcontext
from pathlib import Path
from typing import Any, Literal, cast

import numpy as np
import torch
from torch import Tensor, nn

from fedwave.core.errors import Refused
from fedwave.core.types import Ints
from fedwave.engines.wrapped.activations import Activations, Layout
from fedwave.engines.wrapped.layers import Skipped, frozen_layers, output_of, played
from fedwave.engines.wrapped.wrapped import Wrapped
from fedwave.tasks.learner import Batch, Learner

PREFIX = "prefix"  # key of the kept activations in a batch
BLOCK_TOKENS = 512
TRIAL_ROWS = 4


class PrefixLearner(Wrapped):
    """A learner whose frozen prefix is played back from a cache; in all else the learner that it wraps.

    Wrap before clients are stacked. ``batch`` looks up (and at first computes) the output of the last frozen layer, and
    forward passes over that batch skip the prefix. Embeddings still run, being look-ups. The file is named by a hash
    of the frozen weights below the cut, of the config and of the layout; weights that change in place change it.

    Parameters
    ----------
    learner : any whose model has a list of layers, trained in the last of them alone.
    folder : where the file is kept and found again by later runs.
    budget_bytes : see :class:`fedwave.engines.wrapped.activations.Activations`.
    dtype : "float32" is exact to rounding; "bfloat16" halves the file and rounds activations to 8 bits.

    Raises :class:`Refused` where the prefix is not the same at every visit: a trained leaf in it (prompt and prefix
    tuning included), dropout in training mode, rows drawn anew (augmentation), or later layers that need more of it.
    """

    def __init__(
        self, learner: Learner, folder: Path, *, budget_bytes: int, dtype: Literal["float32", "bfloat16"] = "float32"
    ) -> None:
        super().__init__(learner)
        self._folder, self._budget = folder, budget_bytes
        self._path, self.cut = frozen_layers(learner)
        self._dtype = getattr(torch, dtype)
        self._kept: Activations | None = None
        self._placed(learner.model)
        groups = [learner.order, learner.public_rows, learner.eval_rows]
        self._rows, at = np.unique(np.concatenate(groups), return_index=True)
        self._rows = self._rows[np.argsort(at)]  # clients first: they visit most
        self._layout = self._laid_out(self._trial(self._rows[:TRIAL_ROWS]))
        self._open()
        self._same_gradients(self._rows[:TRIAL_ROWS])

    def _placed(self, model: nn.Module) -> None:
        """Find the layers of ``model`` and what lies below the first trained one."""
        self._layers = cast(nn.ModuleList, model.get_submodule(self._path))
        self._twins = [Skipped(layer) for layer in self._layers[: self.cut]]
        above = tuple(f"{self._path}.{number}." for number in range(self.cut, len(self._layers)))
        leaves = set(self.leaf_paths.values())
        named = [*model.named_parameters(), *model.named_buffers()]
        self._below = {n: value for n, value in named if n not in leaves and not n.startswith(above)}

    # ---- a learner, as the engine sees it --------------------------------------------------------------------------

    def batch(self, rows: Ints) -> Batch:
        """The learner's batch, with the prefix of its rows, ``[n, T, d]``."""
        return {**self.inner.batch(rows), PREFIX: self.prefix(np.asarray(rows))}

    def _around(self, batch: Batch) -> AbstractContextManager[None]:
        """The prefix of ``batch`` in the place of the frozen layers; a batch without one runs them."""
        return played(self._layers, self._twins, batch[PREFIX]) if PREFIX in batch else nullcontext()

    # ---- the prefix ------------------------------------------------------------------------------------------------

    def prefix(self, rows: Ints) -> Tensor:
        """What the last frozen layer makes of ``rows``, ``[n, T, d]``; zeros in padding, where no real token looks."""
        if self._versions != self._versions_now():
            self._open()
        kept, layout = self.kept, self._layout
        length = np.where(rows >= 0, layout.tokens[rows], 1)
        out = torch.zeros(len(rows), int(length.max()), self._width, dtype=self._dtype)
        real = np.flatnonzero(rows >= 0)
        found = kept.ready(rows[real])
        if len(at := real[found]):
            step = np.arange(out.shape[1])
            tokens = torch.as_tensor(step < length[at, None])
            index = (layout.start[rows[at], None] + step)[tokens.numpy()]
            values = torch.from_numpy(np.asarray(kept.values[index])).view(self._dtype)
            out[
                torch.as_tensor(at)[:, None].expand_as(tokens)[tokens], torch.as_tensor(step).expand_as(tokens)[tokens]
            ] = values
        if len(at := real[~found]):
            made = self._until_cut(rows[at])
            tokens = torch.as_tensor(np.arange(made.shape[1]) < length[at, None])
            out[torch.as_tensor(at), : made.shape[1]] = torch.where(tokens[..., None], made, 0.0).to(self._dtype)
        return out.to(self.device, self._made)

    @property
    def kept(self) -> Activations:
        """The file behind the cache."""
        assert self._kept is not None
        return self._kept

    def _open(self) -> None:
        """Find or start the file that belongs to the frozen weights as they are now."""
        self._versions = self._versions_now()
        self._kept = Activations(
            self._folder / f"{self._name()}.prefix",
            self._layout,
            width=self._width,
            dtype="int16" if self._dtype == torch.bfloat16 else "float32",
            budget_bytes=self._budget,
            compute=self._values,
            inputs=self._inputs,
        )

    def _versions_now(self) -> list[int]:
        return [value._version for value in self._below.values()]

    def _name(self) -> str:
        """Hash of all that the prefix of a row depends on, the row itself apart."""
        above = [self.model.get_submodule(self._path[:at]) for at, c in enumerate(self._path) if c == "."]
        configs: list[Any] = [getattr(module, "config", None) for module in [*reversed(above), self.model]]
        config = next((c for c in configs if hasattr(c, "to_dict")), None)
        table = {} if config is None else {**config.to_dict(), "_name_or_path": config._attn_implementation}
        where = [type(self._layers[0]).__qualname__, self.cut, str(self._dtype), torch.__version__, self.device.type]
        text = json.dumps([table, *where, torch.get_num_threads()], sort_keys=True, default=str)
        found = hashlib.blake2b(text.encode() + self._layout.digest(), digest_size=16)
        for name, value in self._below.items():
            found.update(f"{name} {value.dtype} {tuple(value.shape)}".encode())
            found.update(value.detach().cpu().contiguous().flatten().view(torch.uint8).numpy())
        return found.hexdigest()

    def _inputs(self, rows: Ints) -> bytes:
        batch = self.inner.batch(rows)
        return b"".join(name.encode() + batch[name].cpu().numpy().tobytes() for name in sorted(batch))

    def _values(self, rows: Ints) -> Any:
        """Unpadded tokens of ``rows``, ``[tokens, d]`` as they are kept."""
        hidden = self._until_cut(rows).to(self._dtype).cpu()
        tokens = torch.as_tensor(np.arange(hidden.shape[1]) < self._layout.tokens[rows][:, None])
        found = hidden[tokens]
        return (found.view(torch.int16) if self._dtype == torch.bfloat16 else found).numpy()

    def _until_cut(self, rows: Ints, *, grad: bool = False) -> Tensor:
        """Run the model on ``rows`` up to the last frozen layer, ``[n, T, d]``."""
        with torch.set_grad_enabled(grad):
            hidden = output_of(self._layers[self.cut - 1], lambda: self.inner.row_losses(self.inner.batch(rows)))
        if not (isinstance(hidden, Tensor) and hidden.dim() == 3 and len(hidden) == len(rows)):
            raise Refused("prefix cache: the model's layers do not pass one tensor [rows, tokens, width] on")
        return hidden

    # ---- what is refused -------------------------------------------------------------------------------------------

    def _trial(self, rows: Ints) -> Tensor:
        """The prefix of ``rows``, if it can be kept."""
        for name, module in self.model.named_modules():
            if module.training and isinstance(module, nn.modules.dropout._DropoutNd) and module.p:
                raise Refused(f"prefix cache: {name} drops values at random in training mode; call model.eval()")
        hidden, again = self._until_cut(rows), self._until_cut(rows)
        if self._until_cut(rows, grad=True).requires_grad:
            raise Refused(
                "prefix cache: something that is trained acts below the first adapted layer (an embedding, a prompt, "
                "a prefix), so the activations there are not the same at every visit; leave the cache off"
            )
        if self._inputs(rows) != self._inputs(rows) or not torch.equal(hidden, again):
            raise Refused("prefix cache: rows are drawn anew at each visit (augmentation or dropout); leave it off")
        self._made, self._width = hidden.dtype, hidden.shape[2]
        return hidden

    def _laid_out(self, trial: Tensor) -> Layout:
        tokens = self.inner.lengths(self._rows)
        if (tokens == 1).all():
            tokens = np.full(len(tokens), trial.shape[1])  # rows of one size, whatever its name
        if tokens[:TRIAL_ROWS].max() != trial.shape[1]:
            raise Refused("prefix cache: the learner's lengths are not the tokens that its layers see")
        owner = np.full(int(self._rows.max()) + 1, self.clients)
        owner[self.order] = np.repeat(np.arange(self.clients), np.diff(self.offsets))
        return Layout(self._rows, owner[self._rows], tokens, block_tokens=BLOCK_TOKENS)

    def _same_gradients(self, rows: Ints) -> None:
        """Raise :class:`Refused` where playing back is not all that the layers above need."""
        named = dict(self.model.named_parameters())
        leaves = [named[path] for path in self.leaf_paths.values()]
        full, played = (
            torch.autograd.grad(learner.row_losses(learner.batch(rows))[0].sum(), leaves, allow_unused=True)
            for learner in (self.inner, self)
        )
        bound = 1e-3 if self._dtype == self.dtype == torch.float32 else 0.1
        for one, other in zip(full, played, strict=True):
            if one is not None and (other is None or (one - other).norm() > bound * one.norm() + 1e-6):
                raise Refused("prefix cache: layers above the frozen ones use more of them than the last one's output")
