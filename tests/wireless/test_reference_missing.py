"""Without Sionna everything else works, and the adapter says what is missing."""

from __future__ import annotations

import subprocess
import sys

import numpy as np
import pytest

from fedwave import cli
from fedwave.core.errors import BadInput
from fedwave.core.keys import Key
from fedwave.wireless.budget import LinkBudget
from fedwave.wireless.geometry.mobility import StraightLine
from fedwave.wireless.networks.cell import Cell
from fedwave.wireless.reference.carrier import Carrier
from fedwave.wireless.reference.fading import Fading
from fedwave.wireless.reference.link_level import link_rates
from fedwave.wireless.reference.slot_loop import run_slots
from fedwave.wireless.reference.system_channel import MAX_USERS, system_channel
from fedwave.wireless.schedulers.equal_finish import EqualFinish
from fedwave.wireless.schedulers.round_robin import RoundRobin
from fedwave.wireless.uplinks.aircomp import AirComp

CARRIER = Carrier(4)
CALLS = {
    "slot_loop": lambda: run_slots(
        [[10.0]], [1e3], [0.0], carrier=CARRIER, fading=Fading(), keys=[Key(0)], scheduler="round_robin"
    ),
    "link_level": lambda: link_rates([[10.0]], [4], carrier=CARRIER, fading=Fading(), key=Key(0)),
    "system_channel": lambda: system_channel("UMa", [[100.0, 0.0]], [[0.0, 0.0]], key=Key(0)),
    "fading": lambda: Fading().gains(Key(0), np.arange(1), CARRIER, first=0, slots=1, fidelity="system"),
}


@pytest.mark.parametrize("call", CALLS)
def test_one_sentence_says_what_to_install(monkeypatch, call):
    for name in [*[name for name in sys.modules if name.split(".")[0] == "sionna"], "sionna"]:
        monkeypatch.setitem(sys.modules, name, None)  # how Python marks a module that cannot be imported
    fidelity = "link" if call == "link_level" else "system"
    with pytest.raises(BadInput) as error:
        CALLS[call]()
    assert str(error.value) == f"fidelity = \"{fidelity}\" needs Sionna: pip install 'fedwave[sionna]'"


JOB = """
rounds = 1
[task]
name = "images"
data = "digits"
partition = { name = "iid", clients = 3 }
[method]
name = "fedavg"
local_steps = 1
[network]
name = "cell"
"""


@pytest.mark.parametrize("fidelity", ["system", "link"])
def test_a_run_without_sionna_ends_with_the_sentence_and_code_2(monkeypatch, tmp_path, capsys, fidelity):
    for name in [*[name for name in sys.modules if name.split(".")[0] == "sionna"], "sionna"]:
        monkeypatch.setitem(sys.modules, name, None)
    (tmp_path / "job.toml").write_text(JOB + f'scheduler = "round_robin"\nfidelity = "{fidelity}"\n')
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr("sys.argv", ["fedwave", "run", "job.toml"])
    with pytest.raises(SystemExit) as done:
        cli.main()
    said = " ".join(capsys.readouterr().err.split())
    assert done.value.code == 2
    assert f"fidelity = \"{fidelity}\" needs Sionna: pip install 'fedwave[sionna]'" in said and "Traceback" not in said


@pytest.mark.parametrize("fidelity", ["table", "system", "link"])
def test_a_plan_and_a_table_round_import_neither_torch_nor_sionna(tmp_path, fidelity):
    (tmp_path / "job.toml").write_text(JOB + f'scheduler = "round_robin"\nfidelity = "{fidelity}"\n')
    code = (
        "import sys, fedwave, fedwave.wireless; plan = fedwave.plan(fedwave.Experiment.load('job.toml')); "
        "print(plan.verdict, [name for name in ('torch', 'sionna', 'h5py') if name in sys.modules])"
    )
    out = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, cwd=tmp_path)
    assert out.stdout.split(maxsplit=1)[1].strip() == "[]"


@pytest.mark.parametrize(
    ("change", "says"),
    [
        ({"scheduler": EqualFinish()}, "proportional_fair and round_robin, not equal_finish"),
        ({"scheduler": RoundRobin(), "mobility": StraightLine()}, "clients that stand still"),
        ({"scheduler": RoundRobin(), "uplink": AirComp()}, "for the uplink digital, not aircomp"),
        ({"scheduler": RoundRobin(), "budget": LinkBudget(uplink_mcs_table=3)}, "mcs_table: 3 must"),
    ],
)
def test_what_the_slot_loop_does_not_have_is_refused(change, says):
    with pytest.raises(BadInput, match=says):
        Cell(fidelity="system", **change)


def test_importing_the_adapter_imports_neither_torch_nor_sionna():
    modules = ", ".join(f"fedwave.wireless.reference.{name}" for name in ("slot_loop", "link_level", "cells"))
    code = f"import sys, {modules}; print([name for name in ('torch', 'sionna') if name in sys.modules])"
    out = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert out.stdout.strip() == "[]"


@pytest.mark.parametrize(
    ("pattern", "direction", "share", "starts_ms"),
    [
        ("DDDSU", "up", 0.2, [2.0, 4.5, 7.0, 9.5]),  # slots of 0.5 ms: the fifth of every five
        ("DDDSU", "down", 0.6, [0.0, 0.5, 1.0, 2.5]),
        ("U", "up", 1.0, [0.0, 0.5, 1.0, 1.5]),
    ],
)
def test_only_slots_of_the_direction_count(pattern, direction, share, starts_ms):
    carrier = Carrier(51, pattern=pattern, direction=direction)
    assert carrier.share == pytest.approx(share)
    np.testing.assert_allclose(carrier.starts_s(np.arange(4)), 1e-3 * np.array(starts_ms))


def _run(**change):
    values = {"sinr_db": [[10.0]], "bits": [1e3], "ready_s": [0.0], "carrier": CARRIER, "fading": Fading()} | change
    return run_slots(values.pop("sinr_db"), values.pop("bits"), values.pop("ready_s"), **{"keys": [Key(0)]} | values)


@pytest.mark.parametrize(
    ("call", "says"),
    [
        (lambda: Carrier(4, pattern="DDD"), "pattern: 'DDD' must"),
        (lambda: Carrier(4, pattern="UX"), "pattern: 'UX' must"),
        (lambda: Carrier(4, direction="side"), "direction: 'side'"),
        (lambda: Carrier(0), "prbs: 0 must"),
        (lambda: Carrier(4, subcarrier_khz=20), "subcarrier_khz: 20 "),
        (lambda: Fading("TDL-Z"), "fading model: 'TDL-Z'"),
        (lambda: Fading(branches=0), "branches: 0"),
        (lambda: _run(sinr_db=[[1.0, 2.0]]), r"sinr_db: shape \(1, 2\)"),
        (lambda: _run(sinr_db=[[np.nan]]), "sinr_db: every value"),
        (lambda: _run(bits=[-1.0]), "bits: finite values >= 0 for 1 users"),
        (lambda: _run(ready_s=[np.inf]), "ready_s: finite values"),
        (lambda: _run(sinr_db=np.zeros((0, 4))), r"sinr_db: shape \(0, 4\)"),
        (lambda: _run(max_blocks=[0]), "max_blocks: 1 numbers"),
        (lambda: _run(keys=[]), "keys: at least one"),
        (lambda: _run(scheduler="best"), "scheduler: 'best'"),
        (lambda: _run(mcs_table=3), "mcs_table: 3 must"),
        (lambda: _run(bler_target=1.0), "bler_target: 1.0 must"),
        (lambda: _run(beta=0.0), "beta: 0.0 must"),
        (lambda: link_rates([[1.0]], [5], carrier=CARRIER, fading=Fading(), key=Key(0)), "grants: one or more of 1 to"),
        (lambda: link_rates([[1.0]], [4], carrier=CARRIER, fading=Fading(), key=Key(0), slots=0), "slots: 0 must"),
        (lambda: system_channel("UMz", [[1.0, 0.0]], [[0.0, 0.0]], key=Key(0)), "scenario"),
        (lambda: system_channel("UMa", [[1.0]], [[0.0, 0.0]], key=Key(0)), "position_m: finite values"),
        (
            lambda: system_channel("UMa", np.ones((MAX_USERS + 1, 2)), [[0.0, 0.0]], key=Key(0)),
            "1001 users and 1 cells are too many",
        ),
    ],
)
def test_bad_input_is_one_sentence_before_anything_is_imported(call, says):
    with pytest.raises(BadInput, match=says):
        call()
