"""The cohort engine on many processes or machines: Ray workers train shards of a cohort, this process folds them."""

from __future__ import annotations

import logging
import os
import socket
import sys
import warnings
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, fields, replace
from typing import TYPE_CHECKING, Any

from fedwave.core.config import Count, Index
from fedwave.core.errors import BadInput, FedwaveError, Refused
from fedwave.core.keys import Key
from fedwave.core.registry import register
from fedwave.core.types import Cohort, Delivery, Message
from fedwave.engines.cohort import CohortEngine, Session
from fedwave.engines.fold import Fold
from fedwave.methods.method import Method

if TYPE_CHECKING:
    from fedwave.engines.workers.shards import Packed, Recipe, Trainer
    from fedwave.results.memory_store import MemoryStore
    from fedwave.tasks.learner import Learner
    from fedwave.transforms.chain import Chain

_TRIES = 3  # of one shard, before its workers are taken to end for a reason that stays
_ANSWER_S = 5.0  # for a cluster to take a connection
_PATIENCE_S = 60.0  # without an answer, before a worker that has not begun is worth a word


@register("engine", "ray")
@dataclass(frozen=True)
class RayEngine(CohortEngine):
    """The cohort engine in Ray workers, on one machine or a cluster; each trains a shard of the round's clients.

    A worker builds the model once and keeps it. Updates that are summed come back as one sum per worker. What the
    server does with the model (evaluation, distillation) and the clients' memory stay in this process. Numbers are
    those of the cohort engine but for rounding, and do not depend on a worker that was lost.

    Parameters
    ----------
    threads : torch threads of a worker, and CPUs of a cluster that it takes.
    workers : processes that train; 0: as many as the CPUs allow. Never more than clients that train in a round.
    address : of a running Ray cluster, as ``ray.init`` takes it ("auto": the one that this machine belongs to);
        "": a Ray of its own on this machine, or the one that this process has started already.
    """

    threads: Count = 1
    workers: Index = 0
    address: str = ""

    def start(
        self,
        method: Method,
        learner: Learner,
        *,
        up: Chain,
        batch_size: int,
        again: Callable[[], Learner] | None = None,
    ) -> RaySession:
        """A session whose clients train in Ray workers; they start when the first round needs them.

        Raises
        ------
        BadInput : Ray is not installed, or no cluster is at ``address``.
        Refused : the cluster has fewer CPUs than ``workers`` times ``threads``.
        """
        from fedwave.engines.workers.shards import Recipe

        if again is None:
            raise BadInput('engine "ray": start() needs `again`, which builds the learner in each worker')
        ray = _connected(self.address)
        limit = min(_workers(self, int(ray.cluster_resources().get("CPU", 1))), learner.clients)
        here = {key.name: getattr(self, key.name) for key in fields(CohortEngine)}
        recipe = Recipe(CohortEngine(**here), method, up, batch_size, again)
        pool = _Pool(ray, recipe, limit, cpus=self.threads if self.address else 0)
        # The server has no file of activations, which would be another one for other threads.
        learner, choice = replace(CohortEngine(**here), threads=0, prefix_bytes=0).ready(method, learner, batch_size)
        why = f"{limit} Ray worker{'s' * (limit > 1)} at most, in each {choice.why}"
        choice = choice._replace(slots=1, why=why)  # the server itself evaluates in one slot
        logging.getLogger(__name__).info(why)
        return RaySession(method, learner, up=up, batch_size=batch_size, choice=choice, pool=pool)


class RaySession(Session):
    """The server's own resident model, and a ``pool`` of workers with one each in which the clients train."""

    def __init__(self, *session: Any, pool: _Pool, **settings: Any) -> None:
        super().__init__(*session, **settings)
        self.pool = pool

    def fold(self, message: Message, store: MemoryStore, cohort: Cohort, delivery: Delivery, key: Key) -> Fold:
        """See :meth:`Session.fold`. Sums are taken in the order of the shards, whoever is done first."""
        from fedwave.engines.workers.shards import Trained, cut, pack, split, unpack

        self.apply_base(message.base)
        fold = Fold(self.uplink, len(cohort), delivery.coefficient.shape[1], delivery.noise)
        shards = split(self.runs(delivery), cohort.steps, self.pool.limit)
        told = pack((Message(message.shared), key))
        jobs = [lambda at=at: pack(cut(at, message, store, cohort, delivery)) for at in shards]
        for at, packed in zip(shards, self.pool.train(told, message.base, jobs, cohort.round), strict=True):
            trained: Trained = unpack(packed)
            fold.merge(trained.fold, at)
            if len(trained.changed):
                store.put(trained.changed, trained.memory)
        return fold


class _Worker:
    """The actor. Its trainer builds the model with the first shard, so that what fails there fails as a task."""

    def __init__(self, recipe: bytes, paths: list[str], folder: str) -> None:
        # The user's modules are found where this job found them; another machine may not have these folders.
        sys.path += [path for path in paths if path not in sys.path]
        if os.path.isdir(folder):
            os.chdir(folder)
        self.recipe = recipe
        self.trainer: Trainer | None = None

    def begun(self) -> int:
        """The process, once the worker has been given its CPUs."""
        return os.getpid()

    def train(self, told: Packed, base: list[Any], shard: Packed) -> tuple[Packed, list[str]]:
        """See :meth:`fedwave.engines.workers.shards.Trainer.train`; ``base`` refers to all changes of the base."""
        import ray
        from ray import cloudpickle

        from fedwave.engines.workers.shards import Trainer

        if self.trainer is None:
            self.trainer = Trainer(cloudpickle.loads(self.recipe))
        return self.trainer.train(told, ray.get(base[self.trainer.applied :]), shard)


class _Pool:
    """Workers that come when a round needs them and are replaced when they are lost; shard n goes to worker n.

    Parameters
    ----------
    limit : workers at most.
    cpus : that each reserves in the cluster.
    """

    def __init__(self, ray: Any, recipe: Recipe, limit: int, cpus: int) -> None:
        self.ray, self.limit = ray, limit
        self._recipe = ray.put(ray.cloudpickle.dumps(recipe))
        self._actor = ray.remote(num_cpus=cpus, scheduling_strategy="SPREAD")(_Worker)
        self._workers: list[Any] = []
        self._begun: list[Any] = []
        self._base: list[Any] = []
        self._noted: set[str] = set()

    def train(
        self, told: Packed, base: Sequence[Any], jobs: Sequence[Callable[[], Packed]], round: int
    ) -> Iterator[Packed]:
        """What became of each of ``jobs``, in their order. Whatever goes wrong, no worker goes on afterwards."""
        from fedwave.engines.workers.shards import pack

        try:
            self._base += [self.ray.put(pack(change)) for change in base[len(self._base) :]]
            shared = self.ray.put(told)
            yield from self._results(lambda number: self._send(number, shared, jobs[number]()), len(jobs), round)
        except BaseException:
            self.stop()
            raise

    def stop(self) -> None:
        """End all workers; the next round starts new ones."""
        for worker in self._workers:
            self.ray.kill(worker)
        self._workers, self._begun = [], []

    def _results(self, send: Callable[[int], Any], jobs: int, round: int) -> Iterator[Packed]:
        while len(self._workers) < jobs:
            self._workers.append(self._new())
        pending = {send(number): number for number in range(jobs)}
        done: dict[int, Packed] = {}
        lost: Counter[int] = Counter()
        for wanted in range(jobs):
            while wanted not in done:
                answer = self._next(list(pending))
                number = pending.pop(answer)
                try:
                    done[number], notes = self.ray.get(answer)
                    self._note(notes)
                except self.ray.exceptions.RayTaskError as error:
                    raise _own(error) from None
                except self.ray.exceptions.RayError as error:
                    lost[number] += 1
                    _check_lost(lost[number], round, error)
                    self._workers[number] = self._new()
                    pending[send(number)] = number
            yield done.pop(wanted)

    def _send(self, number: int, shared: Any, shard: Packed) -> Any:
        return self._workers[number].train.remote(shared, self._base, shard)

    def _new(self) -> Any:
        worker = self._actor.remote(self._recipe, sys.path, os.getcwd())
        self._begun.append(worker.begun.remote())
        return worker

    def _next(self, pending: list[Any]) -> Any:
        """The first of ``pending`` that is done."""
        while not (ready := self.ray.wait(pending, timeout=_PATIENCE_S)[0]):
            waiting = self.ray.wait(self._begun, num_returns=len(self._begun), timeout=0)[1]
            if waiting:
                self._note([f"{len(waiting)} of {len(pending)} Ray workers wait for CPUs of the cluster to be free"])
        return ready[0]

    def _note(self, texts: list[str]) -> None:
        for text in texts:
            if text not in self._noted:  # each worker says what all say
                self._noted.add(text)
                warnings.warn(text, stacklevel=3)


def _own(error: Any) -> BaseException:
    """What went wrong in a worker, as it is where it is fedwave's own or one sentence; else with its traceback."""
    cause = error.cause
    return cause if isinstance(cause, (FedwaveError, MemoryError, OSError, OverflowError)) else error


def _check_lost(times: int, round: int, error: Exception) -> None:
    """Say that a worker is replaced, or raise :class:`BadInput` where that has not helped."""
    memory = " (the machine is low on memory)" if "low on memory" in str(error) else ""
    if times == _TRIES:
        raise BadInput(
            f"a Ray worker ended {times} times while it trained the same clients of round {round}{memory}; where memory"
            " is short, fewer engine.workers, or a smaller engine.max_clients or engine.token_budget, need less of it"
        ) from error
    warnings.warn(
        f"a Ray worker ended in round {round}{memory}; its clients are trained again by a new one", stacklevel=4
    )


def _workers(engine: RayEngine, cpus: int) -> int:
    """How many workers, at most. Raises :class:`Refused` where a cluster cannot have them."""
    if engine.address and engine.workers * engine.threads > cpus:
        raise Refused(
            f"engine.workers = {engine.workers} with engine.threads = {engine.threads} are "
            f"{engine.workers * engine.threads} CPUs, and the Ray cluster has {cpus}"
        )
    return engine.workers or max(1, cpus // engine.threads)


def _check_answers(address: str) -> None:
    """Raise :class:`BadInput` where nobody answers at ``host:port``; Ray itself would try for minutes, aloud."""
    host, _, port = address.removeprefix("ray://").rpartition(":")
    if not (host and port.isdecimal()):
        return
    try:
        socket.create_connection((host.strip("[]"), int(port)), timeout=_ANSWER_S).close()
    except (OSError, OverflowError) as error:
        raise BadInput(f"no Ray cluster answers at engine.address = {address!r}: {error}") from None


def _connected(address: str) -> Any:
    """Ray, started or joined. Raises :class:`BadInput`."""
    # Read when Ray is imported: no report to its makers; and a lost worker is told of once, by us.
    os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")
    os.environ.setdefault("RAY_DEDUP_LOGS_SKIP_REGEX", "worker died or was killed")
    try:
        import ray
    except ModuleNotFoundError:
        raise BadInput("engine.name = \"ray\" needs Ray: pip install 'fedwave[ray]'") from None
    if ray.is_initialized():
        return ray
    _check_answers(address)
    quiet: dict[str, Any] = {"log_to_driver": False, "logging_level": logging.ERROR}
    try:
        ray.init(address=address, **quiet) if address else ray.init("local", include_dashboard=False, **quiet)
    except Exception as error:  # Ray has no one exception for it
        reason = " ".join(str(error).split())
        where = f"no Ray cluster can be joined at engine.address = {address!r}" if address else "Ray cannot be started"
        raise BadInput(f"{where}: {reason}") from None
    return ray
