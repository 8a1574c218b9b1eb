"""The documentation runs: every page's commands and Python blocks, in order, in a folder of its own.

- ``toml`` and ``python`` blocks that begin with ``# NAME`` are written to that file (Python runs where it is used);
- other ``python`` blocks are executed, one namespace a page;
- ``console`` blocks: each ``$`` line is run and must succeed; the lines below it must occur in the output in that
  order, ``...`` standing for anything and a number for any number;
- ``shell`` blocks need a network and are not run: only the page about installing has one.
"""

import contextlib
import importlib
import io
import os
import re
import shlex
import subprocess
import sys
from pathlib import Path

import pytest

from fedwave import cli

sybil = pytest.importorskip("sybil")
pytest.importorskip("sphinx")

from sybil.evaluators.python import PythonEvaluator  # noqa: E402
from sybil.parsers.myst import CodeBlockParser  # noqa: E402

ROOT = Path(__file__).parents[1]
DOCS = ROOT / "docs"
PAGES = sorted(path.relative_to(DOCS).as_posix() for path in DOCS.rglob("*.md") if "generated" not in path.parts)
NAMED = re.compile(r"# ([\w-]+\.(?:py|toml))\n")
TESTED = ("python", "toml", "console")


def blocks(page):
    """Every fenced block of a page: (what stands behind the fence, text)."""
    text = (DOCS / page).read_text(encoding="utf-8")
    return re.findall(r"^```([^\n]*)\n(.*?)^```$", text, re.DOTALL | re.MULTILINE)


WITH_CODE = [page for page in PAGES if any(language in ("python", "console") for language, _ in blocks(page))]


@pytest.fixture
def shell(tmp_path, monkeypatch):
    """``shell(command)`` -> output, in the test's folder; ``fedwave`` is this checkout's."""
    binaries = tmp_path / ".bin"
    binaries.mkdir()
    (binaries / "fedwave").write_text(f'#!/bin/sh\nexec "{sys.executable}" -m fedwave.cli "$@"\n')
    (binaries / "fedwave").chmod(0o755)
    monkeypatch.chdir(tmp_path)
    monkeypatch.syspath_prepend(str(tmp_path))
    monkeypatch.setenv("PATH", f"{binaries}{os.pathsep}{os.environ['PATH']}")
    monkeypatch.setenv("PYTHONPATH", str(ROOT / "src"))
    monkeypatch.setenv("FEDWAVE_CACHE", str(tmp_path / ".cache"))
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    monkeypatch.setenv("OMP_NUM_THREADS", "1")

    def call(command):
        if command.startswith("fedwave ") and not set(command) & set(";|&<>$"):
            return in_process(shlex.split(command.replace("\\\n", " ")), monkeypatch)
        done = subprocess.run(["sh", "-ec", command], capture_output=True, text=True, check=False)
        assert done.returncode == 0, f"$ {command}\n{done.stdout}\n{done.stderr}"
        return done.stdout

    return call


def in_process(arguments, monkeypatch):
    """A ``fedwave`` command without a process of its own, which saves loading torch each time."""
    out, err = io.StringIO(), io.StringIO()
    monkeypatch.setattr(sys, "argv", arguments)
    with contextlib.redirect_stdout(out), contextlib.redirect_stderr(err), pytest.raises(SystemExit) as end:
        cli.main()
    assert not end.value.code, f"$ {' '.join(arguments)}\n{out.getvalue()}\n{err.getvalue()}"
    return out.getvalue()


def commands(block):
    """(command, the lines below it) for each command of a console block; ``>`` goes on with a command."""
    found = []
    for line in block.splitlines():
        if line.startswith("$ "):
            found.append((line[2:], []))
        elif line.startswith("> "):
            found[-1] = (f"{found[-1][0]}\n{line[2:]}", [])
        else:
            found[-1][1].append(line)
    return found


def loosely(text):
    """Spaces and numbers made alike."""
    return " ".join(re.sub(r"\d[\d,.]*", "#", text).split())


def shows(output, expected):
    """Whether the expected lines occur in the output, in order, ``...`` being anything."""
    pieces = ["", *(loosely(piece) for piece in "\n".join(expected).split("..."))]
    return re.search(".*".join(map(re.escape, pieces)), loosely(output)) is not None


def evaluator(shell, language):
    """How a block of a page is evaluated."""
    python = PythonEvaluator()

    def evaluate(example):
        text = str(example.parsed)
        if language == "console":
            for command, expected in commands(text):
                output = shell(command)
                assert shows(output, expected), f"$ {command}\n{output}\n--- the page shows:\n" + "\n".join(expected)
        elif named := NAMED.match(text):
            Path(named.group(1)).write_text(text, encoding="utf-8")
        elif language == "python":
            python(example)

    return evaluate


@pytest.mark.parametrize("page", WITH_CODE)
def test_page_runs(page, shell):
    parsers = [CodeBlockParser(language, evaluator(shell, language)) for language in TESTED]
    found = list(sybil.Document.parse(str(DOCS / page), *parsers).examples())
    assert len(found) == sum(language in TESTED for language, _ in blocks(page))
    for example in found:
        example.evaluate()


def test_how_to_pages_are_there_and_run():
    wanted = {f"howto/{name}.md" for name in ("model", "data", "method", "channel", "device", "read_a_run", "compare")}
    assert wanted | {"start.md"} <= set(WITH_CODE)


def test_only_installing_is_not_run():
    shells = {page for page in PAGES for language, _ in blocks(page) if language in ("shell", "bash", "sh")}
    assert shells <= {"start.md"}


# ---- what is made from the code ------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def extension():
    """``docs/_ext/NAME.py`` as a module."""
    sys.path.insert(0, str(DOCS / "_ext"))
    try:
        yield importlib.import_module
    finally:
        sys.path.remove(str(DOCS / "_ext"))


def test_every_key_is_described(extension):
    """A key of the job without a line in its class's docstring is listed here; add ``name : meaning`` to Parameters."""
    assert extension("job_reference").undescribed() == []


def test_job_reference_has_every_table_and_key(extension):
    """Compared with what ``fedwave`` writes of a default job, which another piece of code makes."""
    from fedwave.experiment import Experiment

    page = extension("job_reference").page()
    table = Experiment.parse({"task": "toy"}).to_table()
    for name, value in table.items():
        assert f"`{name}`" in page or f"[{name}]" in page
        for key in value if isinstance(value, dict) else ():
            assert key == "name" or f"| `{key}` |" in page


def test_types_ranges_and_defaults(extension):
    """Read off by hand: Toy.batch_size is a Count of default 8, Cell.o2i_model one of two, Cell.radius_m is absent."""
    from fedwave.tasks.toy import Toy
    from fedwave.wireless.networks.cell import Cell

    reference = extension("job_reference")
    toy = {key.name: key for key in reference.keys(Toy)}
    cell = {key.name: key for key in reference.keys(Cell)}
    assert (toy["batch_size"].type, toy["batch_size"].default) == ("integer, ≥\u00a01", "`8`")
    assert cell["o2i_model"].type == '`"low"`, `"high"`'
    assert (cell["radius_m"].type, cell["radius_m"].default) == ("number, >\u00a00", "–")
    assert cell["scheduler"].type == "[scheduler](#job-scheduler)"


def test_docstring_sections(extension):
    docstrings = extension("docstrings")
    parameters, raises = "a, b : first\n    and more.\nc : last.", "BadInput : never."
    doc = f"One line.\n\nParameters\n----------\n{parameters}\n\nRaises\n------\n{raises}"
    found = docstrings.sections(doc)
    assert found[""] == ["One line.", ""]
    assert list(docstrings.entries(found["Parameters"])) == [("a, b", "first and more."), ("c", "last.")]
    assert list(docstrings.entries(found["Raises"])) == [("BadInput", "never.")]


def test_generated_pieces_hold_their_sources(extension, tmp_path):
    extension("fedwave_docs").generate(tmp_path)
    from fedwave.devices import catalogue
    from fedwave.wireless.networks.cell import Cell

    budget, devices = ((tmp_path / f"{name}.md").read_text(encoding="utf-8") for name in ("link_budget", "devices"))
    energy = (tmp_path / "energy.md").read_text(encoding="utf-8")
    for name, _, _, source in Cell().explain():
        row = next(line for line in (budget + energy).splitlines() if line.startswith(f"| `{name}` |"))
        assert source in row
    assert all(f"### `{name}`" in devices for name in catalogue.names())
