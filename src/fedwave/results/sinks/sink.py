"""The sink base, and the open sinks of a run. A sink never takes part in the numbers: one that fails is dropped."""

from __future__ import annotations

import importlib.util
import textwrap
import warnings
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar, NamedTuple, Protocol

from fedwave.core.errors import BadInput
from fedwave.core.registry import name_of


class Target(NamedTuple):
    """What a sink is opened for: the run folder, the resolved job as a table, the first round to come."""

    folder: Path
    job: Mapping[str, Any]
    round: int

    def once(self, service: str, make: Callable[[], str]) -> tuple[str, bool]:
        """The id of this run at ``service`` and whether it is new; kept in the folder, so that a resume finds it."""
        path = self.folder / f"{service}.id"
        if path.is_file():
            return path.read_text(encoding="utf-8").strip(), False
        made = make()
        path.write_text(made + "\n", encoding="utf-8")
        return made, True


class Writer(Protocol):
    """An open sink."""

    def write(self, round: int, values: Mapping[str, float]) -> None:
        """Take in one record: the number of rounds done, and its numbers by dotted name."""
        ...

    def close(self, finished: bool) -> None:
        """Flush and let go; ``finished``: all rounds were played."""
        ...


@dataclass(frozen=True)
class Sink(ABC):
    """Base of all sinks; ``package`` is what must be installed for it."""

    package: ClassVar[str] = ""

    def check(self) -> None:
        """Raise :class:`BadInput` where the package is absent."""
        spec = importlib.util.find_spec(self.package) if self.package else None
        if self.package and (spec is None or spec.origin is None):  # no origin: a mere folder of that name
            raise BadInput(f"sink {name_of(self)!r} needs the package {self.package!r}: pip install {self.package}")

    @abstractmethod
    def open(self, target: Target) -> Writer:
        """Begin, or after a resume go on with, this run at the service."""


class Sinks:
    """The open sinks of one run; one that raises is dropped with a note, and the run goes on."""

    def __init__(self) -> None:
        self._open: dict[str, Writer] = {}

    def open(self, sinks: Sequence[Sink], target: Target, initial: Mapping[str, float]) -> None:
        """Open ``sinks``; ``initial`` are the held-out metrics before the first round and count as round 0."""
        for place, sink in enumerate(sinks):
            name = f"{place} ({name_of(sink)})"
            with self._dropping(name):
                self._open[name] = sink.open(target)
        if target.round == 0:
            self._write(0, numbers({"eval": initial}))

    def write(self, record: Mapping[str, Any]) -> None:
        """Give one record to every sink that still works."""
        self._write(record["round"] + 1, numbers({key: value for key, value in record.items() if key != "round"}))

    def _write(self, round: int, values: dict[str, float]) -> None:
        for name, writer in list(self._open.items()):
            with self._dropping(name):
                writer.write(round, values)

    def close(self, *, finished: bool) -> None:
        """Close what is open."""
        for name, writer in list(self._open.items()):
            with self._dropping(name):
                writer.close(finished)
        self._open = {}

    @contextmanager
    def _dropping(self, name: str) -> Iterator[None]:
        try:
            yield
        except Exception as error:  # whatever a service's client raises
            self._open.pop(name, None)
            reason = textwrap.shorten(f"{type(error).__name__}: {error}", 200, placeholder=" ...")
            warnings.warn(f"sink {name} failed and is dropped; the run goes on ({reason})", stacklevel=4)


def flat(table: Mapping[str, Any], prefix: str = "") -> dict[str, Any]:
    """The values of a nested table by dotted name (``eval.loss``)."""
    found: dict[str, Any] = {}
    for key, value in table.items():
        found |= flat(value, f"{prefix}{key}.") if isinstance(value, Mapping) else {f"{prefix}{key}": value}
    return found


def numbers(table: Mapping[str, Any]) -> dict[str, float]:
    """The numbers among the values of a nested table by dotted name; lists and texts are left out."""
    return {name: float(value) for name, value in flat(table).items() if isinstance(value, (int, float))}
