"""The house's docstrings: a line, prose, then sections of ``names : text``. Read for tables, made into lists."""

from __future__ import annotations

import inspect
import re
from collections.abc import Iterator

_ENTRY = re.compile(r"([\w*, ]+?) : (.+)")


def sections(doc: str) -> dict[str, list[str]]:
    """Lines of each part of a docstring by its heading; "" is what stands before the first."""
    lines, found, name = inspect.cleandoc(doc).split("\n"), {"": []}, ""
    for number, line in enumerate(lines):
        under = lines[number + 1] if number + 1 < len(lines) else ""
        if line and re.fullmatch(r"-{3,}", under):
            name = line.strip()
            found[name] = []
        elif not (re.fullmatch(r"-{3,}", line) and number and lines[number - 1].strip() == name):
            found[name].append(line)
    return found


def entries(lines: list[str]) -> Iterator[tuple[str, str]]:
    """``(names, text)`` of a section's entries; indented lines go on with the entry before them."""
    names, text = "", ""
    for line in lines:
        match = _ENTRY.match(line)
        if match and not line.startswith(" "):
            if names:
                yield names, text
            names, text = match.group(1), match.group(2)
        elif line.strip() and names:
            text += " " + line.strip()
    if names:
        yield names, text


def parameters(cls: type) -> dict[str, str]:
    """Meaning of each field of ``cls``, from its docstring and those of its bases, in which the nearest one counts."""
    told: dict[str, str] = {}
    for base in reversed(cls.__mro__):
        doc = vars(base).get("__doc__") or ""
        for names, text in entries(sections(doc).get("Parameters", [])):
            told |= {name.strip(): text for name in names.split(",")}
    return told


def restructured(lines: list[str]) -> list[str]:
    """A docstring's lines with its sections as definition lists, for Sphinx."""
    parts = sections("\n".join(lines))
    out = list(parts.pop(""))
    for heading, body in parts.items():
        told = list(entries(body))
        out += ["", f":{heading}:" if told else heading, ""]
        for names, text in told:
            code = ", ".join(f"``{name.strip()}``" for name in names.split(","))
            out += [f"    {code}", f"        {text}", ""]
        if not told:
            out += [f"    {line}" for line in body]
    return [*out, ""]
