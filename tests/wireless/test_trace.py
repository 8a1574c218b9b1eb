"""Replay of measured rates: exact integrals, and errors that name the line."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from fedwave.core.config import build, dump
from fedwave.core.errors import BadInput
from fedwave.wireless.networks.trace import RateTrace, Trace, read_trace

from .helpers import STATIC, compute_of, deliver, work_of, world_of

TEXT = "time_s,uplink_mbps,downlink_mbps\n0,1,10\n1,0,20\n3,4,0\n"


@pytest.fixture
def file(tmp_path):
    path = tmp_path / "link.csv"
    path.write_text(TEXT)
    return str(path)


def test_reading(file):
    up, down = read_trace(file)
    np.testing.assert_allclose(up.edges_s, [0, 1, 3, 5])  # the last line lasts 2 s like the one before
    np.testing.assert_allclose(up.bits, [0, 1e6, 1e6, 9e6])
    np.testing.assert_allclose(down.bits, [0, 10e6, 50e6, 50e6])


def test_integral_and_its_inverse(file):
    up, _ = read_trace(file)
    np.testing.assert_allclose(up.sent(np.array([0.5, 2.0, 4.0, 5.5])), [0.5e6, 1e6, 5e6, 9.5e6])
    # 1 Mbit is there at 1 s, before the gap; the next bit only after it
    np.testing.assert_allclose(up.when(np.array([0.5e6, 1e6, 1e6 + 4, 9e6, 9.5e6])), [0.5, 1.0, 3.000001, 5.0, 5.5])


@given(
    st.lists(st.tuples(st.floats(0.1, 10), st.sampled_from([0.0, 1.0, 7.5])), min_size=2, max_size=8), st.floats(0, 90)
)
def test_when_inverts_sent(pieces, time):
    seconds, rates = np.array(pieces).T
    edges = np.concatenate([[0.0], np.cumsum(seconds)])
    trace = RateTrace(edges, np.concatenate([[0.0], np.cumsum(seconds * rates)]))
    bits = trace.sent(np.array([time])) + 1.0
    if rates.max() == 0:
        assert np.isinf(trace.when(bits)).all()
    else:
        done = trace.when(bits)
        assert (done >= time - 1e-9).all()
        np.testing.assert_allclose(trace.sent(done), bits, rtol=1e-9)


def test_delivery_replays_from_each_clients_offset(file):
    network = build("network", {"name": "trace", "file": file})
    assert build("network", dump(network)) == network
    ids = np.array([4, 9, 2])
    work = work_of(3, down=5e6, up=9e6)
    delivery = deliver(network, world_of(np.zeros((10, 2))), ids, work, compute_of(3))
    _, down = read_trace(file)
    offset = STATIC.fold("trace").uniform(ids)[:, 0] * 5.0
    got = down.when(down.sent(offset) + 5e6) - offset
    np.testing.assert_allclose(delivery.downlink_s, got)
    # 9 Mbit is one period of the uplink: 5 s, or to the gap's beginning at 1 s when started within it
    begin = (offset + got + 1.0) % 5.0
    np.testing.assert_allclose(delivery.uplink_s, np.where((begin > 1.0) & (begin < 3.0), 6.0 - begin, 5.0))
    alone = deliver(network, world_of(np.zeros((10, 2))), ids[1:2], work_of(1, down=5e6, up=9e6), compute_of(1))
    np.testing.assert_allclose(alone.finish_s, delivery.finish_s[1:2])


def test_a_dead_link_is_an_outage(tmp_path):
    path = tmp_path / "dead.csv"
    path.write_text("time_s,uplink_mbps,downlink_mbps\n0,0,10\n1,0,10\n")
    delivery = deliver(Trace(str(path)), world_of(np.zeros((1, 2))), [0])
    assert not delivery.heard.any()
    assert delivery.trained.all()


@pytest.mark.parametrize(
    ("text", "sentence"),
    [
        ("", "line 1: column time_s is missing"),
        ("time_s,uplink_mbps\n0,1\n", "line 1: column downlink_mbps is missing"),
        (TEXT + "4,x,1\n", "line 5: .* must be numbers, got '4,x,1'"),
        (TEXT + "4,1\n", "line 5: .* must be numbers"),
        (TEXT + "4,-1,1\n", "line 5: rates must be finite and not negative"),
        (TEXT + "2,1,1\n", "data line 4: time_s must rise, got 2"),
        ("time_s,uplink_mbps,downlink_mbps\n0,1,1\n", "at least two lines of data, got 1"),
    ],
)
def test_bad_files(tmp_path, text, sentence):
    path = tmp_path / "bad.csv"
    path.write_text(text)
    with pytest.raises(BadInput, match=sentence):
        read_trace(str(path))


def test_missing_file():
    with pytest.raises(BadInput, match=r"trace 'nowhere.csv' cannot be read: No such file"):
        read_trace("nowhere.csv")
