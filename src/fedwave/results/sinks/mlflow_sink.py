"""MLflow: one MLflow run per run folder, on the tracking server that ``uri`` or ``MLFLOW_TRACKING_URI`` names."""

from __future__ import annotations

import time
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from fedwave.core.registry import register
from fedwave.results.sinks.sink import Sink, Target, Writer, flat


@register("sink", "mlflow")
@dataclass(frozen=True)
class MLflow(Sink):
    """Metrics by rounds done, the job as parameters; a resume goes on with the same MLflow run.

    Parameters
    ----------
    experiment : the MLflow experiment, made if it is not there.
    uri : tracking server or store; absent: MLflow's own default.
    """

    experiment: str = "fedwave"
    uri: str | None = None
    package = "mlflow"

    def open(self, target: Target) -> Writer:
        """See :meth:`Sink.open`."""
        from mlflow import MlflowClient  # pyright: ignore[reportMissingImports]
        from mlflow.entities import Param  # pyright: ignore[reportMissingImports]

        client = MlflowClient(tracking_uri=self.uri)
        ident, new = target.once("mlflow", lambda: self._begin(client, target))
        if new:
            client.log_batch(ident, params=[Param(name, str(value)) for name, value in flat(target.job).items()])
        else:
            client.update_run(ident, status="RUNNING")
        return _Metrics(client, ident)

    def _begin(self, client: Any, target: Target) -> str:
        found = client.get_experiment_by_name(self.experiment)
        experiment = found.experiment_id if found else client.create_experiment(self.experiment)
        return client.create_run(experiment, run_name=target.folder.name).info.run_id


class _Metrics:
    def __init__(self, client: Any, ident: str) -> None:
        self.client, self.ident = client, ident

    def write(self, round: int, values: Mapping[str, float]) -> None:
        from mlflow.entities import Metric  # pyright: ignore[reportMissingImports]

        now_ms = int(1000 * time.time())
        self.client.log_batch(self.ident, metrics=[Metric(name, x, now_ms, round) for name, x in values.items()])

    def close(self, finished: bool) -> None:
        self.client.set_terminated(self.ident, "FINISHED" if finished else "KILLED")
