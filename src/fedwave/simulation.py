"""Run an experiment: build it, play its rounds, keep the run folder, resume."""

from __future__ import annotations

import hashlib
import json
import platform
import sys
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from importlib import metadata
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from fedwave.core.errors import BadInput
from fedwave.core.registry import name_of
from fedwave.core.types import RoundRecord, World
from fedwave.experiment import Experiment
from fedwave.federation import sync
from fedwave.federation.checks import check_memory, check_network
from fedwave.results import client_log, memory_store
from fedwave.results.files import disk
from fedwave.results.memory_store import MemoryStore
from fedwave.results.run_folder import RunFolder
from fedwave.results.sinks.sink import Sinks, Target
from fedwave.tasks.adapters import Beside

if TYPE_CHECKING:
    import pandas

    from fedwave.engines.cohort import Session
    from fedwave.federation.setting import Setting
    from fedwave.methods.method import State

_CHECKPOINT_EVERY_S = 1.0  # quick rounds share a checkpoint; a resume replays at most about this much


@dataclass
class Run:
    """A finished or interrupted run.

    ``records`` are the lines of ``rounds.jsonl``; ``initial`` the held-out metrics before the first round; ``state``
    the method's server state; ``finished`` is false where it was stopped (``fedwave.resume(folder)`` goes on).
    """

    experiment: Experiment
    folder: Path | None
    records: list[dict[str, Any]]
    initial: dict[str, float]
    state: State
    finished: bool

    @property
    def final(self) -> dict[str, float]:
        """The last held-out metrics."""
        return next((r["eval"] for r in reversed(self.records) if "eval" in r), self.initial)

    @property
    def clients(self) -> np.ndarray:
        """One row per round and client of the cohort; fields as in :data:`fedwave.results.client_log.CLIENT`."""
        return client_log.read(self.folder).rows if self.folder else np.empty(0, dtype=client_log.CLIENT)

    def frame(self) -> pandas.DataFrame:
        """The records as a DataFrame; see :func:`fedwave.results.frame.frame`."""
        from fedwave.results.frame import frame

        return frame(self.records)


@dataclass
class Simulation:
    """Everything live of one run. ``stream`` plays it; between two records it can be stopped and resumed."""

    experiment: Experiment
    setting: Setting
    session: Session
    store: MemoryStore
    world: World
    state: State
    initial: dict[str, float]
    folder: RunFolder | None = None
    _saved: tuple[int, float] = field(default=(-1, 0.0))

    @classmethod
    def start(
        cls, experiment: Experiment, out: str | Path | None = None, progress: Callable[[int, int], None] | None = None
    ) -> Simulation:
        """Build ``experiment`` and, with ``out``, begin its run folder.

        Raises :class:`BadInput` where a part of the job is wrong or absent, :class:`Infeasible` where no device can
        hold the training.
        """
        setting = _ready(experiment, progress)
        folder = RunFolder(out).free() if out is not None else None
        session = build_session(experiment, setting, progress)
        if folder:  # not before the job is known to build
            folder.create(
                experiment.to_toml(),
                {**environment(setting), "engine": session.choice.why, "data": _fingerprints(experiment)},
            ).claim()
            base = setting.base_delivery()
            if base is not None:
                folder.note("base_delivery", base)
        store = MemoryStore(folder.path / "memory" if folder else None, session.memory_leaves)
        return cls._from_round_0(experiment, setting, session, store, folder)

    @classmethod
    def _from_round_0(
        cls, experiment: Experiment, setting: Setting, session: Session, store: MemoryStore, folder: RunFolder | None
    ) -> Simulation:
        state = sync.begin(setting, session)
        initial = session.evaluate(*setting.method.model(state))
        simulation = cls(experiment, setting, session, store, setting.world(), state, initial, folder)
        simulation.checkpoint()
        return simulation

    @classmethod
    def resume(cls, out: str | Path, progress: Callable[[int, int], None] | None = None) -> Simulation:
        """Go on with the run in folder ``out`` from its newest whole checkpoint. Raises :class:`BadInput`."""
        folder = RunFolder(out).open().claim()
        experiment = Experiment.load(folder.experiment)
        _same_data(folder, experiment)
        setting = _ready(experiment, progress)
        session = build_session(experiment, setting, progress)
        found = folder.latest(lambda checkpoint: _check_files(folder.path, checkpoint.meta))
        folder.truncate_log(found)
        client_log.truncate(folder.path, found.meta.get("clients_bytes", 0) if found else 0)
        store = MemoryStore(folder.path / "memory", session.memory_leaves)
        if found is None:
            store.restore(-1)
            return cls._from_round_0(experiment, setting, session, store, folder)
        store.restore(found.round)
        world = _world(found.arrays, found.round)
        return cls(
            experiment,
            setting,
            session,
            store,
            world,
            found.tensors,
            found.meta["initial"],
            folder,
            (found.round, time.monotonic()),
        )

    def stream(self) -> Iterator[RoundRecord]:
        """Play the remaining rounds; each record is in the folder before it is yielded."""
        log = client_log.ClientLog(self.folder.path, self.setting.fleet.names) if self.folder else None
        rounds = sync.play(self.setting, self.session, self.store, self.world, self.state, clients=log)
        sinks = Sinks()
        if self.folder and not self.finished:
            target = Target(self.folder.path, self.experiment.to_table(), self.world.round)
            sinks.open(self.experiment.sink, target, self.initial)
        try:
            for record, self.world, self.state in rounds:
                if self.folder:
                    self.folder.append(record.to_dict())
                    if self.finished or time.monotonic() - self._saved[1] > _CHECKPOINT_EVERY_S:
                        self.checkpoint()
                sinks.write(record.to_dict())
                yield record
        finally:
            sinks.close(finished=self.finished)
            if self.folder:
                self.folder.release()
        if self.folder and self.finished:
            self.export()

    @property
    def finished(self) -> bool:
        """All rounds are played."""
        return self.world.round >= self.setting.rounds

    def checkpoint(self) -> None:
        """Write client memory, state and world; nothing where this round is saved already."""
        if self.folder is None or self._saved[0] == self.world.round:
            return
        self.store.flush(self.world.round)
        meta = {
            "initial": self.initial,
            "clients_bytes": client_log.saved_bytes(self.folder.path),
            "memory": self.store.segments(),
        }
        self.folder.checkpoint(self.world.round, self.state, _arrays(self.world), meta)
        self.store.retain(self.folder.kept())
        self._saved = (self.world.round, time.monotonic())

    def export(self) -> Path:
        """Write the result: ``adapter/`` (a PEFT folder) for what is trained beside a model, else ``model/``."""
        assert self.folder is not None
        beside = isinstance(getattr(self.experiment.task, "adapter", None), Beside)
        target = self.folder.path / ("adapter" if beside else "model")
        params, base = self.setting.method.model(self.state)
        with disk(target):
            self.session.learner.export(target, params, base)
        return target

    def report(self) -> None:
        """Write ``report.html`` into the run folder."""
        from fedwave.results.report import write_report

        if self.folder is not None:
            write_report([self.folder.path], self.folder.path / "report.html")

    def result(self) -> Run:
        """What there is so far."""
        folder = self.folder
        return Run(
            self.experiment,
            folder.path if folder else None,
            folder.records() if folder else [],
            self.initial,
            self.state,
            self.finished,
        )


def run(experiment: Experiment, out: str | Path | None = None) -> Run:
    """Train ``experiment`` to the end and write its run folder (``out``, or the next free one below ``runs/``)."""
    simulation = Simulation.start(experiment, out if out is not None else free_folder(experiment))
    for _ in simulation.stream():
        pass
    simulation.report()
    return simulation.result()


def resume(out: str | Path) -> Run:
    """Finish the interrupted run in ``out``; the numbers are those of an unbroken run."""
    simulation = Simulation.resume(out)
    for _ in simulation.stream():
        pass
    simulation.report()
    return simulation.result()


def stream(experiment: Experiment, out: str | Path | None = None) -> Iterator[RoundRecord]:
    """Yield the records of a run as its rounds end; nothing is written without ``out``."""
    yield from Simulation.start(experiment, out).stream()


def free_folder(experiment: Experiment, base: str | Path = "runs") -> Path:
    """The first unused ``runs/<task>-<method>-seed<seed>[-n]``."""
    stem = f"{name_of(experiment.task)}-{name_of(experiment.method)}-seed{experiment.seed}".replace(":", "-")
    candidate, number = Path(base) / stem, 1
    while candidate.exists():
        number += 1
        candidate = Path(base) / f"{stem}-{number}"
    return candidate


def build_session(
    experiment: Experiment, setting: Setting, progress: Callable[[int, int], None] | None = None
) -> Session:
    """Load model and data, and give them to the engine."""
    task, public = experiment.task, setting.method.public_samples
    learner = task.build(experiment.seed, public=public, progress=progress)
    _same_samples(np.diff(learner.offsets), setting.population.samples)
    again = task.again(experiment.seed, public=public)
    return experiment.engine.start(
        setting.method, learner, up=setting.codec.up, batch_size=setting.batch_size, again=again
    )


def _ready(experiment: Experiment, progress: Callable[[int, int], None] | None = None) -> Setting:
    """The setting, once all that a run needs is known to be here and to fit."""
    for sink in experiment.sink:
        sink.check()
    experiment.task.prepare(progress)
    setting = experiment.setting()
    check_network(setting)
    check_memory(setting)
    return setting


def environment(setting: Setting) -> dict[str, Any]:
    """What the numbers were made with, and what the task assumes."""
    packages = ("fedwave", "torch", "transformers", "peft", "numpy", "scipy")
    versions = {}
    for name in packages:
        try:
            versions[name] = metadata.version(name)
        except metadata.PackageNotFoundError:
            versions[name] = "not installed"
    return {
        "python": sys.version.split()[0],
        "platform": platform.platform(),
        "packages": versions,
        "assumptions": setting.spec.assumptions,
    }


def _check_files(folder: Path, meta: dict[str, Any]) -> None:
    """Raise ValueError where files that a checkpoint builds on are not what they were."""
    client_log.check(folder, meta["clients_bytes"])
    memory_store.check(folder / "memory", meta["memory"])


def _fingerprints(experiment: Experiment) -> dict[str, str]:
    """SHA-256 of the job's own data files, by path."""
    found = {}
    for key in ("data", "eval_data"):
        path = Path(str(getattr(experiment.task, key, "")))
        if path.is_file():
            found[str(path)] = hashlib.sha256(path.read_bytes()).hexdigest()
    return found


def _same_data(folder: RunFolder, experiment: Experiment) -> None:
    before = json.loads(folder.environment.read_text(encoding="utf-8")).get("data", {})
    for path, digest in _fingerprints(experiment).items():
        if before.get(path, digest) != digest:
            raise BadInput(f"{path} is not what it was when {folder.path} began: put it back, or start a new run")


def _same_samples(built: Any, planned: Any) -> None:
    if not np.array_equal(built, planned):
        raise BadInput("task: the data that was built is not the data that was planned; did a file change meanwhile?")


def _arrays(world: World) -> dict[str, Any]:
    return {
        "clock_s": np.array([world.clock_s]),
        "battery_j": world.battery_j,
        "position_m": world.position_m,
        "last_round": world.last_round,
        "base_bits": world.base_bits,
        **({} if world.radio_until_s is None else {"radio_until_s": world.radio_until_s}),
        **{f"averages.{name}": value for name, value in world.averages.items()},
    }


def _world(arrays: dict[str, Any], round_: int) -> World:
    prefix = "averages."
    return World(
        round=round_,
        clock_s=float(arrays["clock_s"][0]),
        battery_j=arrays["battery_j"],
        position_m=arrays["position_m"],
        last_round=arrays["last_round"],
        base_bits=arrays["base_bits"],
        radio_until_s=arrays.get("radio_until_s"),
        averages={n[len(prefix) :]: v for n, v in arrays.items() if n.startswith(prefix)},
    )
