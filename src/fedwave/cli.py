"""The command line: thin calls into the library. One sentence and an exit code for every refusal."""

from __future__ import annotations

import json
import os
import shlex
import sys
import warnings
from pathlib import Path
from typing import Annotated, Any

import typer

from fedwave import __version__
from fedwave.core.errors import BadInput, FedwaveError

app = typer.Typer(
    help="Federated learning of foundation models over simulated wireless networks.",
    add_completion=False,
    pretty_exceptions_enable=False,
    rich_markup_mode=None,
)
models = typer.Typer(help="Models of this machine.")
app.add_typer(models, name="models")

Job = Annotated[Path | None, typer.Argument(metavar="JOB.toml", show_default=False)]
Overrides = Annotated[list[str] | None, typer.Argument(metavar="[key=value ...]", show_default=False)]
AsJson = Annotated[bool, typer.Option("--json", help="Print JSON instead of text.")]
Quiet = Annotated[bool, typer.Option("--quiet", "-q", help="No progress, only the result.")]
Out = Annotated[Path | None, typer.Option(help="Run folder to write.", show_default="the next free one below runs/")]


@app.callback(invoke_without_command=True)
def _root(
    context: typer.Context, version: Annotated[bool, typer.Option("--version", help="Print the version.")] = False
) -> None:
    if version:
        print(__version__)
        raise typer.Exit
    if context.invoked_subcommand is None:
        print(context.get_help())


@app.command()
def demo(
    seed: int = 0,
    rounds: Annotated[int, typer.Option(min=1)] = 6,
    out: Out = None,
    as_json: AsJson = False,
    quiet: Quiet = False,
) -> None:
    """Fine-tune SmolLM2-135M by federated LoRA among topic devices over a simulated 5G cell."""
    from fedwave.demo import run_demo

    run_demo(seed=seed, rounds=rounds, out=out, as_json=as_json, quiet=quiet)


@app.command()
def init(
    folder: Annotated[Path, typer.Argument(metavar="DIR", show_default=False)],
    task: Annotated[str, typer.Option(help="images, toy, text-classification or causal-lm.")] = "images",
    data: Annotated[Path | None, typer.Option(metavar="FILE", help="Rows of your own; else a built-in set.")] = None,
) -> None:
    """Write DIR/job.toml, a job that runs, with a line about every common key."""
    from fedwave.init import write_job

    print(write_job(folder, task=task, data=data))


@app.command()
def run(
    job: Job = None,
    overrides: Overrides = None,
    out: Out = None,
    resume: Annotated[Path | None, typer.Option(metavar="RUN", help="Continue the run in this folder.")] = None,
    as_json: AsJson = False,
    quiet: Quiet = False,
) -> None:
    """Train JOB.toml and write a run folder; --resume continues one. Exit code 3 where no update ever counted."""
    from fedwave import console
    from fedwave.experiment import Experiment
    from fedwave.federation.checks import check_heard
    from fedwave.simulation import Simulation, free_folder

    if (job is None) == (resume is None):
        raise BadInput("give either a job file, or --resume and a run folder")
    if resume is not None:
        if overrides or out:
            raise BadInput("--resume continues a run as it is; it takes no overrides and no --out")
        make = lambda progress: Simulation.resume(resume, progress)  # noqa: E731
    else:
        experiment = Experiment.load(job, overrides)  # type: ignore[arg-type]
        make = lambda progress: Simulation.start(experiment, out or free_folder(experiment), progress)  # noqa: E731
    result = console.play(make, quiet=quiet or as_json)
    if as_json:
        _print_json(console.summary(result))
    else:
        console.finish(result)
    check_heard(result.records)


@app.command()
def plan(
    job: Job = None,
    overrides: Overrides = None,
    as_json: AsJson = False,
    max_days: Annotated[float, typer.Option(help="Days within which all rounds must be played.")] = 30.0,
    max_battery: Annotated[float, typer.Option(help="Share of a battery that a client may spend on a round.")] = 0.05,
    max_airtime: Annotated[float, typer.Option(help="Share of the uplink carrier that a round may take.")] = 1.0,
    changes: Annotated[bool, typer.Option(help="Look for changes that would make an unsuitable job suitable.")] = True,
    explain: Annotated[bool, typer.Option("--explain", help="How each number comes about, with its source.")] = False,
    pilot: Annotated[int | None, typer.Option(metavar="N", help="Play N real rounds of a small cohort first.")] = None,
    target: Annotated[
        str | None, typer.Option(metavar="METRIC=VALUE", help="Plan the rounds that this takes, judged by the pilot.")
    ] = None,
    map_: Annotated[bool, typer.Option("--map", help="Ask it of many models, methods, networks, devices.")] = False,
    models_: Annotated[str, typer.Option("--models", help="With --map: names and globs, with commas.")] = "all",
    methods: Annotated[str, typer.Option(help="With --map: recipes, 'job', or a TOML file of recipes.")] = "all",
    networks: Annotated[str, typer.Option(help="With --map: named networks, or 'job'.")] = "all",
    devices: Annotated[str, typer.Option(help="With --map: device classes.")] = "all",
    csv: Annotated[Path | None, typer.Option(help="With --map: write all cells to this file.")] = None,
    html: Annotated[
        Path | None, typer.Option(help="With --map: the page to write.", show_default="map.html beside the job")
    ] = None,
    quiet: Quiet = False,
) -> None:
    """Say to what extent JOB.toml suits its devices and network, without training, and what binds.

    Exit code 3 where it cannot work. With --map: of every model, method, network and device, as a table and a page.
    """
    from fedwave.answer import Wishes, answer
    from fedwave.experiment import Experiment
    from fedwave.planner import Yardsticks

    if job is None:
        raise BadInput("plan needs a job file")
    experiment, yardsticks = Experiment.load(job, overrides), Yardsticks(max_days, max_battery, max_airtime)
    if map_:
        if explain or pilot is not None or target is not None:
            raise BadInput("--explain, --pilot and --target are for the plan of one job, not for plan --map")
        if csv is not None and csv == html:
            raise BadInput(f"--csv and --html name the same file, {csv}")
        wanted = {"models": models_, "methods": methods, "networks": networks, "devices": devices}
        beside = job.parent if os.access(job.parent, os.W_OK) else Path()
        page = html or (None if as_json else beside / "map.html")
        command = shlex.join([str(job), *_apart_from(Yardsticks(), yardsticks), *(overrides or [])])
        _map(experiment, yardsticks, wanted, csv=csv, page=page, job=command, as_json=as_json, quiet=quiet)
        return
    if csv or html or {models_, methods, networks, devices} != {"all"}:
        raise BadInput("--models, --methods, --networks, --devices, --csv and --html are for plan --map")
    wishes = Wishes(explain, changes, pilot, target)
    found, table = answer(experiment, yardsticks, wishes, printed=not as_json, quiet=as_json or quiet)
    if as_json:
        _print_json(table)
    if not found.feasible:
        raise typer.Exit(3)


def _apart_from(usual: Any, yardsticks: Any) -> list[str]:
    """Options for those of the yardsticks that are not as usual."""
    names = {"--max-days": "days", "--max-battery": "battery_share", "--max-airtime": "airtime_share"}
    own = {option: getattr(yardsticks, name) for option, name in names.items()}
    return [f"{option}={value!r}" for option, value in own.items() if value != getattr(usual, names[option])]


def _map(
    experiment: Any, yardsticks: Any, wanted: dict[str, str], *, csv: Path | None, page: Path | None, job: str,
    as_json: bool, quiet: bool,
) -> None:  # fmt: skip
    """Make the map, write what is asked for, and say where it is."""
    from fedwave import console
    from fedwave.planner.map import axes_of, suitability, write
    from fedwave.planner.map.page import write_page

    cells = axes_of(experiment.to_table(), **wanted)
    with console.counting("cells", quiet=quiet or as_json) as progress:
        found = suitability(experiment, cells, yardsticks=yardsticks, progress=progress)
    files = [write.write_csv(found, csv)] if csv else []
    files += [write_page(found, page, job=job)] if page else []
    if as_json:
        _print_json(write.to_dict(found))
        return
    print(", ".join(f"{count:,} {name}" for name, count in write.totals(found).items()))
    console.show_rows(write.shares(found))
    if bound := write.bound(found):
        print("binds where it is not suitable:", ", ".join(f"{name} {count:,}" for name, count in bound.items()))
    print(*(f"assumes: {one}" for one in found.assumptions), *files, sep="\n")


@app.command()
def report(
    runs: Annotated[list[Path], typer.Argument(metavar="RUN...", show_default=False)],
    out: Annotated[
        Path | None,
        typer.Option(help="HTML file to write.", show_default="report.html, in the run folder where there is only one"),
    ] = None,
    as_json: AsJson = False,
) -> None:
    """Write one HTML page about a run, or about several compared; runs that differ only in their seed become a band."""
    from fedwave.results.report import load, totals, write_report

    path = write_report(runs, out or (runs[0] if len(runs) == 1 else Path()) / "report.html")
    if as_json:
        _print_json({"report": str(path), "runs": [totals(load(run)) for run in runs]})
    else:
        print(path)


@app.command("list")
def list_(kind: Annotated[str, typer.Argument(metavar="KIND")] = "methods", as_json: AsJson = False) -> None:
    """List methods, tasks, models, devices, networks, channels, schedulers, transforms, and other parts of a job."""
    from fedwave import console
    from fedwave.listing import rows

    table = rows(kind)
    if as_json:
        _print_json(table)
    else:
        console.show_rows(table)


@models.command("get")
def models_get(name: Annotated[str, typer.Argument(metavar="NAME")], quiet: Quiet = False) -> None:
    """Fetch a model, convert it once, and keep it in the cache."""
    from fedwave import console

    folder = console.fetch(name, quiet=quiet)
    print(folder)


def _print_json(value: Any) -> None:
    from fedwave.results.run_folder import plain

    print(json.dumps(plain(value), indent=2, allow_nan=False))


def _note(message: Warning | str, *_: Any, **__: Any) -> None:
    """A Python warning as the user shall see it."""
    print(f"fedwave: note: {' '.join(str(message).split())}", file=sys.stderr)


_UsageError: Any = typer.BadParameter.__base__  # typer brings its own copy of click since 0.21, so it is not imported


def _is_out_of_memory(error: BaseException) -> bool:
    if isinstance(error, MemoryError):
        return True
    from fedwave.engines.stacked.memory import is_out_of_memory

    return is_out_of_memory(error)


def _usage(error: Any) -> str:
    text = " ".join(error.format_message().split()).rstrip(".")
    command = error.ctx.command_path if error.ctx else "fedwave"
    return f"{text[:1].lower()}{text[1:]} (see {command} --help)"


def _invoke() -> int:
    """Run the command; the exit code. Errors become one sentence on stderr."""
    try:
        code = app(prog_name="fedwave", standalone_mode=False)
        sys.stdout.flush()
        return code or 0
    except _UsageError as error:
        sentence, code = _usage(error), 2
    except FedwaveError as error:
        sentence, code = str(error), error.exit_code
    except (MemoryError, RuntimeError) as error:
        if not _is_out_of_memory(error):
            raise
        sentence, code = f"this machine has too little memory for this job: {error}".rstrip(": "), 2
    except OverflowError:
        sentence, code = (
            "a number of the job is beyond all measure: the arithmetic of its radio or devices overflows",
            2,
        )
    except (KeyboardInterrupt, typer.Abort):
        sentence, code = "interrupted", 130
    except BrokenPipeError:  # the reader has gone; nothing more may be written, at exit neither
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 0
    except OSError as error:  # a full disk or a read-only folder outside the run folder
        where = f"{error.filename}: " if error.filename else ""
        sentence, code = f"{where}{error.strerror or error}", 2
    print(f"fedwave: {' '.join(sentence.split())}", file=sys.stderr)
    return code


def main() -> None:
    """Entry point: exits with 0, 2 (bad input), 3 (infeasible) or 130 (interrupted)."""
    with warnings.catch_warnings():
        warnings.showwarning = _note
        code = _invoke()
    sys.exit(code)


if __name__ == "__main__":
    main()
