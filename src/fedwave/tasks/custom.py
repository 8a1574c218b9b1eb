"""A model, loss and data of the user's own, from Python. Unlike the other tasks, planning one imports torch."""

from __future__ import annotations

import importlib
import importlib.util
import operator
import os
import sys
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from types import ModuleType
from typing import TYPE_CHECKING, Annotated, Any, cast

from fedwave.core.config import Count, Fraction, part
from fedwave.core.errors import BadInput
from fedwave.core.registry import importing_from, register
from fedwave.core.types import Ints, Spec
from fedwave.tasks.partitions import IID, Column, Partition, class_indices
from fedwave.tasks.task import Division, Learner, Progress, Task, divide

if TYPE_CHECKING:
    from torch import Tensor, nn

    from fedwave.tasks.learners.custom import Data

    Rows = Mapping[str, Any] | Sequence[Any]
    Output = Any
    Batch = dict[str, Any]


@dataclass(frozen=True)
class Problem:
    """What a factory gives to :class:`Custom`.

    Parameters
    ----------
    model : makes the module; called under the job's seed, so that initial values follow from it. Its parameters that
        require grad are trained, the others stay as they are. It runs in eval mode: dropout is off.
    loss : ``loss(output, batch)`` gives one value for each row, ``[n]``.
    data : the training rows: arrays or tensors by name, ``[n, ...]`` each; or a data set with ``len`` and ``[i]`` (as
        ``torch.utils.data.Dataset``) whose items are such tables or tuples, named ``x``, ``y``, ``z`` in their order
        (a list of tuples is one); or a list of either, one for each client.
    eval_data : held-out rows; by default a fixed random share of the training rows.
    inputs : names of what the model is called with, in order.
    metrics : ``metrics(output, batch)`` gives further held-out figures, ``{name: [n]}``, of which the mean is reported.
    columns : what a partition may group rows by, beside the one-dimensional arrays of ``data``: ``[n]`` each.
    """

    model: Callable[[], nn.Module]
    loss: Callable[[Output, Batch], Tensor]
    data: Rows | Sequence[Rows]
    eval_data: Rows | None = None
    inputs: tuple[str, ...] = ("x",)
    metrics: Callable[[Output, Batch], dict[str, Tensor]] | None = None
    columns: Mapping[str, Sequence[Any]] = field(default_factory=dict)


def _named(value: Any) -> Any:
    """A factory by where it is: ``"module:function"``, or ``"/path/of/script.py:function"`` for the program itself."""
    if isinstance(value, str) or not callable(value):
        return value
    module, name = getattr(value, "__module__", "?"), getattr(value, "__qualname__", "?")
    if "<" in name:
        raise BadInput(
            f"factory must be a function at the top level of a module, by whose name a run can be resumed, got {name}"
        )
    script = getattr(sys.modules.get("__main__"), "__file__", None)
    return f"{os.path.abspath(script)}:{name}" if module == "__main__" and script else f"{module}:{name}"


@register("task", "custom")
@dataclass(frozen=True)
class Custom(Task):
    """A ``torch.nn.Module``, a loss and data of the user's own; in Python ``Custom(make)`` with a function ``make``.

    Arithmetic and memory of the plan are measured on torch's meta device, on two rows: matrix products, convolutions
    and attention forward and backward, and the values that are kept for the backward pass.

    Parameters
    ----------
    factory : function that gives a :class:`Problem`: ``"my_pkg.my_file:make"``, ``"my_file.py:make"``, or itself. It is
        called with ``options``, under a fixed seed of torch's generator. A script guards its own run with
        ``if __name__ == "__main__"``, because resuming imports it.
    options : keyword arguments of the factory.
    partition : who holds which rows; by default the clients of ``data``, or else 20 clients with random rows.
    label_field : column of the classes, for label-skewed partitions.
    eval_fraction : share of the rows that is held out where the problem has no ``eval_data``.
    batch_size : rows of a local step.
    """

    factory: str | Callable[..., Problem]
    options: dict[str, Any] = field(default_factory=dict)
    partition: Annotated[Partition | None, part("partition")] = None
    label_field: str = "y"
    eval_fraction: Fraction = 0.2
    batch_size: Count = 16

    def __post_init__(self) -> None:
        object.__setattr__(self, "factory", _named(self.factory))
        vars(self)["_make"] = _function(self.factory)  # now, while the modules beside the job come first

    @property
    def problem(self) -> Problem:
        """What the factory gives, asked once."""
        return self.once("_problem", self._ask)

    def _ask(self) -> Problem:
        import torch

        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(0)
            problem = vars(self)["_make"](**self.options)
        if not isinstance(problem, Problem):
            raise BadInput(f"factory {self.factory!r} must return a fedwave.tasks.custom.Problem, got {problem!r:.60}")
        return problem

    @property
    def rows(self) -> Data:
        """Training and held-out rows, checked."""
        from fedwave.tasks.learners.custom import read

        return self.once("_rows", lambda: read(self.problem, str(self.factory), self.eval_fraction))

    def prepare(self, progress: Progress | None = None) -> None:
        """See :meth:`Task.prepare`."""
        _ = self.rows  # read now, once

    def spec(self) -> Spec:
        """See :meth:`Task.spec`. Raises :class:`Refused` for batch normalisation that is trained."""
        from fedwave.tasks.learners.custom import measure

        return self.once("_spec", lambda: measure(self.problem, self.rows, str(self.factory)))

    def samples(self, seed: int, *, public: int = 0) -> Ints:
        """See :meth:`Task.samples`."""
        return self.division(seed, public).samples

    def division(self, seed: int, public: int = 0) -> Division:
        """Who holds which training row."""
        rows = self.rows
        partition = self.partition or (Column("client") if "client" in rows.columns else IID())
        labels = None
        if self.label_field in rows.columns:
            names = [str(value) for value in rows.columns[self.label_field]]
            labels = class_indices(names, sorted(set(names)))
        return divide(rows.trained, labels=labels, columns=rows.columns, partition=partition, seed=seed, public=public)

    def build(self, seed: int, *, public: int = 0, progress: Progress | None = None) -> Learner:
        """See :meth:`Task.build`."""
        from fedwave.tasks.learners.custom import CustomLearner

        return CustomLearner(self.problem, self.rows, self.spec(), self.division(seed, public), seed)


def _function(name: Any) -> Callable[..., Problem]:
    """The function that ``name`` says. Raises :class:`BadInput` where there is none."""
    if not isinstance(name, str) or ":" not in name:
        raise BadInput(f"factory: must be a function or 'my_pkg.my_file:function', got {name!r}")
    where, _, attribute = name.rpartition(":")
    try:
        with importing_from(Path(os.getcwd())):
            found = operator.attrgetter(attribute)(_script(where) if where.endswith(".py") else _module(where))
    except Exception as error:  # a user's module may raise anything while it is imported
        raise BadInput(f"factory: {name!r} cannot be imported: {type(error).__name__}: {error}") from error
    if not callable(found):
        raise BadInput(f"factory: {name!r} must be a function that returns a Problem, it is {found!r:.60}")
    return cast("Callable[..., Problem]", found)


def _module(name: str) -> ModuleType:
    return sys.modules.get(name) or importlib.import_module(name)


def _script(name: str) -> ModuleType:
    """The module in file ``name``: the running program if it is that, else looked for wherever modules are."""
    places = [Path(name).expanduser(), *(Path(folder) / name for folder in sys.path)]
    path = next((place.resolve() for place in places if place.is_file()), None)
    if path is None:
        raise BadInput(f"there is no file {name!r}")
    running = getattr(sys.modules.get("__main__"), "__file__", None)
    if running and Path(running).resolve() == path:
        return sys.modules["__main__"]
    known = f"fedwave_user_{path.stem}_{abs(hash(str(path))):x}"
    if known not in sys.modules:
        spec = importlib.util.spec_from_file_location(known, path)
        assert spec is not None and spec.loader is not None
        module = sys.modules[known] = importlib.util.module_from_spec(spec)
        try:
            spec.loader.exec_module(module)
        except BaseException:
            del sys.modules[known]
            raise
    return sys.modules[known]
