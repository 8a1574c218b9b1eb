"""What the terminal shows: progress, a line per round, tables. Plain where the output is no terminal."""

from __future__ import annotations

import contextlib
import os
import signal
import sys
import warnings
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from fedwave.federation.checks import Notes
from fedwave.results.files import DiskError
from fedwave.results.format import MISSING, data, duration, si
from fedwave.results.table import COLUMNS, cells, metrics, number

if TYPE_CHECKING:
    from fedwave.core.types import RoundRecord
    from fedwave.simulation import Run, Simulation

Progress = Callable[[int, int], None]


class Stopped(KeyboardInterrupt):
    """Raised once the round at hand is saved after Ctrl-C."""


@contextlib.contextmanager
def stopping() -> Iterator[Callable[[], bool]]:
    """Within: the first Ctrl-C asks to stop after the round at hand, the second stops at once."""
    asked = [False]

    def ask(signum: int, frame: Any) -> None:
        if asked[0]:
            raise KeyboardInterrupt
        asked[0] = True
        print(
            "\nfinishing this round, then saving; Ctrl-C again stops now (the last checkpoint stays)", file=sys.stderr
        )

    previous = signal.signal(signal.SIGINT, ask)
    try:
        yield lambda: asked[0]
    finally:
        signal.signal(signal.SIGINT, previous)


def play(make: Callable[[Progress], Simulation], *, quiet: bool) -> Run:
    """Build a simulation and play it with a progress bar and a line per round; a stop saves and raises."""
    with _bar(quiet) as bar:
        simulation = _built(make, bar)
        folder = simulation.folder.path if simulation.folder else ""
        try:
            with stopping() as stop:
                _rounds(simulation, bar, stop)
            simulation.report()
        except DiskError as error:
            raise DiskError(f"{error}; nothing is lost: fedwave run --resume {folder} goes on from there") from error
        return simulation.result()


def watch(make: Callable[[Progress], Simulation], *, quiet: bool) -> tuple[Simulation, list[RoundRecord]]:
    """Build a simulation without a run folder and play it, with progress; Ctrl-C stops at once, nothing is saved."""
    with _bar(quiet) as bar:
        simulation = _built(make, bar)
        records = []
        try:
            for record in simulation.stream():
                bar.round_done(record.to_dict())
                records.append(record)
        except KeyboardInterrupt:
            print(f"fedwave: interrupted after {len(records)} rounds; nothing of them is kept", file=sys.stderr)
            raise
        return simulation, records


def _built(make: Callable[[Progress], Simulation], bar: _Bar) -> Simulation:
    """The simulation, and what is to be said before its rounds begin."""
    from fedwave.models import sources

    with sources.telling(bar.say):
        simulation = make(bar.part("preparing"))
    if dropped := simulation.session.learner.dropped:
        bar.say(f"{dropped} training rows hold nothing to learn within max_tokens and are left out")
    bar.say(f"engine: {simulation.session.choice.why}")
    bar.rounds(simulation.setting.rounds, simulation.world.round, simulation.initial)
    return simulation


def _rounds(simulation: Simulation, bar: _Bar, stop: Callable[[], bool]) -> None:
    """Play what is left: a line per round, notes where something is new, the end where it is asked for."""
    notes = Notes()
    for record in simulation.stream():
        for text in notes.take(record.to_dict()):
            warnings.warn(text, stacklevel=2)
        bar.round_done(record.to_dict())
        if stop() and not simulation.finished:
            simulation.checkpoint()
            folder = simulation.folder.path if simulation.folder else ""
            print(
                f"fedwave: stopped after round {record.round}; continue: fedwave run --resume {folder}",
                file=sys.stderr,
            )
            raise Stopped


class _Bar:
    """Progress on a terminal; plain lines elsewhere; silence with ``quiet``."""

    def __init__(self, progress: Any, quiet: bool) -> None:
        self.progress, self.quiet = progress, quiet
        self.task: Any = None

    def part(self, what: str) -> Progress:
        """A callback ``(done, total)`` for a preparation that takes long."""
        if self.progress is None:
            return lambda done, total: None
        task = self.progress.add_task(what, total=None)

        def update(done: int, total: int) -> None:
            self.progress.update(task, completed=done, total=total, visible=done < total)

        self.task = task
        return update

    def rounds(self, total: int, done: int, initial: dict[str, float]) -> None:
        """Preparation is over; rounds begin (or go on)."""
        if self.progress is not None:
            if self.task is not None:
                self.progress.remove_task(self.task)
            self.task = self.progress.add_task("rounds", total=total, completed=done)
        if done:
            self.say(f"{done} of {total} rounds are done already")
        for line in _HEADER if done < total else ():
            self.say(_line(line))
        if not done:
            self.say(_line(("start", "0 s", metrics(initial), *[""] * (len(COLUMNS) - 3))))

    def round_done(self, record: dict[str, Any]) -> None:
        """A line for the round."""
        self.say(_line(cells(record)))
        if self.progress is not None:
            self.progress.advance(self.task)

    def say(self, text: str) -> None:
        """One line above the bar."""
        if self.quiet:
            return
        if self.progress is not None:
            self.progress.console.print(text, highlight=False, markup=False, soft_wrap=True)
        else:
            print(text, flush=True)


# The header's lines, single words at the bottom; and widths that hold what `results.format` writes.
_HEADER = tuple(zip(*(name.rpartition("\n")[::2] for name in COLUMNS), strict=True))
_WIDTHS = (5, 11, 14, 7, 7, 7, 7)


def _line(texts: Sequence[str]) -> str:
    """One row: numbers to the right, the last column to the left and as long as it is."""
    *numbers, last = texts
    return "  ".join([*(f"{text:>{width}}" for text, width in zip(numbers, _WIDTHS, strict=True)), last]).rstrip()


@contextlib.contextmanager
def _bar(quiet: bool) -> Iterator[_Bar]:
    os.environ.setdefault("HF_HUB_DISABLE_PROGRESS_BARS", "1")  # they would run into this one, or into a log
    if quiet or not sys.stderr.isatty():
        yield _Bar(None, quiet)
        return
    from rich.console import Console
    from rich.progress import BarColumn, MofNCompleteColumn, TextColumn, TimeElapsedColumn, TimeRemainingColumn
    from rich.progress import Progress as RichProgress

    columns = (
        TextColumn("{task.description}"),
        BarColumn(),
        MofNCompleteColumn(),
        TimeElapsedColumn(),
        TimeRemainingColumn(),
    )
    # The end is estimated from the whole run: within Rich's default of 30 s a large model plays not even one round.
    console, forever_s = Console(stderr=True), 1e9
    with RichProgress(*columns, console=console, transient=True, speed_estimate_period=forever_s) as progress:
        yield _Bar(progress, quiet)


@contextlib.contextmanager
def counting(what: str, *, quiet: bool) -> Iterator[Progress]:
    """A bar for what is done step by step, on a terminal; elsewhere nothing."""
    with _bar(quiet) as bar:
        yield bar.part(what)


@contextlib.contextmanager
def working(what: str, *, quiet: bool) -> Iterator[None]:
    """Say what is being done; a spinner on a terminal."""
    with _bar(quiet) as bar:
        if bar.progress is None:
            bar.say(what)
        else:
            bar.part(what)
        yield


def fetch(name: str, *, quiet: bool = False) -> Path:
    """Fetch a model with progress; see :func:`fedwave.models.sources.fetch`."""
    from fedwave.models import sources

    with _bar(quiet) as bar:
        bar.part(f"fetching {name}")
        return sources.fetch(name, progress=bar.say)


def summary(result: Run) -> dict[str, Any]:
    """The result of a run as one table."""
    records = result.records
    return {
        "run": str(result.folder),
        "finished": result.finished,
        "rounds": len(records),
        "initial": result.initial,
        "final": result.final,
        "sim_time_s": records[-1]["sim_time_s"] if records else 0.0,
        "uplink_bits": sum(r["uplink_bits"] for r in records),
        "downlink_bits": sum(r["downlink_bits"] for r in records),
        "energy_j": sum(r["energy_j"] for r in records),
        "delivered": sum(r["delivered"] for r in records),
        "clients": sum(r["clients"] for r in records),
        "wall_s": sum(r["wall_s"] for r in records),
    }


def finish(result: Run, *, references: dict[str, float] | None = None) -> None:
    """The end of a run: what it came to, the figure, the folder."""
    total = summary(result)
    print(f"\nheld-out: {_metrics(total['initial'])}  ->  {_metrics(total['final'])}")
    print(
        f"{duration(total['sim_time_s'])} simulated, "
        f"{data(total['uplink_bits'])} up, {data(total['downlink_bits'])} down, "
        f"{si(total['energy_j'], 'J')}, {total['delivered']} of {total['clients']} updates delivered, "
        f"{duration(total['wall_s'])} on this machine"
    )
    if result.folder is None:
        return
    figure = draw(result, references)
    if figure:
        print(f"figure: {figure}")
    print(f"report: {result.folder / 'report.html'}")
    print(f"run folder: {result.folder}")


def draw(result: Run, references: dict[str, float] | None = None) -> Path | None:
    """Write ``curve.png`` into the run folder: the held-out loss with its start before the first round."""
    from fedwave.results.figures import loss_curve

    assert result.folder is not None
    if not any("eval" in record for record in result.records) or "loss" not in result.final:
        return None
    start = {"sim_time_s": 0.0, "uplink_bits": 0.0, "eval": result.initial}
    return loss_curve({"run": [[start, *result.records]]}, result.folder / "curve.png", references=references)


def show_rows(table: Sequence[dict[str, Any]]) -> None:
    """Rows of plain values as a table, headed by their keys; nested tables are left to JSON."""
    names = [name for name, value in table[0].items() if not isinstance(value, dict)] if table else []
    rows = [[_cell(row[name]) for name in names] for row in table]
    if not sys.stdout.isatty():  # for a pipe: a line per row, however long
        widths = [max(map(len, column)) for column in zip(names, *rows, strict=True)]
        for row in (names, *rows):
            print("  ".join(f"{text:<{width}}" for text, width in zip(row, widths, strict=True)).rstrip())
        return
    from rich.console import Console
    from rich.table import Table
    from rich.text import Text

    view = Table(*names, box=None, header_style="bold", pad_edge=False)
    for row in rows:
        view.add_row(*map(Text, row))
    Console().print(view)


def _cell(value: Any) -> str:
    if value is None:
        return MISSING
    return f"{value:,.4g}" if isinstance(value, float) else str(value)


def _metrics(metrics: dict[str, float]) -> str:
    return ", ".join(f"{name} {number(value)}" for name, value in metrics.items())
