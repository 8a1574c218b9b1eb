"""The large-scale pass of the radio: users x 19 sites x 3 sectors, one thread. CPU seconds and memory, one JSON line.

Each run is a process of its own: UMa at 3.5 GHz, users placed at random, `couple` twice (once the maps of shadow fading
are drawn in it, once they are there). CPU seconds are the process's, system time included. The peak resident
set is the operating system's figure for the whole process; its growth counts from after the placement of the users and
includes the result (gain of every user to every cell).

    python benchmarks/radio_large_scale.py [--repeats 5]
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


def peak_mib() -> float:
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak / 1024 if sys.platform != "darwin" else peak / 1024**2


def measure(count: int, pipe) -> None:
    import numpy as np

    from fedwave.core.keys import Key
    from fedwave.wireless.geometry.largescale import couple
    from fedwave.wireless.geometry.scene import Scene

    scene, key, ids = Scene(), Key(0), np.arange(count)
    position_m = scene.layout.place(ids, key, min_distance_m=scene.min_distance_m)
    before, seconds = peak_mib(), []
    for _ in range(2):
        start = time.process_time()
        couple(scene, position_m, ids, key)
        seconds.append(time.process_time() - start)
    pipe.send((*seconds, peak_mib() - before, peak_mib()))


def run(count: int) -> tuple[float, ...]:
    context = multiprocessing.get_context("spawn")
    receive, send = context.Pipe(duplex=False)
    process = context.Process(target=measure, args=(count, send))
    process.start()
    values = receive.recv()
    process.join()
    return values


def slope(x: list[float], y: list[float]) -> float:
    """Least-squares slope of lg y over lg x."""
    a, b = [math.log10(v) for v in x], [math.log10(v) for v in y]
    mean_a, mean_b = statistics.mean(a), statistics.mean(b)
    return sum((p - mean_a) * (q - mean_b) for p, q in zip(a, b, strict=True)) / sum((p - mean_a) ** 2 for p in a)


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--repeats", type=int, default=5)
    repeats = parser.parse_args().repeats
    os.environ.update(OMP_NUM_THREADS="1", OPENBLAS_NUM_THREADS="1")
    runs = {count: [run(count) for _ in range(repeats)] for count in COUNTS}
    table = {}
    for count, values in runs.items():
        columns = [sorted(column) for column in zip(*values, strict=True)]
        table[str(count)] = {
            name: {"median": round(statistics.median(v), digits), "range": [round(v[0], digits), round(v[-1], digits)]}
            for name, v, digits in zip(
                ("first_s", "warm_s", "growth_mib", "peak_mib"), columns, (4, 4, 1, 1), strict=True
            )
        }
    warm = [table[str(count)]["warm_s"]["median"] for count in COUNTS]
    print(json.dumps({"benchmark": "radio_large_scale", "sites": 19, "sectors": 3, "users": table,
                      "slope": {"1e3 to 1e6": round(slope([*COUNTS], warm), 3),
                                "1e5 to 1e6": round(slope([*COUNTS[2:]], warm[2:]), 3)},
                      "repeats": repeats}))  # fmt: skip


if __name__ == "__main__":
    main()
