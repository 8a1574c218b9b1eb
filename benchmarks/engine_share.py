"""How near the engine comes to the machine's arithmetic, and what of a round is the simulator's own. One thread.

``gemm``: floating-point work of a MiniLM round (K = 16, one step, no padding; matrix products forward and backward as
``FlopCounterMode`` counts them in the sequential arm; attention's own products, about 4 % more, are not counted on a
CPU) over CPU seconds, as a share of the best rate that a float32 matrix product reaches between the same runs.

``own``: a MiniLM round over the cell network with its run folder, as ``fedwave run`` plays it. Own is the time outside
the learner's forward pass, autograd's backward pass and the local optimiser's step: batching, gathers, fold, server,
radio, devices, log, checkpoint. The first round warms up, the last one evaluates; neither counts.

    python benchmarks/engine_share.py [gemm] [own] [--repeats 5] [--batch 4] [--tokens 64] [--engine '{...}']
"""

from __future__ import annotations

import argparse
import contextlib
import functools
import json
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any
from unittest import mock

import numpy as np
import torch
from engine_arms import arms, clocked, interleaved, job, minilm, ratios, summary
from torch.utils.flop_counter import FlopCounterMode

from fedwave.experiment import Experiment
from fedwave.simulation import Simulation

K, SIZES = 16, (512, 1024, 2048)
TARGETS = {"gemm": 0.7, "own": 0.03}


def gemm_peak() -> float:
    """Best float32 rate of a square matrix product now, FLOP per CPU second."""
    best = 0.0
    for n in SIZES:
        a, b = torch.randn(n, n), torch.randn(n, n)
        out = torch.mm(a, b)
        times = max(1, 2048**3 // (4 * n**3))
        cpu, _, _ = clocked(lambda a=a, b=b, out=out, times=times: [torch.mm(a, b, out=out) for _ in range(times)])
        best = max(best, 2.0 * n**3 * times / cpu)
    return best


def gemm(folder: Path, batch: int, tokens: int, repeats: int, engine: dict) -> dict:
    task = minilm(folder, lengths=np.full(K * batch, tokens), batch=batch)
    sequential, stacked = arms(job(task, clients=K, engine=engine))
    with FlopCounterMode(display=False) as counter:
        sequential.run()
    flops = counter.get_total_flops()
    found = interleaved({"peak": gemm_peak, "sequential": sequential.run, "fedwave": stacked.run}, repeats)
    peaks = [peak for _, _, peak in found["peak"]]
    shares = {
        arm: summary([flops / cpu / peak for (cpu, _, _), peak in zip(found[arm], peaks, strict=True)])
        for arm in ("sequential", "fedwave")
    }
    row = {"peak_gflops": summary([peak / 1e9 for peak in peaks], 1), "share_of_peak": shares}
    row["gflop_per_client_step"] = round(flops / 1e9 / int(sequential.cohort.steps.sum()), 3)
    return row | ratios(found["sequential"], found["fedwave"])


class Meter:
    """Seconds inside the functions that it wraps; a wrapped function within another counts once."""

    def __init__(self) -> None:
        self.seconds, self._inside = 0.0, False

    def wrap(self, function: Callable[..., Any]) -> Callable[..., Any]:
        @functools.wraps(function)
        def timed(*args: Any, **kwargs: Any) -> Any:
            if self._inside:
                return function(*args, **kwargs)
            self._inside, started = True, time.perf_counter()
            try:
                return function(*args, **kwargs)
            finally:
                self._inside = False
                self.seconds += time.perf_counter() - started

        return timed


@contextlib.contextmanager
def metered(simulation: Simulation) -> Iterator[Meter]:
    """Meter the forward pass, the backward pass and the local step of ``simulation``."""
    meter, learner = Meter(), simulation.session.learner
    optimizer = type(simulation.setting.method.local_optimizer)
    owners = [(learner, "row_losses"), (learner, "predict"), (torch.autograd, "grad"), (torch.autograd, "backward"),
              (optimizer, "update")]  # fmt: skip
    with contextlib.ExitStack() as stack:
        for owner, name in owners:
            stack.enter_context(mock.patch.object(owner, name, meter.wrap(getattr(owner, name))))
        yield meter


def own(folder: Path, batch: int, tokens: int, repeats: int, engine: dict) -> dict:
    task = minilm(folder, lengths=np.full(K * batch, tokens), batch=batch)
    table = job(task, clients=K, engine=engine) | {"rounds": repeats + 2, "network": {"name": "cell"}}
    simulation = Simulation.start(Experiment.parse(table), folder / "run")
    shares, rounds, before = [], [], 0.0
    with metered(simulation) as meter:
        for record in simulation.stream():
            if 0 < record.round < repeats + 1:
                shares.append(1.0 - (meter.seconds - before) / record.wall_s)
                rounds.append(record.wall_s)
            before = meter.seconds
    return {"own_share": summary(shares, 4), "round_s": summary(rounds)}


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("parts", nargs="*", choices=[[], *TARGETS], default=[], metavar="PART")
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument("--batch", type=int, default=4)
    parser.add_argument("--tokens", type=int, default=64)
    parser.add_argument("--engine", type=json.loads, default={})
    args = parser.parse_args()
    torch.set_num_threads(1)
    for part in args.parts or TARGETS:
        with tempfile.TemporaryDirectory() as folder:
            row = {"gemm": gemm, "own": own}[part](Path(folder), args.batch, args.tokens, args.repeats, args.engine)
        case = {"benchmark": "engine_share", "part": part, "target": TARGETS[part], "clients": K, "batch": args.batch,
                "tokens": args.tokens}  # fmt: skip
        print(json.dumps(case | row | {"repeats": args.repeats, "threads": 1}), flush=True)


if __name__ == "__main__":
    main()
