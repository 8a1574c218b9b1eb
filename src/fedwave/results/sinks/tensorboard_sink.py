"""TensorBoard: event files in ``tensorboard/`` of the run folder; ``tensorboard --logdir runs`` shows all runs."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from fedwave.core.registry import register
from fedwave.results.sinks.sink import Sink, Target, Writer


@register("sink", "tensorboard")
@dataclass(frozen=True)
class TensorBoard(Sink):
    """Scalars by rounds done; after a resume events of replayed rounds are purged."""

    package = "tensorboard"

    def open(self, target: Target) -> Writer:
        """See :meth:`Sink.open`."""
        from torch.utils.tensorboard import SummaryWriter  # imports the package

        replayed = target.round + 1 if target.round else 0
        return _Events(SummaryWriter(str(target.folder / "tensorboard"), purge_step=replayed))


class _Events:
    def __init__(self, writer: Any) -> None:
        self.writer = writer

    def write(self, round: int, values: Mapping[str, float]) -> None:
        for name, value in values.items():
            self.writer.add_scalar(name.replace(".", "/"), value, round)
        self.writer.flush()

    def close(self, finished: bool) -> None:
        self.writer.close()
