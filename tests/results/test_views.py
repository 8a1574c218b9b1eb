"""Numbers for people: units, the table of rounds, the figure of a run."""

from __future__ import annotations

import subprocess
import sys

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from matplotlib.image import imread

from fedwave.core.errors import BadInput
from fedwave.results.figures import _curve, loss_curve
from fedwave.results.format import data, duration, si
from fedwave.results.table import cells


def record(number: int, **extra):
    return {
        "round": number,
        "sim_time_s": 30.0 * (number + 1),
        "uplink_bits": 8e6,
        "downlink_bits": 1.6e7,
        "energy_j": 1234.0,
        "clients": 10,
        "delivered": 8,
        "status": {"delivered": 8, "deadline": 1, "missed_broadcast": 1},
        **extra,
    }


@pytest.mark.parametrize(
    ("value", "text"),
    [
        (9.0e6, "9.0 MB"),
        (0, "0 B"),
        (12, "12 B"),
        (999.96e3, "1.0 MB"),
        (294_912, "295 kB"),
        (99_960, "100 kB"),
        (-1500, "-1.5 kB"),
        (0.0012, "1.2 mB"),
        (None, "-"),
        (float("nan"), "-"),
        (float("inf"), "∞ B"),
    ],
)
def test_si(value, text):
    assert si(value, "B") == text


@pytest.mark.parametrize(
    ("seconds", "text"),
    [
        (0.85, "850 ms"),
        (12.34, "12.3 s"),
        (59.97, "1 min 0 s"),
        (192, "3 min 12 s"),
        (3599.8, "1 h 0 min"),
        (7500, "2 h 5 min"),
        (86399, "1 d 0 h"),
        (273_600, "3 d 4 h"),
        (None, "-"),
    ],
)
def test_duration(seconds, text):
    assert duration(seconds) == text


@given(st.floats(1e-9, 1e14))
def test_the_text_is_within_its_last_digit(value):
    number, unit = si(value, "B").split(" ")
    factor = {"T": 1e12, "G": 1e9, "M": 1e6, "k": 1e3, "": 1, "m": 1e-3, "µ": 1e-6, "n": 1e-9}[unit[:-1]]
    step = 0.1 if "." in number else 1
    assert abs(float(number) * factor - value) <= 0.5001 * step * factor


def test_table():
    assert data(8e6) == "1.0 MB"
    assert cells(record(3, eval={"loss": 2.8071})) == (
        "3",
        "2 min 0 s",
        "2.807",
        "1.0 MB",
        "2.0 MB",
        "1.2 kJ",
        "8/10",
        "deadline 1, missed broadcast 1",
    )
    assert cells(record(4))[2] == "-"
    assert cells(record(5, eval={"loss": 0.7318, "accuracy": 0.8661}))[2] == "0.732, 86.6 %"


def test_curve_counts_the_traffic_of_rounds_without_an_evaluation():
    seconds, megabytes, loss = _curve(
        [record(0), record(1, eval={"loss": 2.0}), record(2, eval={"accuracy": 1})], "loss"
    )
    assert (seconds.tolist(), megabytes.tolist(), loss.tolist()) == ([60.0], [2.0], [2.0])


def test_figure_is_drawn_and_bad_runs_are_named(tmp_path):
    runs = {"fedavg": [[record(i, eval={"loss": 3 - 0.1 * i + s}) for i in range(5)] for s in (0, 0.1)]}
    path = loss_curve(runs, tmp_path / "loss.png", references={"no training": 3.4}, title="A run")
    pixels = imread(path)
    assert pixels.shape[1] == 1350  # 9 inches at 150 dots
    assert len(np.unique(pixels.reshape(-1, pixels.shape[2]), axis=0)) > 20
    with pytest.raises(BadInput, match="no run to draw has an evaluated round with 'loss'"):
        loss_curve({"a": [[record(0)]]}, tmp_path / "none.png")
    with pytest.raises(BadInput, match="cannot be written"):
        loss_curve(runs, tmp_path / "absent" / "loss.png")


def test_importing_results_is_light():
    code = (
        "import sys, fedwave.results.run_folder, fedwave.results.memory_store, fedwave.results.figures,"
        "fedwave.results.table; assert not {'torch', 'matplotlib', 'rich', 'safetensors'} & set(sys.modules)"
    )
    subprocess.run([sys.executable, "-c", code], check=True)
