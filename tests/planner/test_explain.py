"""The explanation of a plan: every formula, with the values of the rows above it, gives the plan's own number."""

import json
import re
from pathlib import Path

import pytest
import tomli_w

from fedwave.devices import catalogue
from fedwave.experiment import Experiment
from fedwave.planner import Yardsticks, plan
from fedwave.planner.explanation import explain
from fedwave.planner.row import Row, evaluate
from fedwave.planner.show import explain_lines

from .test_plan import LORA, job

SGD = {"name": "sgd", "lr": 0.01}
QUANTIZED = [{"name": "top_k", "fraction": 0.1}, {"name": "quantize", "bits": 4}]
CLASSIFIER = {"name": "text-classification", "model": "minilm", "data": "chatterbot", "text_field": "prompt",
              "label_field": "topic", "partition": {"name": "iid", "clients": 12}}  # fmt: skip
DIGITS = {"name": "images", "partition": {"name": "iid", "clients": 12}}
VIT = {"name": "images", "model": "dinov2-small", "partition": {"name": "iid", "clients": 12}}
OWN = {"name": "custom", "factory": f"{Path(__file__).parents[2] / 'examples/my_model.py'}:make"}
TOY = {"name": "toy", "clients": 6, "samples_per_client": 8, "dimension": 3}
MIXED = {"mix": {"phone": 1.0, "laptop": 2.0, "nvidia-h100": 1.0}}
JOBS = {
    "lora": {},
    "quantized": {"transform": QUANTIZED, "federation": {"deadline_s": 40.0}},
    "fedkseed": {"method": {"name": "fedkseed", "local_steps": 2, "local_optimizer": SGD}, "fleet": MIXED},
    "scaffold": {"method": {"name": "scaffold", "local_steps": 2}, "network": {"name": "wifi"}},
    "flora": {"method": {"name": "flora"}, "network": {"name": "ideal", "uplink_mbps": 1.0}},
    "mixed ranks": {"method": {"name": "flora"}, "fleet": MIXED,
                    "task": job()["task"] | {"adapter": LORA | {"rank": {"phone": 2, "laptop": 4, "nvidia-h100": 8}}}},
    "full": {"task": job()["task"] | {"adapter": "full"}, "network": {"name": "leo"}},
    "distill": {"task": CLASSIFIER | {"adapter": "head"}, "method": {"name": "distill", "samples": 16}},
    "too long": {"rounds": 100_000, "task": job()["task"] | {"adapter": "full"}, "network": {"name": "leo"}},
    "too large": {"task": job()["task"] | {"model": "llama-3.1-8b"}, "fleet": {"mix": {"phone-mid": 1.0}}},
    "toy": {"task": TOY, "method": {"name": "fedprox"}, "network": {"name": "nb-iot"}},
    "small network": {"task": DIGITS, "method": {"name": "fedadam", "local_steps": 2}},
    "convolutions": {"task": DIGITS | {"model": "cnn", "adapter": "head"}, "transform": [{"name": "clip"}]},
    "vision transformer": {"task": VIT | {"adapter": {"name": "lora", "rank": 4}}, "network": {"name": "cell"}},
    "vision head": {"task": VIT | {"adapter": "head"}},
    "text lora": {"task": CLASSIFIER | {"adapter": {"name": "lora", "rank": 4}}},
    "own model": {"task": OWN, "method": {"name": "median", "local_steps": 2}},
    **{adapter: {"task": job()["task"] | {"adapter": adapter}} for adapter in ("ia3", "prefix")},
    **{method: {"task": DIGITS, "method": {"name": method, "local_steps": 2}} for method in ("local",)},
    "ffa_lora": {"method": {"name": "ffa_lora"}},
    "air": {"task": TOY, "method": {"name": "fedavg"}, "network": {"name": "cell", "uplink": "aircomp"}},
}  # fmt: skip


def explained(changes):
    experiment = Experiment.parse(job() | changes)
    found = plan(experiment, yardsticks=Yardsticks())
    return found, explain(experiment, found, Yardsticks())


@pytest.mark.parametrize("name", JOBS)
def test_each_formula_gives_the_plans_number(name):
    found, rows = explained(JOBS[name])
    checked = evaluate(rows)
    assert len(checked) > 25
    for row, value in checked:
        assert value == pytest.approx(row.value, rel=1e-9), (row.part, row.name, row.formula)
    names = [(row.part, row.name) for row in rows]
    assert len(names) == len(set(names))
    # The chain ends in what the plan says, field by field.
    values = {row.name: row.value for row in rows if row.part in ("round", "in all", "memory", "model", "verdict")}
    assert {key: value for key, value in values.items() if hasattr(found, key)} == {
        key: getattr(found, key) for key in values if hasattr(found, key)
    }
    assert {"round_s", "total_s", "total_bits", "total_energy_j", "peak_memory_bytes", "verdict"} <= set(values)
    for one in found.constraints:
        own = {row.name: row.value for row in rows if row.part == f"constraint {one.name}"}
        assert own == {"need": one.need, "have": one.have, "margin": one.margin}
    for device, needs in found.devices.items():
        own = {row.name: row.value for row in rows if row.part == f"device {device}"}
        for key in ("flops", "compute_s", "compute_j", "radio_j", "battery_share"):
            assert own.get(key) == getattr(needs, key)


def test_a_formula_that_were_wrong_would_show():
    """The same rows with one number doubled: what follows from it no longer fits."""
    _, rows = explained({})
    for name in ("lora_rank", "matmul_parameters", "peak_flops", "active_power_w", "rows"):
        changed = [Row(**(vars(row) | {"value": 2 * row.value})) if row.name == name else row for row in rows]
        assert any(value != pytest.approx(row.value, rel=1e-3) for row, value in evaluate(changed)), name


def test_sources_are_those_of_the_task():
    """A small network has neither tokens nor attention, and a head is not trained at twice its forward pass's cost."""
    shown = {row.name: row.source for row in explained(JOBS["convolutions"])[1] if row.part == "model"}
    assert shown["tokens"] == "of a row: rows have no length" and "float32" in shown["base_bytes"]
    assert not any("Korthikanti" in text or "Kaplan" in text for text in shown.values())
    images = {row.name: row.source for row in explained(JOBS["vision transformer"])[1] if row.part == "model"}
    assert "patches" in images["tokens"] and "Korthikanti" in images["activation_bytes"]


EXAMPLES = sorted((Path(__file__).parents[2] / "examples").glob("radio_*.toml"))


@pytest.mark.parametrize("file", EXAMPLES, ids=lambda file: file.stem)
def test_examples_are_explained(file):
    experiment = Experiment.load(file)
    rows = explain(experiment, plan(experiment, rounds=1), Yardsticks())
    assert all(value == pytest.approx(row.value, rel=1e-9) for row, value in evaluate(rows))


def test_sources_are_those_of_the_catalogue():
    _, rows = explained({})
    (peak,) = [row for row in catalogue.rows("phone") if row.key == "peak_flops"]
    (shown,) = [row for row in rows if row.name == "peak_flops"]
    assert shown.source == f"{peak.basis}: {peak.source}"
    assert all(row.source or row.formula for row in rows)
    assert {"element_gain_dbi", "p0_dbm", "tail_w"} <= {row.name for row in rows if row.part == "link budget"}


def test_a_number_of_the_jobs_own_is_said_to_be_that():
    device = {"peak_flops": 1e11, "memory_bytes": 4e9, "memory_bandwidth_bytes_s": 1e10, "active_power_w": 5.0}
    _, rows = explained({"fleet": {"mix": {"own": 1.0}, "device": {"own": device}}})
    assert {row.source for row in rows if row.part == "device own" and row.name in device} == {"fleet.device.own"}


def test_printed_and_as_json(fedwave_):
    Path("job.toml").write_text(tomli_w.dumps(job()))
    code, out, _ = fedwave_("plan", "job.toml", "--explain", "--json")
    table = json.loads(out)
    assert code == 0 and all(
        set(row) == {"part", "name", "value", "unit", "source", "formula"} for row in table["explain"]
    )
    rows = [Row(**row) for row in table["explain"]]
    by_name = {(row.part, row.name): row.value for row in rows}
    product = by_name["device phone", "flops"] / (
        by_name["device phone", "training_efficiency"] * by_name["device phone", "peak_flops"]
    )
    assert product == pytest.approx(table["devices"]["phone"]["compute_s"], rel=1e-12)
    assert all(value == pytest.approx(row.value, rel=1e-9) for row, value in evaluate(rows))
    text = fedwave_("plan", "job.toml", "--explain")[1]
    assert text.splitlines()[0].startswith("verdict: ") and not re.search(r"\b(nan|inf)\b", text)
    line = next(line for line in text.splitlines() if line.startswith("  compute_s = flops"))
    assert line.startswith("  compute_s = flops / (training_efficiency * peak_flops) = ")
    assert float(line.rpartition(" = ")[2].split(" s")[0]) == pytest.approx(product, rel=1e-5)
    assert list(explain_lines(rows)) == [one for one in text.splitlines() if one in set(explain_lines(rows))]
