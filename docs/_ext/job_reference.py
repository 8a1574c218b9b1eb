"""The job file's reference, from the dataclasses: every table, every key, its type, range, default, meaning."""

from __future__ import annotations

import dataclasses
import inspect
import re
import types
import typing
from collections.abc import Callable, Iterator
from typing import Annotated, Any, Literal

from docstrings import parameters

from fedwave.core import config, registry
from fedwave.experiment import Experiment

_PLAIN = {int: "integer", float: "number", str: "text", bool: "`true` or `false`"}
_BOUNDS = {"gt": ">\u00a0{}", "ge": "≥\u00a0{}", "lt": "<\u00a0{}", "le": "≤\u00a0{}"}
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
    """Every table of a job: (kind of plug-in or "", name in the job or "", class)."""
    yield "", "", Experiment
    for kind in [*_kinds_of(Experiment).values(), *inner_kinds()]:
        for name in _built_in(kind):
            yield kind, name, registry.lookup(kind, name)
    for cls in _nested():
        yield "", "", cls


def undescribed() -> list[str]:
    """Keys that no docstring explains, as ``Class.key``."""
    return sorted({f"{cls.__name__}.{key.name}" for _, _, cls in tables() for key in keys(cls) if not key.meaning})


def page() -> str:
    """The reference as Markdown, headings from the second level on."""
    kinds, hints = _kinds_of(Experiment), typing.get_type_hints(Experiment, include_extras=True)
    nested = {f.name: inner for f in dataclasses.fields(Experiment) for inner in _dataclasses_in(hints[f.name])}
    lines = ["## Top level", "", *_table([key for key in keys(Experiment) if key.name not in {**kinds, **nested}])]
    for name in (f.name for f in dataclasses.fields(Experiment) if f.name in {**kinds, **nested}):
        bracket = f"[[{name}]]" if "tuple" in str(hints[name]) else f"[{name}]"
        lines += ["", f"(job-{name})=", f"## `{bracket}`", ""]
        if name in kinds:
            lines += _plugins(kinds[name], level=3)
        else:
            lines += [_summary(nested[name]), "", *_table(keys(nested[name]))]
    lines += ["", "## Parts of parts", "", "A part is written as a table with its `name`, or as the bare name."]
    for kind, places in inner_kinds().items():
        heading = ", ".join(f"`{table}.{key}`" for table, key in dict.fromkeys(places))
        lines += ["", f"(job-{kind})=", f"### {heading}", "", *_plugins(kind, level=4)]
    for cls in (c for c in _nested() if c not in nested.values()):
        lines += ["", f"(job-{cls.__name__.lower()})=", f"### {_where(cls)}", "", _summary(cls), "", *_table(keys(cls))]
    return "\n".join(lines) + "\n"


def inner_kinds() -> dict[str, list[tuple[str, str]]]:
    """Kinds of plug-in that stand inside plug-ins: kind -> (table, key) of each place."""
    found: dict[str, list[tuple[str, str]]] = {}
    waiting = [(kind, kind) for kind in _kinds_of(Experiment).values()]
    while waiting:
        kind, table = waiting.pop(0)
        for name in _built_in(kind):
            for key, inner in _kinds_of(registry.lookup(kind, name)).items():
                if inner not in found:
                    waiting.append((inner, f"{table}.{key}"))
                found.setdefault(inner, []).append((table, key))
    return found


def _built_in(kind: str) -> list[str]:
    return [name for name in registry.names(kind) if registry.lookup(kind, name).__module__.startswith("fedwave.")]


def _kinds_of(cls: type) -> dict[str, str]:
    """Keys of ``cls`` that hold plug-ins, and of which kind."""
    return {name: marker.kind for name, marker in config._parts(cls).items()}


def _plugins(kind: str, level: int) -> list[str]:
    """A section per entry of ``kind``; keys that all of them share stand before them, once."""
    base = registry._base(kind)
    shared = keys(base) if dataclasses.is_dataclass(base) else []
    lines = [f"Every {kind} has", "", *_table(shared), ""] if shared else []
    for name in _built_in(kind):
        cls = registry.lookup(kind, name)
        cite = getattr(cls, "cite", "")
        lines += [f'{"#" * level} `name = "{name}"`', "", _summary(cls) + (f" Source: {cite}." if cite else ""), ""]
        own = [key for key in keys(cls) if key not in shared]
        lines += [*(_table(own) if own else ["No further keys." if shared else "No keys."]), ""]
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
    """Dataclasses that are tables without a name, such as the fleet or the link budget."""
    kinds = [*_kinds_of(Experiment).values(), *inner_kinds()]
    waiting: list[type] = [Experiment, *(registry.lookup(kind, name) for kind in kinds for name in _built_in(kind))]
    found: dict[type, None] = {}
    while waiting:
        for hint in typing.get_type_hints(waiting.pop(0), include_extras=True).values():
            new = [inner for inner in _dataclasses_in(hint) if inner not in found]
            found |= dict.fromkeys(new)
            waiting += new
    return list(found)


def _dataclasses_in(hint: Any) -> Iterator[type]:
    if any(isinstance(m, config._Part) for m in getattr(hint, "__metadata__", ())) or _is_callable(hint):
        return
    if dataclasses.is_dataclass(hint) and isinstance(hint, type):
        yield hint
    for inner in typing.get_args(hint):
        yield from _dataclasses_in(inner)


def _where(cls: type) -> str:
    """A heading for a table without a name of its own: where it stands."""
    places = []
    owners = [(kind, owner) for kind, _, owner in tables() if kind] + [(c.__name__.lower(), c) for c in _nested()]
    for table, owner in owners:
        hints = typing.get_type_hints(owner, include_extras=True)
        for field in dataclasses.fields(owner):
            if cls in set(_dataclasses_in(hints[field.name])):
                many = ".NAME" if typing.get_origin(hints[field.name]) is dict else ""
                places.append(f"`[{table}.{field.name}{many}]`")
    return ", ".join(dict.fromkeys(places))


def _type(hint: Any) -> str:
    if typing.get_origin(hint) is Annotated:
        inner, *marks = typing.get_args(hint)
        for mark in marks:
            if isinstance(mark, config._Part):
                return f"[{mark.kind}](#job-{mark.kind})"
        bounds = [_bound(m) for mark in marks for m in getattr(mark, "metadata", ())]
        return ", ".join([_type(inner), *filter(None, bounds)])
    if typing.get_origin(hint) in (typing.Union, types.UnionType):
        arms = [arm for arm in typing.get_args(hint) if arm is not type(None) and not _is_callable(arm)]
        return " or ".join(map(_type, arms))
    if typing.get_origin(hint) is Literal:
        return ", ".join(f"`{_toml(value)}`" for value in typing.get_args(hint))
    if typing.get_origin(hint) is tuple:
        return f"list of {_type(typing.get_args(hint)[0])}"
    if typing.get_origin(hint) is dict:
        return f"table of {_type(typing.get_args(hint)[1])}"
    if dataclasses.is_dataclass(hint):
        return f"[table](#job-{hint.__name__.lower()})"
    if hint is Any:
        return "anything"
    return _PLAIN.get(hint, str(getattr(hint, "__name__", hint)))


def _is_callable(hint: Any) -> bool:
    """A function, which Python can give and a job file cannot."""
    return typing.get_origin(hint) is Callable


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
