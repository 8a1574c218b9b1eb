"""Replay of measured links: exact integrals, three kinds of files, and errors that name the line."""

from __future__ import annotations

import json
import os
from pathlib import Path

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from fedwave.core.config import build, dump
from fedwave.core.errors import BadInput
from fedwave.wireless.geometry.spreads import delay_spread_s
from fedwave.wireless.networks.trace import Trace
from fedwave.wireless.networks.traces import RateTrace, Reading, _read, files_of, rate_of_sinr, read_link, read_trace
from fedwave.wireless.phy import goodput

from .helpers import STATIC, compute_of, deliver, work_of, world_of

TEXT = "time_s,uplink_mbps,downlink_mbps\n0,1,10\n1,0,20\n3,4,0\n"
ENTRIES = [
    {"duration_ms": 1000, "bandwidth_kbps": 8000, "latency_ms": 20},
    {"duration_ms": 3000, "bandwidth_kbps": 2000, "latency_ms": 60},
]
HEADER = "pub_time(ms) sub_time(ms) delay(ms) utmX(m) utmY(m) heading(rad) velocity(m/s) cellid(db) sinr(db) rsrp(db)\n"
LOG = HEADER + "1000 1030 30 1.0 2.0 0.1 3.0 5C42 20 -80 \n1050 1060 10 1.0 2.0 0.1 3.0 5C42 10 -85 \n"
GAP = "1100 9100 8000 1.0 2.0 0.1 3.0  0 0 \n"  # no cell: an empty word, and a delay that is the gap itself


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


def test_bandwidth_log(tmp_path):
    # 8 Mbit in the first second, 6 in the next three; 20 ms of latency, then 60.
    path = tmp_path / "log.json"
    path.write_text(json.dumps(ENTRIES))
    link = read_link(str(path), Reading(uplink_share=0.25))
    np.testing.assert_allclose(link.down.edges_s, [0, 1, 4])
    np.testing.assert_allclose(link.down.bits, [0, 8e6, 14e6])
    np.testing.assert_allclose(link.up.bits, [0, 2e6, 3.5e6])
    np.testing.assert_allclose(link.latency_at(np.array([0.0, 0.99, 1.0, 3.99, 4.5])), [0.02, 0.02, 0.06, 0.06, 0.02])


def test_sinr_log(tmp_path):
    path = tmp_path / "log.txt"
    path.write_text(LOG + GAP)
    reading = Reading(uplink_share=0.5)
    link = read_link(str(path), reading)
    rates = rate_of_sinr(np.array([20.0, 10.0]), reading)
    np.testing.assert_allclose(link.down.edges_s, [0, 0.05, 0.1, 0.15])
    np.testing.assert_allclose(np.diff(link.down.bits), [0.05 * rates[0], 0.05 * rates[1], 0.0])
    np.testing.assert_allclose(link.up.bits, 0.5 * link.down.bits)
    np.testing.assert_allclose(link.latency_s, [0.015, 0.005, 0.010])  # halves; in the gap that of the median


def test_rates_are_those_of_the_link_tables():
    # By hand at 15 dB: 51 blocks of 20 MHz, 2 dB of implementation loss, 2,000 slots a second of which 72 % are
    # downlink, 7 % overhead.
    delay_s = float(delay_spread_s("UMa", False, 3.5))
    bits = goodput.slot_bits(13.0, 51.0, direction="down", mcs_table=2, profile="nlos", delay_spread_s=delay_s)
    rates = rate_of_sinr(np.array([-20.0, 0.0, 15.0, 30.0]), Reading())
    np.testing.assert_allclose(rates[2], float(bits) * 2000.0 * 0.72 * 0.93)
    assert (np.diff(rates) > 0.0).all() and rates[0] < 0.02 * rates[3]
    # Below capacity, and within what one layer of 256QAM carries: 8 x 948 / 1024 bit per resource element.
    elements = 51 * 132 * 2000 * 0.72
    assert rates[2] < elements * np.log2(1.0 + 10.0**1.3) and rates[3] < elements * 8 * 948 / 1024


@given(st.lists(st.floats(-60.0, 80.0), min_size=1, max_size=20))
def test_any_sinr_has_a_rate(sinr_db):
    rates = rate_of_sinr(np.sort(sinr_db), Reading())
    assert np.isfinite(rates).all() and (rates >= 0.0).all() and (np.diff(rates) >= 0.0).all()


def test_a_csv_may_have_latencies_and_comments(tmp_path):
    path = tmp_path / "own.csv"
    path.write_text(
        "# made by hand\ntime_s, downlink_mbps, uplink_mbps, latency_ms\n0,10,1,40\n# a tunnel\n2,20,2,80\n"
    )
    link = read_link(str(path))
    np.testing.assert_allclose(link.down.bits, [0, 20e6, 60e6])
    np.testing.assert_allclose(link.up.bits, [0, 2e6, 6e6])
    np.testing.assert_allclose(link.latency_s, [0.04, 0.08])


def test_latency_is_added_to_each_transfer(tmp_path):
    path = tmp_path / "log.json"
    path.write_text(json.dumps([{"duration_ms": 1000, "bandwidth_kbps": 8000, "latency_ms": 40}]))
    trace = Trace(str(path), uplink_share=0.5)
    delivery = deliver(trace, world_of(np.zeros((1, 2))), [0], work_of(1, down=8e6, up=8e6))
    np.testing.assert_allclose([delivery.downlink_s[0], delivery.uplink_s[0]], [1.04, 2.04])
    nothing = deliver(trace, world_of(np.zeros((1, 2))), [0], work_of(1, down=0.0, up=0.0))
    assert nothing.round_s == 1.0  # the computing alone


def test_a_folder_gives_each_client_a_file_for_good(tmp_path):
    for name, kbps in (("a.json", 1000), ("b.json", 4000)):
        (tmp_path / name).write_text(json.dumps([{"duration_ms": 1000, "bandwidth_kbps": kbps, "latency_ms": 0}]))
    (tmp_path / "LICENSE").write_text("no trace")
    assert [Path(file).name for file in files_of(str(tmp_path))] == ["a.json", "b.json"]
    world, ids = world_of(np.zeros((200, 2))), np.arange(200)
    delivery = deliver(Trace(str(tmp_path)), world, ids, work_of(200, down=4e6, up=0.0))
    seconds = np.round(delivery.downlink_s, 6)
    assert set(seconds) == {1.0, 4.0}
    assert (seconds == 1.0).mean() == pytest.approx(0.5, abs=0.12)
    some = deliver(Trace(str(tmp_path)), world, ids[5:9], work_of(4, down=4e6, up=0.0))
    np.testing.assert_allclose(some.downlink_s, seconds[5:9])


def test_an_empty_folder(tmp_path):
    with pytest.raises(BadInput, match="holds no trace"):
        deliver(Trace(str(tmp_path)), world_of(np.zeros((1, 2))), [0])


@pytest.mark.parametrize(
    ("text", "sentence"),
    [
        ("", "the file is empty"),
        ("time_s,uplink_mbps\n0,1\n", "line 1: column downlink_mbps is missing"),
        (TEXT + "4,x,1\n", "line 5, column uplink_mbps: must be a number, got 'x'"),
        (TEXT + "4,1\n", "line 5: column downlink_mbps is missing, there are 2 values"),
        (TEXT + "4,-1,1\n", "line 5, column uplink_mbps: must not be negative, got -1"),
        (TEXT + "4,1,nan\n", "line 5, column downlink_mbps: must be finite, got 'nan'"),
        (TEXT + "2,1,1\n", "line 5, column time_s: must rise, got 2 after 3"),
        (TEXT + "3,1,1\n", "line 5, column time_s: must rise, got 3 after 3"),
        (TEXT + "\n# comment\n2,1,1\n", "line 7, column time_s: must rise, got 2 after 3"),
        (TEXT + "4,1e305,1\n", "line 5, column uplink_mbps: must be finite, got '1e305'"),
        (TEXT + "1e10,1e299,1\n", "times and rates are too large to add up"),
        ("# nothing else\n", "comments only"),
        ("time_s,uplink_mbps,downlink_mbps,latency_ms\n0,1,1,-4\n", "line 2, column latency_ms: must not be negative"),
        ("time_s,uplink_mbps,downlink_mbps\n0,1,1\n", "at least two lines of data, got 1"),
        ("[]", "line 1: must be a list of tables with duration_ms, bandwidth_kbps, latency_ms"),
        ('{"duration_ms": 1}', "line 1: must be a list of tables"),
        ('[\n{"duration_ms": 1,\n', "line 3: not valid JSON"),
        ("[" * 100_000, "must be a list of tables of numbers"),
        ('[{"duration_ms": 1' + "0" * 5000 + "}]", "must be a list of tables of numbers"),
        ("time_s," + "x" * 200_000, "line 1: not a line of csv"),
        (json.dumps([{"duration_ms": 1, "bandwidth_kbps": 1}]), "entry 1: latency_ms is missing"),
        (
            json.dumps([*ENTRIES, {**ENTRIES[0], "bandwidth_kbps": "fast"}]),
            "entry 3, bandwidth_kbps: must be a number, got 'fast'",
        ),
        (json.dumps([{**ENTRIES[0], "bandwidth_kbps": -1}]), "entry 1, bandwidth_kbps: must not be negative, got -1"),
        (json.dumps([{**ENTRIES[0], "bandwidth_kbps": 10**400}]), "entry 1, bandwidth_kbps: must be finite"),
        (json.dumps([{**ENTRIES[0], "latency_ms": float("nan")}]), "entry 1, latency_ms: must be finite"),
        (json.dumps([{**ENTRIES[0], "duration_ms": 0}]), "entry 1, duration_ms: must be positive, got 0"),
        (HEADER.replace("sinr(db) ", "") + "1 1 1\n", r"line 1: column sinr\(db\) is missing"),
        (
            LOG + "1049" + LOG.splitlines()[1][4:] + "\n",
            r"line 4, column pub_time\(ms\): must rise, got 1049 after 1050",
        ),
        (LOG + "1100 1130 30\n", r"line 4: column sinr\(db\) is missing, there are 3 values"),
        (
            LOG + "1100 1130 30 1.0 2.0 0.1 3.0 5C42 good -80\n",
            r"line 4, column sinr\(db\): must be a number, got 'good'",
        ),
        (
            LOG + "1100 1130 -30 1.0 2.0 0.1 3.0 5C42 20 -80\n",
            r"line 4, column delay\(ms\): must not be negative, got -30",
        ),
        (LOG.splitlines()[0] + "\n" + LOG.splitlines()[1], "at least two lines of data, got 1"),
    ],
)
def test_bad_files(tmp_path, text, sentence):
    path = tmp_path / "bad"
    path.write_text(text)
    with pytest.raises(BadInput, match=sentence) as refused:
        read_trace(str(path))
    assert str(path) in str(refused.value) and "\n" not in str(refused.value)


@settings(suppress_health_check=[HealthCheck.function_scoped_fixture], deadline=None)
@given(st.sampled_from(["", TEXT, LOG, "[", json.dumps(ENTRIES)[:-1]]), st.text(max_size=60))
def test_any_text_is_a_trace_or_refused(tmp_path, start, rest):
    path = tmp_path / "any"
    path.write_text(start + rest, encoding="utf-8", errors="replace")
    _read.cache_clear()
    try:
        link = read_link(str(path))
    except BadInput:
        return
    for trace in (link.up, link.down):
        assert np.isfinite(trace.edges_s).all() and np.isfinite(trace.bits).all() and (np.diff(trace.bits) >= 0).all()
    assert np.isfinite(link.latency_s).all() and (link.latency_s >= 0.0).all()


def test_a_bad_file_is_refused_before_the_first_round(tmp_path):
    path = tmp_path / "bad.csv"
    path.write_text(TEXT + "2,1,1\n")
    with pytest.raises(BadInput, match="must rise"):
        Trace(str(path)).place(3, STATIC)
    with pytest.raises(BadInput, match=r"bandwidth_mhz: 17 MHz has no 30 kHz grid"):
        build("network", {"name": "trace", "file": str(path), "bandwidth_mhz": 17.0})


def test_missing_file():
    with pytest.raises(BadInput, match=r"trace 'nowhere.csv' cannot be read: No such file"):
        read_trace("nowhere.csv")


def test_not_text(tmp_path):
    path = tmp_path / "picture.csv"
    path.write_bytes(b"\x89PNG\xff\xfe")
    with pytest.raises(BadInput, match="must be text in UTF-8"):
        read_trace(str(path))


# ---- measured data, where it is here ---------------------------------------------------------------------------------


def measured(name: str) -> str:
    """Folder of a data set; skips the test without it."""
    root = os.environ.get("FEDWAVE_DATA") or Path(__file__).parents[3] / "shared" / "data"
    path = Path(root) / name
    if not path.exists():
        pytest.skip(f"data {name} is not here: set FEDWAVE_DATA to the folder that holds it")
    return str(path)


def test_lte_logs():
    files = files_of(measured("sabre_lte4g_mmsys18"))
    links = [read_link(file) for file in files]
    assert len(links) == 40
    assert sum(link.down.edges_s[-1] for link in links) == pytest.approx(5 * 3600.0, rel=0.05)  # 5 h in all
    assert {round(each, 6) for link in links for each in link.latency_s.tolist()} == {0.02}


def test_5g_logs():
    folder = measured("cicv5g_subset")
    links = {Path(file).stem: read_link(file) for file in files_of(folder)}
    assert len(links) == 8
    lost = links["south_n8_v10_04"].down
    # 239 lines without a cell, at 20 Hz about 13 s in which nothing is carried.
    idle_s = np.diff(lost.edges_s)[np.diff(lost.bits) == 0.0].sum()
    assert 12.0 < idle_s < 16.0
    medians = [float(np.median(link.latency_s)) for link in links.values()]
    assert all(0.005 < median < 0.03 for median in medians)
    assert all((link.latency_s >= 0.0).all() and link.latency_s.max() < 5.0 for link in links.values())


@pytest.mark.parametrize("name", ["sabre_lte4g_mmsys18", "cicv5g_subset"])
def test_a_cohort_replays_measured_links(name):
    ids = np.arange(30)
    work = work_of(30, down=2e6, up=1e6)
    delivery = deliver(Trace(measured(name)), world_of(np.zeros((30, 2))), ids, work)
    assert delivery.heard.all()
    np.testing.assert_allclose(delivery.up_sent_bits, 1e6)
    assert np.isfinite(delivery.finish_s).all() and np.isfinite(delivery.radio_j).all()
    late = deliver(Trace(measured(name)), world_of(np.zeros((30, 2))), ids, work, deadline_s=1.5)
    assert (late.up_sent_bits <= work.up_bits).all() and (late.down_sent_bits <= work.down_bits).all()
