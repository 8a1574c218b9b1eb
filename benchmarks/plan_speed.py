"""How soon ``fedwave plan`` answers, from the start of Python: one JSON line.

python benchmarks/plan_speed.py [--starts 7]

A model of the catalogue whose weights are not on this machine, in two jobs: one in which a device class helps, one
whose deadline leaves much to search. ``verdict`` leaves the search for changes out (``--no-changes``); ``first_line``
is when the verdict stands on the screen although the search goes on.
"""

import argparse
import json
import os
import platform
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

JOB = """
rounds = 50
[task]
name = "causal-lm"
model = "llama-3.2-3b"
data = "chatterbot"
max_tokens = 128
"""
CASES = {"memory": [], "memory_and_deadline": ["federation.deadline_s=20"]}


def seconds(folder: Path, *words: str) -> tuple[float, float]:
    """Wall seconds of one process until its first line, and until its end."""
    started = time.perf_counter()
    command = [sys.executable, "-m", "fedwave.cli", "plan", "job.toml", *words]
    environment = {**os.environ, "FEDWAVE_CACHE": str(folder / "cache"), "HF_HUB_OFFLINE": "1"}
    with subprocess.Popen(command, cwd=folder, env=environment, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        process.stdout.readline()
        first = time.perf_counter() - started
        process.stdout.read()
    assert process.returncode in (0, 3), process.returncode
    return first, time.perf_counter() - started


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--starts", type=int, default=7)
    starts = parser.parse_args().starts
    found: dict[str, float] = {}
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        (folder / "job.toml").write_text(JOB)
        seconds(folder)  # byte code is compiled, files are in the system's cache
        for case, words in CASES.items():
            plain = [seconds(folder, *words, "--no-changes")[1] for _ in range(starts)]
            whole = [seconds(folder, *words) for _ in range(starts)]
            found[f"{case}.verdict_s"] = statistics.median(plain)
            found[f"{case}.first_line_s"] = statistics.median(first for first, _ in whole)
            found[f"{case}.with_search_s"] = statistics.median(end for _, end in whole)
    rounded = {name: round(value, 3) for name, value in found.items()}
    print(json.dumps({"benchmark": "plan_speed", "starts": starts, **rounded, "machine": platform.machine(),
                      "cpus": os.cpu_count(), "python": platform.python_version()}))  # fmt: skip


if __name__ == "__main__":
    main()
