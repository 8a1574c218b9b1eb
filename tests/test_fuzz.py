"""Any job at all: a plan or a sentence, exit code 0, 2 or 3, never a traceback, never a number that is not finite."""

import copy
import json
import math
import shutil
import tomllib
from pathlib import Path

import numpy as np
import pytest
import tomli_w
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from fedwave.experiment import Experiment

from .helpers import JOB, PLAN_KEYS

# Planning needs a model's config only: two layers of width 8.
MODEL = {"model_type": "llama", "hidden_size": 8, "intermediate_size": 16, "num_hidden_layers": 2, "vocab_size": 32,
         "num_attention_heads": 2, "num_key_value_heads": 1, "max_position_embeddings": 64}  # fmt: skip
ROWS = [{"prompt": f"What is {i}?", "response": f"It is {i * i}.", "topic": f"t{i % 3}"} for i in range(12)]
DEVICE = {"peak_flops": 1e11, "memory_bytes": 4e9, "memory_bandwidth_bytes_s": 1e10, "active_power_w": 5.0,
          "battery_j": 5e4}  # fmt: skip
BASES = {
    "toy": JOB,
    "causal-lm": {
        "rounds": 3,
        "task": {"name": "causal-lm", "model": "model", "data": "rows.jsonl", "eval_fraction": 0.25, "max_tokens": 16,
                 "partition": {"name": "column", "column": "topic"},
                 "adapter": {"name": "lora", "rank": 2, "alpha": 4.0, "targets": ["q_proj", "down_proj"]}},
        "method": {"name": "flora", "local_steps": 2, "local_optimizer": {"name": "adamw", "lr": 1e-3}},
        "transform": [{"name": "top_k", "fraction": 0.5}], "sampler": {"cohort": 2},
        "federation": {"deadline_s": 60.0, "quorum": 1}, "network": {"name": "ideal", "uplink_mbps": 10.0, "loss": 0.1},
        "fleet": {"mix": {"phone": 1.0}, "availability": 0.9, "min_charge": 0.1}, "server": {"device": "nvidia-l4"},
    },
    "images": {
        "rounds": 3, "eval_every": 1,
        "task": {"name": "images", "data": "digits.npz", "hidden": [4], "eval_fraction": 0.25, "batch_size": 4,
                 "partition": {"name": "dirichlet", "alpha": 0.3, "clients": 4}},
        "method": {"name": "fedadam", "local_epochs": 1}, "sampler": {"cohort": 3},
        "network": {"name": "cell", "scenario": "UMa", "bandwidth_mhz": 10.0, "scheduler": "equal_finish"},
        "fleet": {"mix": {"own": 1.0}, "device": {"own": DEVICE}},
    },
}  # fmt: skip
RESOLVED = Experiment.parse({**JOB, "fleet": {"mix": {"own": 1.0}, "device": {"own": DEVICE}}}).to_table()

# Counts stay small or absurd: what lies between is valid and would take this machine's memory.
NUMBERS = st.sampled_from([-(10**30), -1, 0, 1, 2, 7, 10**12, 10**30, -1.0, 0.0, 1e-300, 1e-9, 0.5, 1.5, 1e9, 1e300,
                           math.inf, -math.inf, math.nan])  # fmt: skip
NAMES = ["toy", "images", "causal-lm", "cell", "ideal", "trace", "sgd", "adamw", "lora", "full", "head", "iid",
         "shards", "fedavg", "scaffold", "distill", "local", "clip", "none", "", "rows.jsonl", "digits.npz", "model",
         ".", "no:One", "os:path", "phone", "a/b"]  # fmt: skip
LEAVES = st.one_of(NUMBERS, st.booleans(), st.text(max_size=8), st.sampled_from(NAMES))
JUNK = st.recursive(
    LEAVES,
    lambda inner: st.one_of(
        st.lists(inner, max_size=3), st.dictionaries(st.text(min_size=1, max_size=8), inner, max_size=3)
    ),
    max_leaves=6,
)


@pytest.fixture
def files(here):
    """What the base jobs read."""
    Path("model").mkdir()
    Path("model/config.json").write_text(json.dumps(MODEL))
    Path("rows.jsonl").write_text("".join(json.dumps(row) + "\n" for row in ROWS))
    pixels = np.random.default_rng(0).integers(0, 256, (24, 3, 3), dtype=np.uint8)
    np.savez("digits.npz", x=pixels, y=np.arange(24) % 3)


def places(table, path=()):
    """Paths of every value of a job."""
    items = table.items() if isinstance(table, dict) else enumerate(table) if isinstance(table, list) else ()
    for key, value in items:
        yield (*path, key)
        yield from places(value, (*path, key))


def at(table, path):
    for step in path:
        table = table[step]
    return table


@st.composite
def mutated(draw, base):
    """A valid job with one to three places dropped, renamed, doubled, exchanged or replaced."""
    table = copy.deepcopy(base)
    for _ in range(draw(st.integers(1, 3))):
        found = sorted(places(table), key=repr)
        if not found:
            break
        *path, last = draw(st.sampled_from(found))
        inside = at(table, path)
        what = draw(st.sampled_from(["drop", "rename", "number", "name", "junk", "duplicate", "elsewhere"]))
        if what == "drop":
            del inside[last]
        elif what == "rename" and isinstance(inside, dict):
            inside[draw(st.sampled_from([f"{last}s", f"{last}"[:-1] or "x", "name", "x.y"]))] = inside.pop(last)
        elif what == "duplicate" and isinstance(inside, list):
            inside.append(copy.deepcopy(inside[last]))
        elif what == "elsewhere":
            inside[last] = copy.deepcopy(at(table, draw(st.sampled_from(found))))
        else:
            inside[last] = draw({"number": NUMBERS, "name": st.sampled_from(NAMES)}.get(what, JUNK))
    return table


@st.composite
def extreme(draw):
    """A valid job, fully resolved, with one to three of its numbers far out (mostly still valid)."""
    table = copy.deepcopy(RESOLVED)
    numbers = [path for path in places(table) if at(table, path).__class__ in (int, float)]
    for path in draw(st.lists(st.sampled_from(numbers), min_size=1, max_size=3)):
        old = at(table, path)
        large = 100 if isinstance(old, int) else 1e12
        new = st.sampled_from([0, 1, 2, 5, large]) if isinstance(old, int) else st.sampled_from(
            [0.0, 1e-300, 1e-12, 1e-3, 0.5, 1.0, 3.0, 100.0, large, 1e300, -1.0, -100.0, -1e300]
        )  # fmt: skip
        at(table, path[:-1])[path[-1]] = draw(new)
    return table


def written(table):
    """The job as ``fuzz.toml``; false where no file in UTF-8 holds its text."""
    try:
        Path("fuzz.toml").write_text(tomli_w.dumps(table), encoding="utf-8")
    except (ValueError, TypeError):
        return False
    return True


def check(code, out, err, job):
    """An exit code that is fixed; a refusal is one sentence and nothing else; JSON holds finite numbers only."""
    assert code in (0, 2, 3), (job, err)
    assert "Traceback" not in err
    if code == 2:
        assert out == "", job
        *notes, sentence = err.splitlines()
        assert sentence.startswith("fedwave: ") and len(sentence) > 20, (job, err)
        assert all(note.startswith("fedwave: note: ") for note in notes), (job, err)
        return None
    return json.loads(out, parse_constant=lambda text: pytest.fail(f"{text} in the output of {job}")) if out else None


def check_plan(call, table):
    if not written(table):
        return
    code, out, err = call("plan", "fuzz.toml", "--json")
    plan = check(code, out, err, table)
    assert (plan is None) == (code == 2)
    if plan is not None:
        assert all(line.startswith("fedwave: note: ") for line in err.splitlines())
        assert all(plan[key] is not None and math.isfinite(plan[key]) for key in PLAN_KEYS), (table, plan)


FUZZ = {"deadline": None, "suppress_health_check": list(HealthCheck), "derandomize": True, "database": None}


@pytest.mark.parametrize(("base", "examples"), [("toy", 300), ("causal-lm", 300), ("images", 250)])
def test_no_job_breaks_the_plan(base, examples, files, fedwave_):
    @settings(max_examples=examples, **FUZZ)
    @given(table=mutated(BASES[base]))
    def fuzz(table):
        check_plan(fedwave_, table)

    check_plan(fedwave_, BASES[base])
    assert fedwave_("plan", "fuzz.toml")[::2] == (0, "")  # or every mutation would be refused for the same reason
    fuzz()


@settings(max_examples=150, **FUZZ)
@given(table=extreme())
def test_no_number_breaks_the_plan(fedwave_, table):
    check_plan(fedwave_, table)


def affordable(table):
    """Whether a run of this job ends soon: what is valid may still be much work."""
    try:
        job = Experiment.load("fuzz.toml")
        population = job.setting().population
    except Exception:  # the command says what it is
        return True
    rows = int(population.samples.sum())
    steps = (job.method.local_steps or 0) + (job.method.local_epochs or 1) * rows
    return rows * job.task.spec().trainable_parameters < 1e6 and steps < 1e4


@settings(max_examples=100, **FUZZ)
@given(table=mutated({**JOB, "rounds": 1}))
def test_no_job_breaks_the_run(files, fedwave_, table):
    if isinstance(table, dict) and "rounds" in table:
        table["rounds"] = 1 if table["rounds"].__class__ in (int, float) else table["rounds"]
    if not written(table) or not affordable(table):
        return
    shutil.rmtree("run", ignore_errors=True)
    code, out, err = fedwave_("run", "fuzz.toml", "--json", "--out", "run")
    result = check(code, out, err, table)
    if result is not None:
        assert tomllib.loads(Path("run/experiment.toml").read_text())["rounds"] == result["rounds"]
