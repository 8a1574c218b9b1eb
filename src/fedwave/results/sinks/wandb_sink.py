"""Weights & Biases: one W&B run per run folder. Set ``WANDB_MODE=offline`` to sync later."""

from __future__ import annotations

import uuid
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from fedwave.core.registry import register
from fedwave.results.sinks.sink import Sink, Target, Writer


@register("sink", "wandb")
@dataclass(frozen=True)
class WandB(Sink):
    """Metrics by rounds done, the job as the run's config; a resume goes on with the same W&B run.

    Rounds that a resume replays have the numbers they had, so it does no harm that W&B ignores steps it has seen.

    Parameters
    ----------
    project, entity : where the run appears; no entity: the account's own.
    """

    project: str = "fedwave"
    entity: str | None = None
    package = "wandb"

    def open(self, target: Target) -> Writer:
        """See :meth:`Sink.open`."""
        import wandb  # pyright: ignore[reportMissingImports]

        ident, _ = target.once("wandb", lambda: uuid.uuid4().hex)
        run = wandb.init(
            project=self.project, entity=self.entity, id=ident, resume="allow", name=target.folder.name,
            dir=str(target.folder), config=dict(target.job), settings={"console": "off", "quiet": True},
        )  # fmt: skip
        return _Metrics(run)


class _Metrics:
    def __init__(self, run: Any) -> None:
        self.run = run

    def write(self, round: int, values: Mapping[str, float]) -> None:
        self.run.log(dict(values), step=round)

    def close(self, finished: bool) -> None:
        self.run.finish()
