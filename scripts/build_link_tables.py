"""Build the goodput tables of ``fedwave.wireless.phy`` from Sionna (the extra ``sionna``): the same numbers every time.

``python scripts/build_link_tables.py [--draws 4096] [--workers 2] [--out FOLDER]``: half an hour of one core.
"""

from __future__ import annotations

import argparse
import sys
import time
from pathlib import Path

from rich.progress import track

from fedwave.wireless.phy.build import tables

DATA = Path(__file__).parents[1] / "src" / "fedwave" / "wireless" / "phy" / "data"


def main() -> int:
    """Build and write; returns the exit code."""
    parser = argparse.ArgumentParser(description="Build the goodput tables from Sionna.")
    parser.add_argument("--draws", type=int, default=4096, help="draws of fading per state, a power of two from 256 on")
    parser.add_argument("--workers", type=int, default=1, help="processes")
    parser.add_argument("--out", type=Path, default=DATA, help="folder for the files")
    options = parser.parse_args()
    if options.draws < 256 or options.draws & (options.draws - 1):
        print(f"--draws: {options.draws} is not a power of two from 256 on", file=sys.stderr)
        return 2
    begun, built = time.monotonic(), tables.Tables()
    options.out.mkdir(parents=True, exist_ok=True)
    every = tables.entries(options.draws, options.workers)
    for state, found in track(every, "states", total=len(tables.states())):
        built.put(state, found)
    for path in built.write(options.out, tables.info(options.draws)):
        print(f"{path.name}: {path.stat().st_size / 1e3:.0f} kB")
    print(f"{time.monotonic() - begun:.0f} s")
    return 0


if __name__ == "__main__":
    sys.exit(main())
