"""Absurd jobs: a verdict or one clear sentence, never a traceback, never a number that is not finite."""

import json
import math
from pathlib import Path

import pytest
import tomli_w
from tests.test_fuzz import DEVICE

from .test_plan import job, walk

BANDWIDTHS = ["0", "-1", "inf", "-inf", "nan", "1e30", "1e-30", "1e308"]
HUGE = "1" + "0" * 30
NUMBERS = ["0", "-1", "nan", "inf", "1e30", "-1e30", HUGE, "1e-300"]
KEYS = [
    "task.adapter.rank", "task.adapter.alpha", "task.batch_size", "task.max_tokens", "method.local_steps",
    "method.clip_norm", "sampler.cohort", "federation.deadline_s", "federation.quorum", "rounds", "seed",
    "network.carrier_ghz", "network.radius_m", "network.budget.ue_p_cmax_dbm", "network.budget.p0_dbm",
    "network.budget.inactivity_s", "network.energy.tail_w", "network.energy.uplink_j_per_bit",
    "fleet.availability", "fleet.initial_charge", "fleet.min_charge", "fleet.mix.phone",
    *(f"fleet.device.phone.{key}" for key in DEVICE),
]  # fmt: skip


@pytest.fixture
def check(fedwave_):
    """``check(*words)`` plans, and holds the answer to what every answer must be; exit code, table, sentence."""

    def one(*words, table=None):
        Path("absurd.toml").write_text(tomli_w.dumps(table or job()))
        code, out, err = fedwave_("plan", "absurd.toml", *words, "--json", "--explain", "--no-changes")
        assert code in (0, 2, 3) and "Traceback" not in err, (words, err)
        lines = [line for line in err.splitlines() if not line.startswith("fedwave: note: ")]
        if code == 2:
            assert out == "" and len(lines) == 1 and lines[0].startswith("fedwave: "), (words, err)
            return code, None, lines[0]
        answer = json.loads(out, parse_constant=lambda text: pytest.fail(f"{text} in the answer to {words}"))
        assert lines == [] and answer["verdict"] in ("suitable", "conditional", "unsuitable")
        assert (code == 3) == (answer["verdict"] == "unsuitable")
        assert all(math.isfinite(value) for value in walk(answer) if isinstance(value, float))
        for row in answer["explain"]:
            assert row["value"] is not None or row["part"] == "link budget", (words, row)
        return code, answer, ""

    return one


@pytest.mark.parametrize("key", ["network.bandwidth_mhz", "uplink", "downlink"])
@pytest.mark.parametrize("value", BANDWIDTHS)
def test_bandwidths(check, key, value):
    table = None if key.startswith("network") else job() | {"network": {"name": "ideal"}}
    code, _, sentence = check(key + "=" + value if not table else f"network.{key}_mbps={value}", table=table)
    if value in ("0", "-1", "inf", "-inf", "nan") or not table:
        assert code == 2 and ("bandwidth_mhz" if not table else f"{key}_mbps") in sentence


@pytest.mark.parametrize("key", KEYS)
def test_any_number_may_be_absurd(check, key):
    device = dict(DEVICE) if key.startswith("fleet.device") else None
    table = job() | ({"fleet": {"mix": {"phone": 1.0}, "device": {"phone": device}}} if device else {})
    assert check(table=table)[0] == 0  # or all would be refused for the same reason
    for value in NUMBERS:
        check(f"{key}={value}", table=table)


@pytest.mark.parametrize(
    "words", [["task.model=deepseek-v3"], ["network.bandwidth_mhz=5", "federation.deadline_s=1e-9"],
              ["fleet.device.phone.peak_flops=1e-300", "rounds=1000000000"], ["fleet.device.phone.memory_bytes=1"]]
)  # fmt: skip
def test_the_search_for_changes_ends_as_well(fedwave_, words):
    table = job() | {"fleet": {"mix": {"phone": 1.0}, "device": {"phone": dict(DEVICE)}}}
    Path("absurd.toml").write_text(tomli_w.dumps(table))
    code, out, err = fedwave_("plan", "absurd.toml", *words, "--json")
    assert code in (2, 3) and "Traceback" not in err and (code == 2) == (out == "")
    if out:
        json.loads(out, parse_constant=lambda text: pytest.fail(text))


def test_671_billion_parameters_on_a_phone(check):
    code, answer, _ = check("task.model=deepseek-v3", 'task.adapter.targets=["o_proj"]')
    assert (code, answer["binding"]) == (3, "memory")
    assert answer["model_parameters"] > 671e9 * 0.99 and answer["devices"]["phone"]["fits"] is False


@pytest.mark.parametrize(
    ("words", "sentence"),
    [
        (["task.model=no-such-model"], "model 'no-such-model' is not to be had here"),
        (["fleet.mix={fone=1.0}"], "unknown device 'fone'; did you mean 'phone'?"),
        (["server.device=nvidia-l40000"], "unknown device 'nvidia-l40000'"),
        (["network=no-such-network"], "no-such-network"),
        (["sampler.cohort=0"], "sampler.cohort"),
        (['task.partition={name="iid", clients=0}'], "clients"),
        (['task.partition={name="iid", clients=1000000000000}'], "clients"),
        (["task.adapter.rank=0"], "rank"),
        (["task.max_tokens=0"], "max_tokens"),
        (["--max-days", "nan"], "--max-days"),
        (["--max-days=-1"], "--max-days"),
        (["--max-battery", "inf"], "--max-battery"),
    ],
)
def test_one_sentence(check, words, sentence):
    code, _, said = check(*words)
    assert code == 2 and sentence in said


def test_a_giant_cohort_is_everybody(check):
    _, answer, _ = check("sampler.cohort=1000000000")
    assert answer["total_bits"] == pytest.approx(
        answer["clients"] * answer["rounds"] * (answer["uplink_bits_per_client"] + answer["downlink_bits_per_client"])
    )


def test_a_rank_beyond_the_width_is_what_is_asked_for(check):
    """LoRA of rank 10,000 on layers of width 576 is foolish and possible: 30 (1152 + 768) values a rank."""
    _, answer, _ = check("task.adapter.rank=10000")
    assert answer["trainable_parameters"] == 10_000 * 30 * (1152 + 768)


@pytest.mark.parametrize("key", ["memory_bytes", "peak_flops", "active_power_w", "memory_bandwidth_bytes_s"])
@pytest.mark.parametrize("value", [None, 0, -1.0, "much", 1e-300, 1e300, float("nan"), float("inf")])
def test_devices_of_a_users_catalogue(check, monkeypatch, key, value):
    numbers = {k: v for k, v in (DEVICE | {key: value}).items() if v is not None}
    Path("mine.toml").write_text(tomli_w.dumps({"device": {"brick": numbers}}))
    monkeypatch.setenv("FEDWAVE_CATALOGUE", "mine.toml")
    code, _, sentence = check("fleet.mix={brick = 1.0}")
    if value is None or value in (0, -1.0, "much") or not math.isfinite(value):
        assert code == 2 and "mine.toml: device.brick" in sentence and key in sentence
