"""The experiment: one frozen dataclass that is the job, in Python and as TOML."""

from __future__ import annotations

import tomllib
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated, Any

import numpy as np

from fedwave.core import config
from fedwave.core.config import Count, Index, part, parts
from fedwave.core.errors import BadInput, Refused
from fedwave.core.keys import Key
from fedwave.core.types import Population
from fedwave.devices.fleet import Fleet
from fedwave.engines.cohort import CohortEngine, memory_leaves
from fedwave.federation.samplers import Sampler, Uniform
from fedwave.federation.server import Server
from fedwave.federation.setting import Codec, Setting
from fedwave.federation.sync import Sync
from fedwave.methods.fedavg import FedAvg
from fedwave.methods.method import Method
from fedwave.tasks.task import Task
from fedwave.transforms.chain import Chain
from fedwave.transforms.transform import Transform
from fedwave.wireless.cell import Cell
from fedwave.wireless.network import Network

_PATHS = (("task", "data"), ("task", "eval_data"), ("task", "model"), ("network", "file"))


@dataclass(frozen=True)
class Experiment:
    """A job. Every part but the task has a default.

    Parameters
    ----------
    rounds : rounds to play.
    eval_every : evaluate on the held-out data every so many rounds, and at the end; 0: only at the end.
    """

    task: Annotated[Task, part("task")]
    seed: Index = 0
    rounds: Count = 30
    eval_every: Index = 5
    method: Annotated[Method, part("method")] = FedAvg()
    transform: Annotated[tuple[Transform, ...], parts("transform")] = ()
    sampler: Annotated[Sampler, part("sampler")] = Uniform()
    federation: Annotated[Sync, part("federation")] = Sync()
    network: Annotated[Network, part("network")] = Cell()
    fleet: Fleet = field(default_factory=Fleet)
    server: Server = Server()
    engine: Annotated[CohortEngine, part("engine")] = CohortEngine()
    __pydantic_config__ = {"extra": "forbid"}  # noqa: RUF012

    @classmethod
    def load(cls, path: str | Path, overrides: list[str] | None = None) -> Experiment:
        """Read a TOML job; ``overrides`` are ``key.path=value``. Paths in it are relative to the file.

        Raises
        ------
        BadInput : no such file, not TOML, an unknown key, a wrong value.
        """
        path = Path(path)
        try:
            table = tomllib.loads(path.read_text(encoding="utf-8"))
        except FileNotFoundError:
            raise BadInput(f"{path}: no such job file") from None
        except (OSError, UnicodeDecodeError) as error:
            raise BadInput(f"{path}: cannot be read ({error})") from None
        except tomllib.TOMLDecodeError as error:
            raise BadInput(f"{path}: not valid TOML: {error}") from None
        for override in overrides or []:
            _override(table, override)
        return cls.parse(_resolve_paths(table, path.resolve().parent))

    @classmethod
    def parse(cls, table: Mapping[str, Any]) -> Experiment:
        """Build from a table as in TOML."""
        return config.parse(cls, dict(table))

    def to_table(self) -> dict[str, Any]:
        """The fully resolved job as a plain table; ``Experiment.parse`` reads it back."""
        return config.dump(self)

    def to_toml(self) -> str:
        """The fully resolved job as TOML text."""
        import tomli_w

        return tomli_w.dumps(self.to_table())

    def setting(self) -> Setting:
        """Resolve shapes, population, devices and network, without torch; refuse what cannot work together."""
        spec = self.task.spec()
        up, down = Chain.of(self.transform, "up"), Chain.of(self.transform, "down")
        self._check(up, down, spec)
        samples = self.task.samples(self.seed, public=self.method.public_samples)
        device = self.fleet.assign(len(samples), Key(self.seed).fold("fleet"))
        rank = self.task.ranks(self.fleet.names, device)
        if len(np.unique(rank)) > 1 and not self.method.heterogeneous_rank:
            raise Refused(
                f"method {self.method.registered_name!r} averages factors and needs one LoRA rank for all clients; "
                "task.adapter.rank differs by device (flora takes mixed ranks)"
            )
        return Setting(
            seed=self.seed, rounds=self.rounds, eval_every=self.eval_every, batch_size=self.task.batch_size, spec=spec,
            population=Population(samples, rank, device), method=self.method, codec=Codec(up, down),
            sampler=self.sampler, federation=self.federation, network=self.network, fleet=self.fleet,
            server=self.server,
        )

    def _check(self, up: Chain, down: Chain, spec: Any) -> None:
        self.method.check(spec)
        if down.stateful:
            raise Refused("transform: error feedback works on updates; use it with direction = 'up'")
        if self.federation.quorum > self.sampler.cohort:
            raise Refused(
                f"federation.quorum is {self.federation.quorum} and sampler.cohort {self.sampler.cohort}: "
                "the quorum can never be met"
            )
        memory_leaves(self.method, up, spec)


def _override(table: dict[str, Any], text: str) -> None:
    """Apply ``a.b.c=value``; the value is TOML, or a bare string."""
    key, equals, raw = text.partition("=")
    if not equals or not key.strip():
        raise BadInput(f"{text!r} is not an override; write key.path=value, as in method.mu=0.1")
    try:
        value = tomllib.loads(f"value = {raw}")["value"]
    except tomllib.TOMLDecodeError:
        value = raw
    *path, last = [_step(step) for step in key.strip().split(".")]
    place: Any = table
    for step in path:
        if isinstance(place, list) and isinstance(step, int) and step < len(place):
            place = place[step]
        elif isinstance(place, dict):
            if isinstance(place.get(step), str):
                place[step] = {"name": place[step]}
            place = place.setdefault(step, {})
        else:
            raise BadInput(f"override {text!r}: {step!r} is not a table in this job")
    if not isinstance(place, (dict, list)) or (isinstance(place, list) and not isinstance(last, int)):
        raise BadInput(f"override {text!r}: there is no table to hold {last!r}")
    if isinstance(place, list) and last >= len(place):
        raise BadInput(f"override {text!r}: the list has {len(place)} entries")
    place[last] = value


def _step(text: str) -> str | int:
    return int(text) if text.isdigit() else text


def _resolve_paths(table: dict[str, Any], folder: Path) -> dict[str, Any]:
    """Names of files that stand beside the job become absolute; anything else (hub ids, built-in sets) stays."""
    resolved = {key: dict(value) if isinstance(value, dict) else value for key, value in table.items()}
    for section, key in _PATHS:
        value = resolved.get(section, {})
        if isinstance(value, dict) and isinstance(value.get(key), str):
            candidate = folder / value[key]
            if candidate.exists() or Path(value[key]).suffix in (".jsonl", ".json", ".csv", ".parquet", ".npz"):
                value[key] = str(candidate.resolve())
    return resolved
