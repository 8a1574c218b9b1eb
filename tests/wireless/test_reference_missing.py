"""Without Sionna everything else works, and the adapter says what is missing."""

from __future__ import annotations

import subprocess
import sys

import numpy as np
import pytest

from fedwave.core.errors import BadInput
from fedwave.core.keys import Key
from fedwave.wireless.reference.carrier import Carrier
from fedwave.wireless.reference.fading import Fading
from fedwave.wireless.reference.link_level import link_rates
from fedwave.wireless.reference.slot_loop import run_slots
from fedwave.wireless.reference.system_channel import MAX_USERS, system_channel

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


def test_importing_the_adapter_imports_neither_torch_nor_sionna():
    modules = ", ".join(f"fedwave.wireless.reference.{name}" for name in ("slot_loop", "link_level", "system_channel"))
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
