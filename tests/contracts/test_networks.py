"""What every registered network promises, whatever its radio: one suite over the registry."""

from __future__ import annotations

import json

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from fedwave.core import registry
from fedwave.core.config import build, dump
from fedwave.core.keys import Key
from fedwave.core.types import STATUS, STATUSES, Cohort, Compute, Phase, Work, World

NAMES = registry.names("network")
STATIC, ROUND = Key(3).fold("static"), Key(3).fold("round", 0)
CLIENTS = 40
TRACE = "time_s,uplink_mbps,downlink_mbps,latency_ms\n0,2,20,30\n1,0,5,60\n2,8,40,20\n"


@pytest.fixture(scope="module")
def networks(tmp_path_factory):
    """Each registered network with its defaults; the replay gets a file."""
    path = tmp_path_factory.mktemp("trace") / "link.csv"
    path.write_text(TRACE)
    needed = {"trace": {"file": str(path)}}
    return {name: build("network", {"name": name, **needed.get(name, {})}) for name in NAMES}


def play(network, count, *, down, up, phases=1, seconds=0.5, deadline_s=None, fits=None, powered=None, key=ROUND):
    """A round of clients 0 to ``count`` - 1; ``down`` and ``up`` are bits, one number or ``[count]``."""
    ids, zeros, yes = np.arange(count), np.zeros(count, dtype=np.int64), np.ones(count, dtype=bool)
    cohort = Cohort(0, ids, np.ones(count), zeros, zeros, zeros, zeros, zeros, zeros, zeros)
    whole = np.ones(count)
    work = Work((Phase(down * whole, 0.0 * whole, up * whole),) * phases, 0.0 * whole, 0.0 * whole)
    spent = np.full((phases, count), float(seconds))
    compute = Compute(
        spent, 5.0 * spent, 0.0 * whole, yes if fits is None else fits, yes if powered is None else powered, 0.5 * whole
    )
    place = network.place(CLIENTS, STATIC.fold("place"))
    world = World(0, 0.0, np.full(CLIENTS, np.inf), place, np.full(CLIENTS, -1), np.zeros(0))
    return network.deliver(world, cohort, work, compute, key, static_key=STATIC, deadline_s=deadline_s), work


def check(delivery, work, deadline_s):
    """What holds of any round."""
    assert np.isin(delivery.status, range(len(STATUSES))).all()
    for name in ("radio_j", "compute_j", "up_sent_bits", "down_sent_bits", "coefficient"):
        values = getattr(delivery, name)
        assert np.isfinite(values).all() and (values >= -1e-9).all(), name
    for name in ("downlink_s", "compute_s", "uplink_s", "access_s"):  # NaN where a client never got that far
        values = getattr(delivery, name)
        assert not np.isinf(values).any() and (values[~np.isnan(values)] >= -1e-9).all(), name
    assert np.isfinite([delivery.round_s, delivery.airtime, delivery.gnb_j]).all() and delivery.round_s >= 0.0
    assert (delivery.up_sent_bits <= work.up_bits * (1 + 1e-9)).all()
    assert (delivery.down_sent_bits <= work.down_bits * (1 + 1e-9)).all()
    np.testing.assert_allclose(delivery.up_sent_bits[delivery.heard], work.up_bits[delivery.heard])
    np.testing.assert_allclose(delivery.down_sent_bits[delivery.heard], work.down_bits[delivery.heard])
    assert (np.isfinite(delivery.finish_s) == delivery.heard).all()
    assert (delivery.finish_s[delivery.heard] <= delivery.round_s * (1 + 1e-9)).all()
    if deadline_s is not None:
        assert delivery.round_s <= deadline_s * (1 + 1e-9)


@pytest.mark.parametrize("name", NAMES)
def test_it_says_what_it_is(name, networks):
    network = networks[name]
    assert network.registered_name == name
    assert build("network", dump(network)) == network
    rows = network.explain()
    assert all(len(row) == 4 and row[0] and row[3] for row in rows), "each row has a name and a source"
    assert len({row[0] for row in rows}) == len(rows)
    json.dumps([row[1] for row in rows], allow_nan=False)
    assert all(isinstance(row[1], (int, float)) for row in rows if row[3].startswith("assumption"))
    assert [row[0] for row in rows].count("energy_model") == 1, "which of the energy models is in force"
    assert name == "ideal" or network.cite


@pytest.mark.parametrize("name", NAMES)
def test_clients_have_places_of_their_own(name, networks):
    place = networks[name].place(CLIENTS, STATIC)
    assert place.shape == (CLIENTS, 2) and np.isfinite(place).all()
    np.testing.assert_array_equal(networks[name].place(CLIENTS // 2, STATIC), place[: CLIENTS // 2])


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("count", [1, CLIENTS])
def test_nothing_to_send_costs_nothing(name, count, networks):
    delivery, work = play(networks[name], count, down=0.0, up=0.0)
    check(delivery, work, None)
    assert delivery.round_s == 0.5 and delivery.heard.all()  # the computing alone
    assert delivery.airtime == 0.0
    np.testing.assert_array_equal(delivery.radio_j, 0.0)


@pytest.mark.parametrize("name", NAMES)
def test_a_round_is_a_function_of_its_key(name, networks):
    first, again = (play(networks[name], 12, down=1e5, up=1e5)[0] for _ in range(2))
    for key, value in vars(first).items():
        np.testing.assert_equal(getattr(again, key), value, err_msg=key)


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("count", [1, 12])
def test_more_bits_never_finish_earlier(name, count, networks):
    few, _ = play(networks[name], count, down=2e5, up=1e5)
    for down, up in ((4e5, 1e5), (2e5, 3e5), (8e5, 5e5)):
        more, _ = play(networks[name], count, down=down, up=up)
        arrived = few.heard & more.heard
        assert (more.finish_s[arrived] >= few.finish_s[arrived] - 1e-9).all()
        assert more.round_s >= few.round_s - 1e-9 or not arrived.all()


@pytest.mark.parametrize("name", NAMES)
def test_company_never_makes_a_round_shorter(name, networks):
    alone, crowd = (play(networks[name], count, down=1e6, up=1e6)[0] for count in (1, CLIENTS))
    if alone.heard.all() and crowd.heard.all():
        assert crowd.round_s >= alone.round_s * (1 - 1e-9)


@pytest.mark.parametrize("name", NAMES)
def test_a_deadline_ends_the_round(name, networks):
    if name == "ideal":
        network = build("network", {"name": "ideal", "uplink_mbps": 1.0, "downlink_mbps": 1.0})
    else:
        network = networks[name]
    free, _ = play(network, 8, down=2e6, up=2e6)
    deadline_s = 0.5 * free.round_s
    delivery, work = play(network, 8, down=2e6, up=2e6, deadline_s=deadline_s)
    check(delivery, work, deadline_s)
    assert not delivery.heard.all()
    late = ~delivery.heard & free.heard
    missed = [STATUS[status] for status in ("deadline", "missed_broadcast", "outage", "access")]
    assert np.isin(delivery.status[late], missed).all()
    assert (delivery.radio_j <= free.radio_j * (1 + 1e-9) + 1e-9).all()


@pytest.mark.parametrize("name", NAMES)
def test_who_cannot_train_is_not_on_the_air(name, networks):
    fits, powered = np.array([True, False, True, True]), np.array([True, True, False, True])
    delivery, work = play(networks[name], 4, down=1e5, up=1e5, fits=fits, powered=powered)
    check(delivery, work, None)
    assert delivery.status[1] == STATUS["memory"] and delivery.status[2] == STATUS["battery"]
    assert (delivery.radio_j[1:3] == 0.0).all() and (delivery.up_sent_bits[1:3] == 0.0).all()


@pytest.mark.parametrize("name", NAMES)
@settings(max_examples=20, deadline=None)
@given(data=st.data())
def test_any_round_is_finite_and_conserves(name, data, networks):
    count, phases = data.draw(st.integers(1, 12)), data.draw(st.integers(1, 2))
    bits = st.sampled_from([0, 1, 10_000]) | st.integers(0, 3_000_000)
    down, up = (np.array(data.draw(st.lists(bits, min_size=count, max_size=count)), dtype=float) for _ in range(2))
    deadline_s = data.draw(st.none() | st.floats(1e-3, 1e4))
    key = ROUND.fold("draw", data.draw(st.integers(0, 1000)))
    delivery, work = play(
        networks[name], count, down=down, up=up, phases=phases, deadline_s=deadline_s, key=key,
        seconds=data.draw(st.floats(0.0, 30.0)),
    )  # fmt: skip
    check(delivery, work, deadline_s)
