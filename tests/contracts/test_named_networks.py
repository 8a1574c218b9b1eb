"""What every named network promises: it parses, plans, runs, and each value that is not a default has a source."""

from __future__ import annotations

import math
import tomllib
import typing
from collections.abc import Iterator
from typing import Any

import pytest

from fedwave.core import config, registry
from fedwave.core.catalogues import Basis
from fedwave.core.errors import BadInput
from fedwave.experiment import Experiment
from fedwave.planner import plan
from fedwave.simulation import run
from fedwave.wireless import catalogue

NAMES = catalogue.names()
TOY = {"name": "toy", "clients": 12, "samples_per_client": 8, "dimension": 20_000}
WANTED = (
    "5g-uma", "5g-umi", "5g-rma", "5g-indoor", "5g-mmwave", "5g-uma-multicell", "lte", "nb-iot", "wifi-6",
    "wifi-6-crowded", "leo", "fixed",
)  # fmt: skip


def experiment(network: Any, **more: Any) -> Experiment:
    return Experiment.parse(
        {"rounds": 2, "task": TOY, "sampler": {"name": "uniform", "cohort": 4}, "network": network} | more
    )


def leaves(table: dict[str, Any], path: str = "") -> Iterator[tuple[str, Any]]:
    """Paths and values of a table and of those in it, without the names of parts."""
    for key, value in table.items():
        if isinstance(value, dict):
            yield from leaves(value, f"{path}{key}.")
        elif key != "name":
            yield path + key, value


def changed(name: str) -> dict[str, Any]:
    """Paths and values of the written-out network that its registered class, with parts of the same names, has not."""
    network = config.build("network", name)
    parts = {
        key: value["name"]
        for key, value in catalogue.table(name).items()
        if isinstance(value, dict) and "name" in value
    }
    bare = dict(leaves(config.dump(type(network)(**{key: config.build(key, part) for key, part in parts.items()}))))
    return {key: value for key, value in leaves(config.dump(network)) if bare.get(key) != value}


def test_the_usual_networks_are_there() -> None:
    assert set(WANTED) <= set(NAMES)


@pytest.mark.parametrize("name", NAMES)
def test_each_value_that_is_no_default_has_a_source(name: str) -> None:
    entry = catalogue.lookup(name)
    sourced = {key: number.value for key, number in entry.numbers.items()}
    assert changed(name).items() <= sourced.items()
    for key, number in entry.numbers.items():
        assert number.basis in typing.get_args(Basis) and number.basis != "user", key
        assert len(number.source) > 10, key
        assert number.unit or not key.endswith(("_ghz", "_mhz", "_khz", "_dbm", "_db", "_dbi", "_s", "_mbps")), key
    assert 20 < len(entry.what) < 100 and "\n" not in entry.what
    assert 10 < len(entry.source) < 100


@pytest.mark.parametrize("name", NAMES)
def test_it_plans_with_finite_numbers_and_no_notes_about_itself(name: str) -> None:
    found = experiment(name)
    made = plan(found, rounds=2)
    assert made.verdict != "unsuitable"
    for key in ("round_s", "uplink_s", "downlink_s", "energy_j_per_client", "uplink_bits_per_client"):
        value = getattr(made, key)
        assert math.isfinite(value) and value > 0.0, key


@pytest.mark.parametrize("name", NAMES)
def test_it_runs_and_the_run_does_not_name_the_catalogue(name: str, tmp_path: Any) -> None:
    found = experiment(name)
    result = run(found, tmp_path / "run")
    assert len(result.records) == 2
    written = tomllib.loads((tmp_path / "run" / "experiment.toml").read_text())
    assert written["network"]["name"] == catalogue.lookup(name).table["name"] in registry.names("network")
    assert Experiment.parse(written).network == found.network


@pytest.mark.parametrize("name", NAMES)
def test_it_is_the_table_that_it_stands_for(name: str) -> None:
    assert experiment(name).network == experiment({"name": name}).network == experiment(catalogue.table(name)).network


def test_registered_names_stand_for_their_defaults_only() -> None:
    """Else a written-out job, which has the registered name, would not be what it was."""
    for name in set(NAMES) & set(registry.names("network")):
        assert catalogue.table(name) == {"name": name}


def test_further_keys_lie_on_top() -> None:
    found = experiment(
        {"name": "5g-mmwave", "bandwidth_mhz": 100, "budget": {"p0_dbm": -95}, "energy": {"tail_w": 0.5}}
    )
    budget = found.network.budget
    assert (found.network.bandwidth_mhz, found.network.carrier_ghz) == (100, 28.0)
    assert (budget.p0_dbm, budget.array_gain_db) == (-95, 21.0)
    assert (found.network.energy.model, found.network.energy.tail_w) == (
        experiment("5g-mmwave").network.energy.model,
        0.5,
    )
    other = experiment({"name": "lte", "energy": {"name": "components"}})
    assert other.network.energy == config.build("energy", "components")
    assert experiment({"name": "lte", "energy": "components"}).network == other.network


@pytest.mark.parametrize(
    ("network", "sentence"),
    [
        ("5g-umj", "network: unknown network '5g-umj'; did you mean '5g-umi'? (known: 5g-indoor, "),
        ({"name": "wifi7"}, "network: unknown network 'wifi7'; did you mean 'wifi"),
        ({"bandwidth_mhz": 20, "name": "wifi-6", "mcs": 12}, "network.mcs: "),
        ({"name": "5g-umi", "bandwidth": 20}, "network.bandwidth: unknown key 'bandwidth' of cell; did you mean '"),
        ({"name": "5g-umi", "bandwidth_mhz": 33}, "network.bandwidth_mhz: 33 MHz has no 30 kHz grid"),
    ],
)  # fmt: skip
def test_what_is_wrong_is_said_as_of_any_network(network: Any, sentence: str) -> None:
    with pytest.raises(BadInput) as caught:
        experiment(network)
    assert str(caught.value).startswith(sentence), str(caught.value)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("name", ["5g-rma", "lte"])
def test_half_the_time_on_both_carriers_is_all_the_time_on_one(name: str) -> None:
    """FDD as a TDD of twice the band: the times are those of one carrier of 10 MHz that one direction has nearly alone.

    26 dBm over 2 n blocks are 23 dBm over n, half the time at 2 n blocks is all the time at n; 106 blocks for 2 x 52.
    """
    large = {"task": TOY | {"dimension": 1_000_000}}
    fdd = plan(experiment(name, **large), rounds=2)
    one = {"name": name, "bandwidth_mhz": 10, "gnb_power_dbm": 46}
    for share, part in ((0.98, "uplink_s"), (0.02, "downlink_s")):
        alone = experiment(one | {"budget": {"tdd_uplink_share": share, "ue_p_cmax_dbm": 23}}, **large)
        assert getattr(fdd, part) == pytest.approx(0.98 * getattr(plan(alone, rounds=2), part), rel=0.04)
