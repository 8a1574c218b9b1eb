"""The experiment: one frozen dataclass that is the job, in Python and as TOML."""

from __future__ import annotations

import os
import tomllib
import typing
from collections.abc import Mapping
from dataclasses import dataclass, field, fields, is_dataclass
from functools import lru_cache
from pathlib import Path
from typing import Annotated, Any

import numpy as np
from pydantic import TypeAdapter, ValidationError

from fedwave.core import config, registry
from fedwave.core.config import Count, Index, Seed, part, parts
from fedwave.core.errors import BadInput, Refused
from fedwave.core.keys import Key
from fedwave.core.types import Population
from fedwave.devices.fleet import Fleet
from fedwave.engines.cohort import CohortEngine
from fedwave.federation.air import check_air
from fedwave.federation.samplers import Sampler, Uniform
from fedwave.federation.server import Server
from fedwave.federation.setting import Codec, Setting
from fedwave.federation.sync import Sync
from fedwave.methods.fedavg import FedAvg
from fedwave.methods.method import Method
from fedwave.results.sinks.sink import Sink
from fedwave.tasks.task import Task
from fedwave.transforms.chain import Chain
from fedwave.transforms.transform import Transform
from fedwave.wireless.network import Network
from fedwave.wireless.networks.cell import Cell

_PATHS = (("task", "data"), ("task", "eval_data"), ("task", "model"), ("network", "file"))


@dataclass(frozen=True)
class Experiment:
    """A job. Every part but the task has a default.

    Parameters
    ----------
    task : what is learned: data, model, what of it is trained, who holds which rows.
    seed : all randomness of the run follows from it.
    rounds : rounds to play.
    eval_every : evaluate on the held-out data every so many rounds, and at the end; 0: only at the end.
    method : the federated learning algorithm.
    transform : what is done to payloads before they are sent, in order.
    sampler : who is asked to take part in a round.
    federation : when a round ends.
    network : when, at what energy and whether a payload arrives.
    fleet : the devices of the clients.
    server : the device of the server.
    engine : how clients are trained on this machine; it changes speed and memory, not what is learned.
    sink : where records go besides the run folder; never part of the numbers.
    """

    task: Annotated[Task, part("task")]
    seed: Seed = 0
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
    sink: Annotated[tuple[Sink, ...], parts("sink")] = ()
    __pydantic_config__ = {"extra": "forbid"}

    def __post_init__(self) -> None:
        """Parts made in Python are held to what a job file is held to. Raises :class:`BadInput` naming the key."""
        for name, hint in _hints().items():
            value = getattr(self, name)
            if hint is int:
                _check_number(name, value)
            elif typing.get_origin(hint) is not tuple:
                _check_part(name, value, hint)
            elif not isinstance(value, tuple):
                raise BadInput(f"{name}: must be a tuple of parts, got {value!r:.60}")
            else:
                for index, item in enumerate(value):
                    _check_part(f"{name}.{index}", item, typing.get_args(hint)[0])

    @classmethod
    def load(cls, path: str | Path, overrides: list[str] | None = None) -> Experiment:
        """Read a TOML job; ``overrides`` are ``key.path=value``.

        Paths in the job are relative to its file; those in overrides to the current folder, where there is such a file.

        Raises
        ------
        BadInput : no such file, not TOML, an unknown key, a wrong value. The sentence names the file.
        """
        path = Path(path)
        table = _read(path)
        for text in overrides or []:
            override(table, text)
        folder = path.resolve().parent
        try:
            with registry.importing_from(folder):
                return cls.parse(_resolve_paths(table, folder))
        except BadInput as error:
            kind = Refused if isinstance(error, Refused) else BadInput
            raise kind(f"{path}: {error}{_renamed(str(error), overrides or [])}") from None

    @classmethod
    def parse(cls, table: Mapping[str, Any]) -> Experiment:
        """Build from a table as in TOML. Raises :class:`BadInput` naming the key."""
        if "task" not in table:
            names = ", ".join(registry.names("task"))
            raise BadInput(f"[task] is missing: a job needs at least a task with its name (one of: {names})")
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
        population = self.population(self.seed)
        if len(np.unique(population.rank)) > 1 and not self.method.heterogeneous_rank:
            raise Refused(
                f"method {registry.name_of(self.method)!r} averages factors and needs one LoRA rank for all clients; "
                "task.adapter.rank differs by device (flora takes mixed ranks)"
            )
        setting = Setting(
            seed=self.seed,
            rounds=self.rounds,
            eval_every=self.eval_every,
            batch_size=self.task.batch_size,
            spec=spec,
            population=population,
            method=self.method,
            codec=Codec(up, down),
            sampler=self.sampler,
            federation=self.federation,
            network=self.network,
            fleet=self.fleet,
            server=self.server,
        )
        check_air(setting)
        return setting

    def population(self, seed: int) -> Population:
        """The clients that the job would have with ``seed``: what they hold, their devices, their ranks."""
        samples = self.task.samples(seed, public=self.method.public_samples)
        device = self.fleet.assign(len(samples), Key(seed).fold("fleet"))
        return Population(samples, self.task.ranks(self.fleet.names, device), device)

    def _check(self, up: Chain, down: Chain, spec: Any) -> None:
        self.method.check(spec)
        if down.stateful:
            raise Refused("transform: error feedback works on updates; use it with direction = 'up'")
        if self.federation.quorum > self.sampler.cohort:
            raise Refused(
                f"federation.quorum is {self.federation.quorum} and sampler.cohort {self.sampler.cohort}: "
                "the quorum can never be met"
            )


@lru_cache(maxsize=1)
def _hints() -> dict[str, Any]:
    return typing.get_type_hints(Experiment)


@lru_cache(maxsize=None)
def _number(name: str) -> TypeAdapter[Any]:
    return TypeAdapter(typing.get_type_hints(Experiment, include_extras=True)[name])


def _check_number(name: str, value: Any) -> None:
    try:
        _number(name).validate_python(value)
    except ValidationError as error:
        text = error.errors(include_url=False)[0]["msg"]
        raise BadInput(f"{name}: {text[:1].lower()}{text[1:]}, got {value!r:.60}") from None


def _check_part(where: str, value: Any, hint: Any) -> None:
    """Raise :class:`BadInput` where ``value`` is no ``hint``, or one of its fields (and theirs) is out of range."""
    if not isinstance(value, hint):
        raise BadInput(
            f"{where}: must be a {hint.__name__}, got {value!r:.60}"
            + ("; Experiment.parse takes names and tables" if isinstance(value, (str, dict)) else "")
        )
    if not is_dataclass(value):
        return
    table = {f.name: getattr(value, f.name) for f in fields(value) if f.init}
    table = {name: inner for name, inner in table.items() if inner is not None}  # as in a job file: left out
    try:
        config.parse(type(value), table)
    except BadInput as error:
        raise BadInput(f"{where}.{error}") from None
    for name, inner in table.items():
        if is_dataclass(inner) and not isinstance(inner, type):
            _check_part(f"{where}.{name}", inner, type(inner))


def _read(path: Path) -> dict[str, Any]:
    try:
        return tomllib.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise BadInput(f"{path}: no such job file") from None
    except IsADirectoryError:
        raise BadInput(f"{path} is a folder, not a job file") from None
    except UnicodeDecodeError as error:
        raise BadInput(f"{path}: not a text file in UTF-8 (byte {error.start})") from None
    except (OSError, ValueError) as error:
        if isinstance(error, tomllib.TOMLDecodeError):
            raise BadInput(f"{path}: not valid TOML: {_one_line(error)}") from None
        raise BadInput(f"{path}: cannot be read: {getattr(error, 'strerror', None) or error}") from None
    except RecursionError:
        raise BadInput(f"{path}: not valid TOML: nested too deeply") from None


def _one_line(error: Exception) -> str:
    text = str(error)
    return text[:1].lower() + text[1:]


def _renamed(sentence: str, overrides: list[str]) -> str:
    """How to replace a plug-in whole, where the keys of the old one do not fit the new one's name."""
    for override in overrides:
        key, _, value = override.partition("=")
        plugin = key.strip().removesuffix(".name")
        if plugin != key.strip() and sentence.startswith(f"{plugin}.") and "unknown key" in sentence:
            return f"; {plugin}={value.strip()} replaces the whole table"
    return ""


def override(table: dict[str, Any], text: str) -> None:
    """Apply ``a.b.c=value``; the value is TOML, or a bare string."""
    key, equals, raw = text.partition("=")
    steps = [step.strip() for step in key.split(".")]
    if not equals or not all(steps):
        raise BadInput(f"{text!r} is not an override; write key.path=value, as in method.mu=0.1")
    place: Any = table
    for step in steps[:-1]:
        if isinstance(place, list):
            place = place[_entry(place, step, text)]
        elif isinstance(place, dict):
            if isinstance(place.get(step), str):
                place[step] = {"name": place[step]}
            place = place.setdefault(step, {})
    if not isinstance(place, (dict, list)):
        raise BadInput(f"override {text!r}: {'.'.join(steps[:-1])} is not a table in this job")
    value = _value(raw)
    if tuple(steps) in _PATHS and isinstance(value, str) and value and _exists(Path(value)):
        value = os.path.abspath(value)
    if isinstance(place, list):
        place[_entry(place, steps[-1], text)] = value
    else:
        place[steps[-1]] = value


def _value(raw: str) -> Any:
    try:
        table = tomllib.loads(f"value = {raw}")
    except (tomllib.TOMLDecodeError, RecursionError):
        return raw.strip()
    return table["value"] if len(table) == 1 else raw.strip()


def _entry(place: list[Any], step: str, text: str) -> int:
    if step.isascii() and step.isdigit() and int(step) < len(place):
        return int(step)
    raise BadInput(f"override {text!r}: the list has {len(place)} entries, counted from 0; {step!r} is none of them")


def _exists(path: Path) -> bool:
    try:
        return path.exists()
    except OSError:  # a name that no file can have
        return False


def _resolve_paths(table: dict[str, Any], folder: Path) -> dict[str, Any]:
    """Names of files that stand beside the job become absolute; anything else (hub ids, built-in sets) stays."""
    resolved = {key: dict(value) if isinstance(value, dict) else value for key, value in table.items()}
    for section, key in _PATHS:
        value = resolved.get(section, {})
        if isinstance(value, dict) and isinstance(value.get(key), str) and value[key]:
            candidate = folder / _expanded(f"{section}.{key}", value[key])
            if _exists(candidate) or candidate.suffix in (".jsonl", ".json", ".csv", ".parquet", ".npz"):
                value[key] = os.path.abspath(candidate)
    return resolved


def _expanded(key: str, name: str) -> Path:
    try:
        return Path(name).expanduser()
    except RuntimeError:
        raise BadInput(f"{key}: {name!r} names the home of a user whom this machine does not have") from None
