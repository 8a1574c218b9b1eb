# ruff: noqa: E501 (the sentences are as long as they are)
"""Tables to dataclasses and back: every error names the key, the value and what is allowed."""

import dataclasses
import math
import tomllib
import types
import typing
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

import fedwave
from fedwave.core import config, registry
from fedwave.core.errors import BadInput, Refused
from fedwave.experiment import Experiment

ROOT = Path(fedwave.__file__).parents[2]
JOBS = sorted([*(ROOT / "examples").glob("*.toml"), *Path(fedwave.__file__).parent.glob("jobs/*.toml")])
FIELD_OF = {
    **dict.fromkeys(("adapter", "partition", "optimizer")),
    **dict.fromkeys(("scheduler", "uplink", "downlink", "mobility", "energy"), "network"),
}
# A class with a key that has no default is given one.
NEEDED = {
    "trace": {"file": "trace.csv"},
    "custom": {"factory": "fedwave.testing:tiny_bert"},
    "feature": {"column": "brightness"},
}
CLASSES = [(kind, name) for kind in registry._HOMES for name in registry.names(kind)]


def job(**parts):
    return {"task": {"name": "toy"}, **parts}


def fails(table):
    with pytest.raises(BadInput) as caught:
        Experiment.parse(table)
    sentence = str(caught.value)
    assert "\n" not in sentence
    assert len(sentence) < 1000
    return sentence


@pytest.mark.parametrize(
    ("parts", "start"),
    [
        ({"method": {"name": "fedprox", "mu": -1}}, "method.mu: input should be greater than or equal to 0, got -1"),
        ({"method": {"name": "fedprox", "muu": 1}}, "method.muu: unknown key 'muu' of fedprox; did you mean 'mu'? (known: "),
        ({"method": {"local_optimizer": {"lrr": 1}}}, "method.local_optimizer.lrr: unknown key 'lrr' of sgd; did you mean 'lr'?"),
        ({"method": {"local_optimizer": "sdg"}}, "method.local_optimizer: unknown optimizer 'sdg'; did you mean 'sgd'?"),
        ({"method": 3}, "method: must be the name of a method or a table with one, got 3"),
        ({"method": {"name": 3}}, "method: the name of a method must be a string, got 3"),
        ({"method": "fedavgg"}, "method: unknown method 'fedavgg'; did you mean 'fedavg'?"),
        ({"metod": "fedavg"}, "metod: unknown key 'metod'; did you mean 'method'?"),
        ({"rounds": 0}, "rounds: input should be greater than or equal to 1, got 0"),
        ({"rounds": "ten"}, "rounds: input should be a valid integer, got 'ten'"),
        ({"rounds": "10"}, "rounds: input should be a valid integer, got '10'"),
        ({"rounds": 2.0}, "rounds: input should be a valid integer, got 2.0"),
        ({"rounds": True}, "rounds: input should be a valid integer, got True"),
        ({"rounds": 10**30}, "rounds: input should be less than or equal to 2147483647, got 1000"),
        ({"seed": -1}, "seed: input should be greater than or equal to 0, got -1"),
        ({"seed": 2**63}, "seed: input should be less than 9223372036854775808, got 9223372036854775808"),
        ({"transform": "quantize"}, "transform: must be a list of transform tables, got 'quantize'"),
        ({"transform": ["clip", {"name": "quantize", "bits": 3}]}, "transform.1.bits: input should be 2, 4 or 8, got 3"),
        ({"transform": ["clip", {"bits": 8}]}, "transform.1: name is missing (one of: clip, quantize, top_k"),
        ({"transform": ["clip", {"name": "top_k", "fractoin": 1}]}, "transform.1.fractoin: unknown key 'fractoin' of top_k; did"),
        ({"network": {"name": "cell", "carrier_ghz": math.nan}}, "network.carrier_ghz: input should be a finite number, got nan"),
        ({"network": {"name": "ideal", "uplink_mbps": math.inf}}, "network.uplink_mbps: input should be a finite number, got inf"),
        ({"network": {"scenario": "uma"}}, "network.scenario: input should be 'UMa', 'UMi', 'RMa' or 'InH', got 'uma'"),
        ({"network": {"budget": {"aplha": 1}}}, "network.budget.aplha: unknown key 'aplha'; did you mean 'alpha'?"),
        ({"network": {"radius_m": 5}}, "network.radius_m: 5 m must exceed min_distance_m"),
        ({"fleet": {"mix": {"phone": -1}}}, "fleet.mix.phone: input should be greater than 0, got -1"),
        ({"fleet": {"mix": {"phne": 1}}}, "fleet: unknown device 'phne'; did you mean 'phone'?"),
        ({"fleet": {"mix": {}}}, "fleet.mix: name at least one device class"),
        ({"fleet": {"availabilty": 1}}, "fleet.availabilty: unknown key 'availabilty'; did you mean 'availability'?"),
        ({"fleet": {"device": {"x": {"memory_bite": 1}}}}, "fleet.device.x.memory_bite: unknown key 'memory_bite'; did you mean"),
        ({"fleet": {"device": {"x": {}}}}, "fleet.device.x.peak_flops: this key is missing and has no default"),
        ({"task": {"name": "toy", "ragged": "maybe"}}, "task.ragged: input should be a valid boolean"),
        ({"task": {"clients": 3}}, "task: name is missing (one of: causal-lm, custom, images, "),
        ({"task": {"name": "causal-lm", "adapter": {"name": "lora", "rank": 0}}}, "task.adapter.rank: must be an integer >= 1"),
        ({"task": {"name": "causal-lm", "partition": {"name": "dirichlet", "alfa": 1}}}, "task.partition.alfa: unknown key 'alfa'"),
    ],
)  # fmt: skip
def test_sentences(parts, start):
    assert fails({**job(), **parts}).startswith(start)


def test_missing_task():
    assert fails({}).startswith("[task] is missing: a job needs at least a task with its name (one of: causal-lm")


def test_long_values_are_cut():
    assert len(fails(job(rounds="x" * 10_000))) < 200
    assert len(fails(job(rounds=[[1, 2, 3] * 100] * 100))) < 300


def test_refusals_stay_refusals():
    with pytest.raises(
        Refused, match=r"^task: task images trains a small network with model = 'mlp': adapter must be full or head"
    ):
        Experiment.parse({"task": {"name": "images", "adapter": "lora"}})


def test_table_without_name_changes_the_default():
    """``[network] carrier_ghz = 2`` is the default network with another carrier; likewise at every level."""
    default, changed = (
        Experiment.parse(job()),
        Experiment.parse(
            job(network={"carrier_ghz": 2.0}, method={"local_optimizer": {"momentum": 0.5}}, sampler={"cohort": 3})
        ),
    )
    assert changed.network == dataclasses.replace(default.network, carrier_ghz=2.0)
    assert changed.method.local_optimizer == dataclasses.replace(default.method.local_optimizer, momentum=0.5)
    assert changed.method == dataclasses.replace(default.method, local_optimizer=changed.method.local_optimizer)
    assert changed.sampler.cohort == 3


def test_bare_names_tables_and_objects_are_the_same():
    by_name = Experiment.parse({"task": "toy", "method": "fedprox"})
    assert by_name == Experiment.parse({"task": {"name": "toy"}, "method": {"name": "fedprox"}})
    assert by_name == Experiment.parse({"task": by_name.task, "method": by_name.method})


@pytest.mark.parametrize(("kind", "name"), CLASSES)
def test_every_class_round_trips(kind, name):
    """Defaults, written fully resolved, parse to an equal object, and the second text equals the first."""
    built = config.build(kind, {"name": name, **NEEDED.get(name, {})})
    assert config.build(kind, config.dump(built)) == built
    field = FIELD_OF.get(kind, kind)
    if field is None:
        return
    value = built if kind == field else config.build(field, {"name": "cell", kind: config.dump(built)})
    parts = {field: [value] if kind in ("transform", "sink") else value}
    experiment = Experiment.parse({**job(), **parts})
    text = experiment.to_toml()
    again = Experiment.parse(tomllib.loads(text))
    assert again == experiment
    assert again.to_toml() == text


@pytest.mark.parametrize("path", JOBS, ids=lambda path: path.name)
def test_every_job_of_the_package_round_trips(path):
    experiment = Experiment.load(path)
    assert Experiment.parse(tomllib.loads(experiment.to_toml())) == experiment


@pytest.mark.parametrize(("kind", "name"), CLASSES)
def test_fields_can_be_written_and_are_checked(kind, name):
    """``None`` is left out of a table, so only a field whose default it is may hold it; floats must refuse NaN."""
    cls = registry.lookup(kind, name)
    hints = typing.get_type_hints(cls)
    for field in dataclasses.fields(cls):
        if not field.init:
            continue
        hint = hints[field.name]
        if isinstance(hint, types.UnionType) and type(None) in typing.get_args(hint):
            assert field.default is None, field.name
        if hint is float or float in typing.get_args(hint):
            with pytest.raises(BadInput, match=f"^{field.name}: "):
                config.parse(cls, {**NEEDED.get(name, {}), field.name: math.nan})


@given(
    seed=st.integers(0, 2**63 - 1),
    rounds=st.integers(1, 1000),
    lr=st.floats(1e-12, 1e6),
    mu=st.floats(0, 1e6),
    transforms=st.lists(
        st.sampled_from([{"name": "clip", "norm": 0.3}, {"name": "top_k"}, {"name": "quantize"}]), max_size=3
    ),
    mix=st.dictionaries(st.sampled_from(["phone", "laptop", "nvidia-l4"]), st.floats(1e-6, 1e6), min_size=1),
)
def test_any_valid_job_round_trips(seed, rounds, lr, mu, transforms, mix):
    optimizer = {"name": "adamw", "lr": lr}
    experiment = Experiment.parse(
        job(seed=seed, rounds=rounds, method={"name": "fedprox", "mu": mu, "local_optimizer": optimizer},
            transform=transforms, fleet={"mix": mix})
    )  # fmt: skip
    assert Experiment.parse(tomllib.loads(experiment.to_toml())) == experiment


def test_bytes_may_be_written_as_powers():
    """1e10 is a float in TOML, and a whole number; half a byte is not."""
    from fedwave.engines.cohort import CohortEngine

    assert config.build("engine", {"name": "cohort", "prefix_bytes": 1e10}) == CohortEngine(prefix_bytes=10**10)
    with pytest.raises(BadInput, match=r"prefix_bytes: .*0\.5"):
        config.build("engine", {"name": "cohort", "prefix_bytes": 0.5})
