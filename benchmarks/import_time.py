"""What `import fedwave` and light commands add to the bare interpreter. Prints one JSON line with medians in seconds.

    python benchmarks/import_time.py [REPEATS]

Runs are interleaved, so that a busy moment of the machine does not fall on one of them alone.
"""

from __future__ import annotations

import json
import statistics
import subprocess
import sys
import time

PROGRAMS = {
    "bare": "pass",
    "import_fedwave": "import fedwave",
    "import_experiment": "from fedwave import Experiment",
    "version": "import sys; sys.argv = ['fedwave', '--version']; from fedwave import cli; cli.main()",
    "list_methods": "import sys; sys.argv = ['fedwave', 'list', 'methods']; from fedwave import cli; cli.main()",
}


def main(repeats: int) -> None:
    seconds: dict[str, list[float]] = {name: [] for name in PROGRAMS}
    for _ in range(repeats):
        for name, program in PROGRAMS.items():
            started = time.perf_counter()
            subprocess.run([sys.executable, "-c", program], check=True, stdout=subprocess.DEVNULL)
            seconds[name].append(time.perf_counter() - started)
    medians = {name: statistics.median(values) for name, values in seconds.items()}
    over = {f"{name}_over_bare_s": round(m - medians["bare"], 4) for name, m in medians.items() if name != "bare"}
    print(json.dumps({"benchmark": "import_time", "repeats": repeats, "bare_s": round(medians["bare"], 4), **over}))


if __name__ == "__main__":
    main(int(sys.argv[1]) if len(sys.argv) > 1 else 11)
