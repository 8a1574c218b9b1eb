"""The radio from a thousand to a million devices over 19 sites of 3 sectors, one thread: CPU seconds and memory.

Each run is a process of its own, UMa at 3.5 GHz, devices placed at random. The large-scale pass (`couple`: path loss,
line of sight, walls, shadow fading, antennas, serving cell) is run twice: while the maps of shadow fading are drawn,
and when they are there. The round is all that the network makes of it: load and interference, random access, both
transfers of every device through its cell's scheduler, energy; 1 Mbit down, 1 Mbit up, 5 s of computing, and a
deadline that a cell of the largest population cannot keep. CPU seconds are the process's, system time included; peaks
are the operating system's resident sets; the large-scale pass's growth counts from after the placement and includes its
result (the gain of every device to every cell). One JSON line, and a figure if asked for.

    python benchmarks/radio_scale.py [--repeats 5] [--plot radio_scale.svg]
"""

import argparse
import json
import math
import multiprocessing
import os
import resource
import statistics
import sys
import time

COUNTS = (1_000, 10_000, 100_000, 1_000_000)
BITS, COMPUTE_S, DEADLINE_S = 1e6, 5.0, 1_800.0


def peak_mib() -> float:
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak / 1024 if sys.platform != "darwin" else peak / 1024**2


def spent(call) -> float:
    start = time.process_time()
    call()
    return time.process_time() - start


def large_scale(count: int) -> dict[str, float]:
    """Seconds of both passes; memory."""
    import numpy as np

    from fedwave.core.keys import Key
    from fedwave.wireless.geometry.largescale import couple
    from fedwave.wireless.geometry.scene import Scene

    scene, key, ids = Scene(), Key(0), np.arange(count)
    position_m = scene.layout.place(ids, key, min_distance_m=scene.min_distance_m)
    before = peak_mib()
    first, warm = (spent(lambda: couple(scene, position_m, ids, key)) for _ in range(2))
    return {"first_s": first, "warm_s": warm, "growth_mib": peak_mib() - before, "peak_mib": peak_mib()}


def whole_round(count: int) -> dict[str, float]:
    """Seconds of a round, maps and tables being there; memory; what came of it."""
    import numpy as np

    from fedwave.core.keys import Key
    from fedwave.core.types import Cohort, Compute, Phase, Work, World
    from fedwave.wireless.networks.cell import Cell

    cell, key, ids = Cell(sites=19, sectors=3), Key(0), np.arange(count)
    none, yes, bits = np.zeros(count), np.ones(count, dtype=bool), np.full(count, BITS)
    cohort = Cohort(0, ids, np.ones(count), *(np.zeros(count, dtype=np.int64) for _ in range(7)))
    work = Work((Phase(bits, none, bits),), none, none)
    compute = Compute(np.full((1, count), COMPUTE_S), np.full((1, count), 5.0 * COMPUTE_S), none, yes, yes, none)
    world = World(0, 0.0, np.full(count, np.inf), cell.place(count, key), np.full(count, -1), none[:0])
    arrived = []

    def deliver() -> None:
        delivery = cell.deliver(world, cohort, work, compute, key.fold("round"), static_key=key, deadline_s=DEADLINE_S)
        arrived.append(float(delivery.heard.mean()))

    _, warm = (spent(deliver) for _ in range(2))
    return {"warm_s": warm, "peak_mib": peak_mib(), "arrived": arrived[-1]}


PARTS = {"large_scale": large_scale, "round": whole_round}


def measure(part: str, count: int, pipe) -> None:
    pipe.send(PARTS[part](count))


def run(part: str, count: int) -> dict[str, float]:
    context = multiprocessing.get_context("spawn")
    receive, send = context.Pipe(duplex=False)
    process = context.Process(target=measure, args=(part, count, send))
    process.start()
    send.close()
    try:
        return receive.recv()
    finally:
        process.join()


def summary(values: list[dict[str, float]]) -> dict[str, dict[str, object]]:
    columns = {name: sorted(value[name] for value in values) for name in values[0]}
    return {
        name: {"median": round(statistics.median(v), 4), "range": [round(v[0], 4), round(v[-1], 4)]}
        for name, v in columns.items()
    }


def slope(x: list[float], y: list[float]) -> float:
    """Least-squares slope of lg y over lg x."""
    a, b = [math.log10(v) for v in x], [math.log10(v) for v in y]
    mean_a, mean_b = statistics.mean(a), statistics.mean(b)
    return sum((p - mean_a) * (q - mean_b) for p, q in zip(a, b, strict=True)) / sum((p - mean_a) ** 2 for p in a)


def plot(path: str, seconds: dict[str, list[float]]) -> None:
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot as plt

    figure, axes = plt.subplots(figsize=(5.2, 3.6), layout="constrained")
    for values, label in zip(seconds.values(), ("large-scale pass", "whole round"), strict=True):
        (line,) = axes.loglog(COUNTS, values, "o-", label=label)
        axes.loglog(COUNTS, [values[-1] * n / COUNTS[-1] for n in COUNTS], ":", color=line.get_color(), linewidth=1)
    axes.set(xlabel="devices over 57 cells", ylabel="CPU seconds, one thread (dotted: linear)")
    axes.grid(which="major", alpha=0.3)
    axes.legend()
    figure.savefig(path)


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument("--plot", help="file for the log-log figure")
    options = parser.parse_args()
    os.environ.update(OMP_NUM_THREADS="1", OPENBLAS_NUM_THREADS="1")
    runs: dict[str, dict[int, list]] = {part: {count: [] for count in COUNTS} for part in PARTS}
    for _ in range(options.repeats):
        for count in COUNTS:
            for part in PARTS:
                runs[part][count].append(run(part, count))
    tables = {part: {count: summary(v) for count, v in each.items()} for part, each in runs.items()}
    warm = {part: [float(table[count]["warm_s"]["median"]) for count in COUNTS] for part, table in tables.items()}
    slopes = {part: round(slope([*COUNTS[2:]], values[2:]), 3) for part, values in warm.items()}
    if options.plot:
        plot(options.plot, warm)
    print(json.dumps({"benchmark": "radio_scale", "cells": 57, "bits": BITS, "deadline_s": DEADLINE_S, **tables,
                      "slope 1e5 to 1e6": slopes, "repeats": options.repeats}))  # fmt: skip


if __name__ == "__main__":
    main()
