"""The job file's reference, from the dataclasses themselves: every table, every key, its type, range, default, meaning."""

from __future__ import annotations

import dataclasses
import inspect
import re
import types
import typing
from collections.abc import Iterator
from typing import Annotated, Any, Literal

from docstrings import parameters
from fedwave.core import config, registry
from fedwave.experiment import Experiment

# Parts of parts get a section of their own; the order is that of the page.
TOP = {
    "task": "task", "method": "method", "transform": "transform", "sampler": "sampler", "federation": "federation",
    "network": "network", "engine": "engine",
}  # fmt: skip
INNER = {
    "adapter": "`adapter` of a task",
    "partition": "`partition` of a task",
    "optimizer": "`local_optimizer`, `server_optimizer` of a method",
    "scheduler": "`scheduler` of a cell",
    "uplink": "`uplink` of a cell",
}
_PLAIN = {int: "integer", float: "number", str: "text", bool: "`true` or `false`"}
_BOUNDS = {"gt": "> {}", "ge": "≥ {}", "lt": "< {}", "le": "≤ {}"}
_MOST = 2**31 - 1  # a guard against slips, not a range worth printing


@dataclasses.dataclass(frozen=True)
class Key:
    """One key of a table: how it is written, what it may be, its default (Markdown), what it means."""

    name: str
    type: str
    default: str
    meaning: str


def keys(cls: type) -> list[Key]:
    """The keys of the table that ``cls`` reads, in order."""
    hints, told = typing.get_type_hints(cls, include_extras=True), parameters(cls)
    return [
        Key(f.name, _type(hints[f.name]), _default(f), told.get(f.name) or _sourced(f))
        for f in dataclasses.fields(cls)
        if f.init
    ]


def tables() -> Iterator[tuple[str, str, type]]:
    """Every table of a job: (heading, name in the job or "", class)."""
    yield "Top level", "", Experiment
    for kind in dict.fromkeys([*TOP.values(), *INNER]):
        for name in registry.names(kind):
            cls = registry.lookup(kind, name)
            if cls.__module__.startswith("fedwave."):
                yield kind, name, cls
    for cls in _nested():
        yield cls.__name__, "", cls


def undescribed() -> list[str]:
    """Keys that no docstring explains, as ``Class.key``."""
    return sorted({f"{cls.__name__}.{key.name}" for _, _, cls in tables() for key in keys(cls) if not key.meaning})


def page() -> str:
    """The reference as Markdown, headings from the second level on."""
    plain = [key for key in keys(Experiment) if key.name in ("seed", "rounds", "eval_every")]
    lines = ["## Top level", "", *_table(plain)]
    nested = {cls.__name__: cls for cls in _nested()}
    for name in [f.name for f in dataclasses.fields(Experiment) if f.name not in {k.name for k in plain}]:
        bracket = f"[[{name}]]" if name == "transform" else f"[{name}]"
        lines += ["", f"(job-{name})=", f"## `{bracket}`", ""]
        if name in TOP:
            lines += _plugins(TOP[name], level=3)
        else:
            cls = nested[name.capitalize()]
            lines += [_summary(cls), "", *_table(keys(cls))]
    lines += ["", "## Parts of parts", "", "A part is written as a table with its `name`, or as the bare name."]
    for kind, heading in INNER.items():
        lines += ["", f"(job-{kind})=", f"### {heading}", "", *_plugins(kind, level=4)]
    for name, cls in nested.items():
        if name.lower() not in {f.name for f in dataclasses.fields(Experiment)}:
            lines += ["", f"(job-{name.lower()})=", f"### {_where(cls)}", "", _summary(cls), "", *_table(keys(cls))]
    return "\n".join(lines) + "\n"


def _plugins(kind: str, level: int) -> list[str]:
    lines: list[str] = []
    for name in registry.names(kind):
        cls = registry.lookup(kind, name)
        if not cls.__module__.startswith("fedwave."):
            continue
        cite = getattr(cls, "cite", "")
        lines += [f"{'#' * level} `name = \"{name}\"`", "", _summary(cls) + (f" Source: {cite}." if cite else ""), ""]
        lines += [*(_table(keys(cls)) if keys(cls) else ["No keys."]), ""]
    return lines


def _table(rows: list[Key]) -> list[str]:
    lines = ["| key | type | default | meaning |", "|---|---|---|---|"]
    for row in rows:
        cells = (f"`{row.name}`", row.type, row.default, markdown(row.meaning))
        lines.append("| " + " | ".join(cell.replace("|", "\\|") for cell in cells) + " |")
    return lines


def markdown(text: str) -> str:
    """A piece of a docstring as Markdown: roles become code."""
    text = re.sub(r":\w+:`~?([^`]+)`", lambda m: f"`{m.group(1).rpartition('.')[2]}`", text)
    return re.sub(r"(?<!`)``([^`]+)``(?!`)", r"`\1`", text).strip()


def _summary(cls: type) -> str:
    first = inspect.getdoc(cls).split("\n\n")[0]  # type: ignore[union-attr]
    return markdown(" ".join(first.split()))


def _nested() -> list[type]:
    """Dataclasses that are tables without a name: fleet, device, server, budget, energy."""
    found: dict[type, None] = {}
    waiting: list[type] = [Experiment, *(registry.lookup(k, n) for k in [*TOP.values(), *INNER] for n in registry.names(k))]
    while waiting:
        for hint in typing.get_type_hints(waiting.pop(0), include_extras=True).values():
            for inner in _dataclasses_in(hint):
                if inner not in found:
                    found[inner] = None
                    waiting.append(inner)
    return list(found)


def _dataclasses_in(hint: Any) -> Iterator[type]:
    if any(isinstance(m, config._Part) for m in getattr(hint, "__metadata__", ())):
        return
    if dataclasses.is_dataclass(hint) and isinstance(hint, type):
        yield hint
    for inner in typing.get_args(hint):
        yield from _dataclasses_in(inner)


def _where(cls: type) -> str:
    """A heading for a table without a name of its own: where it stands."""
    places = []
    for kind in [*TOP.values(), *INNER]:
        for name in registry.names(kind):
            owner = registry.lookup(kind, name)
            hints = typing.get_type_hints(owner, include_extras=True)
            places += [
                f"`{kind}.{f.name}`" for f in dataclasses.fields(owner) if cls in set(_dataclasses_in(hints[f.name]))
            ]
    if cls.__name__ == "Device":
        return "`[fleet.device.NAME]`"
    return ", ".join(dict.fromkeys(places)) or f"`{cls.__name__}`"


def _type(hint: Any) -> str:
    if typing.get_origin(hint) is Annotated:
        inner, *marks = typing.get_args(hint)
        for mark in marks:
            if isinstance(mark, config._Part):
                return f"[{mark.kind}](#job-{mark.kind})" if mark.kind in INNER else f"{mark.kind}"
        bounds = [_bound(m) for mark in marks for m in getattr(mark, "metadata", ())]
        return ", ".join([_type(inner), *filter(None, bounds)])
    if typing.get_origin(hint) in (typing.Union, types.UnionType):
        return " or ".join(_type(arm) for arm in typing.get_args(hint) if arm is not type(None))
    if typing.get_origin(hint) is Literal:
        return ", ".join(f"`{_toml(value)}`" for value in typing.get_args(hint))
    if typing.get_origin(hint) is tuple:
        return f"list of {_type(typing.get_args(hint)[0])}"
    if typing.get_origin(hint) is dict:
        return f"table of {_type(typing.get_args(hint)[1])}"
    if dataclasses.is_dataclass(hint):
        return f"[table](#job-{hint.__name__.lower()})"
    return _PLAIN.get(hint, str(getattr(hint, "__name__", hint)))


def _bound(mark: Any) -> str:
    for name, text in _BOUNDS.items():
        value = getattr(mark, name, None)
        if value is not None and value != _MOST:
            return text.format("2⁶³" if value == 2**63 else f"{value:g}")
    return ""


def _default(field: dataclasses.Field[Any]) -> str:
    if field.default is not dataclasses.MISSING:
        value = field.default
    elif field.default_factory is not dataclasses.MISSING:
        value = field.default_factory()
    else:
        return "required"
    return "–" if value is None else f"`{_toml(value)}`"


def _toml(value: Any) -> str:
    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        return _part(value)
    if isinstance(value, bool):
        return str(value).lower()
    if isinstance(value, dict):
        return "{ " + ", ".join(f"{k} = {_toml(v)}" for k, v in value.items()) + " }" if value else "{}"
    if isinstance(value, (list, tuple)):
        return "[" + ", ".join(map(_toml, value)) + "]"
    return f'"{value}"' if isinstance(value, str) else f"{value:.6g}" if isinstance(value, float) else str(value)


def _part(value: Any) -> str:
    """A plug-in by its name and the keys in which it differs from its class."""
    if "registered_name" not in vars(type(value)):
        return "{}"
    changed = {f.name: getattr(value, f.name) for f in dataclasses.fields(value) if _differs(value, f)}
    if not changed:
        return f'"{registry.name_of(value)}"'
    return _toml({"name": registry.name_of(value), **changed})


def _differs(value: Any, field: dataclasses.Field[Any]) -> bool:
    own = field.default if field.default_factory is dataclasses.MISSING else field.default_factory()
    return getattr(value, field.name) != own


def _sourced(field: dataclasses.Field[Any]) -> str:
    """Unit and source of a link-budget entry."""
    source, unit = field.metadata.get("source", ""), field.metadata.get("unit", "")
    return f"{unit}; {source}" if source and unit else source
