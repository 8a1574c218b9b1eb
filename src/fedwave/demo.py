"""``fedwave demo``: the main job on this machine, with a real pretrained language model and real text."""

from __future__ import annotations

import json
import time
from importlib import resources
from pathlib import Path

import numpy as np

from fedwave import console
from fedwave.experiment import Experiment
from fedwave.models import sources
from fedwave.results.format import duration
from fedwave.simulation import Simulation, free_folder

_ALONE = 3


def demo_job(seed: int, rounds: int) -> Experiment:
    """The packaged job."""
    with resources.as_file(resources.files("fedwave") / "jobs" / "demo.toml") as path:
        return Experiment.load(path, [f"seed={seed}", f"rounds={rounds}"])


def run_demo(*, seed: int, rounds: int, out: Path | None, as_json: bool, quiet: bool) -> None:
    """Fetch the model if need be, federate, compare with devices that train alone, show what came out."""
    from fedwave.baselines import alone

    quiet = quiet or as_json
    experiment = demo_job(seed, rounds)
    if not sources.is_cached(experiment.task.model):  # type: ignore[attr-defined]
        console.fetch(experiment.task.model, quiet=quiet)  # type: ignore[attr-defined]
    started = time.perf_counter()
    folder = out or free_folder(experiment)
    result = console.play(lambda progress: Simulation.start(experiment, folder, progress), quiet=quiet)
    steps = rounds * (experiment.method.local_steps or 1)
    with console.working(f"training {_ALONE} devices alone, {steps} steps each", quiet=quiet):
        lonely = float(np.mean([metrics["loss"] for metrics in alone(experiment, clients=_ALONE, steps=steps)]))
    if as_json:
        print(json.dumps({**console.summary(result), "alone_loss": lonely}, indent=2))
        return
    console.finish(result, references={"before training": result.initial["loss"], "devices alone (mean)": lonely})
    print("\nheld-out loss, nats per answer token, 64 questions of all topics:")
    for name, loss in {
        "before training": result.initial["loss"],
        f"federated, {rounds} rounds": result.final["loss"],
        f"alone: mean of {_ALONE} devices, {steps} steps each": lonely,
    }.items():
        print(f"  {name:<42} {loss:.3f}")
    print("Part of the drop is learning when to stop: it is a loss, not a claim about answers.")
    print(f"took {duration(time.perf_counter() - started)}")
