"""Wi-Fi, satellite and NB-IoT links: published rates, contention in closed form, and conservation."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from fedwave.core.config import build
from fedwave.core.errors import BadInput
from fedwave.core.types import STATUS
from fedwave.wireless.medium import share
from fedwave.wireless.networks.leo import Leo, overhead_pass
from fedwave.wireless.networks.nb_iot import NbIot
from fedwave.wireless.networks.wifi import Wifi, attempt_probability, phy_rate_bps

from .helpers import STATIC, compute_of, deliver, work_of, world_of

NETWORKS = [Wifi(), Leo(), Leo(beams=3, visible_share=0.2), NbIot(), NbIot(category="NB2")]
EVERYWHERE = np.zeros((400, 2))


# ---- a shared medium -----------------------------------------------------------------------------------------------


def processor(active, _):
    return (1.0 / active[0],)


def test_processor_sharing_by_hand():
    # Work 3 and 1 from 0, 1 from 1: at 1 s both of the first have had 1/2; then three share. The second ends at 2.5,
    # having had 1/2 + 1/2; the others have 2 and 1/2 left, share: 1 s later the third is done; the first alone at 5.
    start, work = np.array([0.0, 0.0, 1.0, np.inf, 4.0]), np.array([3.0, 1.0, 1.0, 1.0, 0.0])
    np.testing.assert_allclose(share(start, work, processor), [5.0, 2.5, 3.5, np.inf, 4.0])


def test_foreign_traffic_slows_down_for_its_time():
    # Half speed from 1 to 3 (two intervals that touch): work 2 is 1 by 1, 1 + 1 by 3.
    foreign = np.array([[2.0, 3.0], [1.0, 2.5], [7.0, 7.0]])
    done = share(np.zeros(1), np.array([2.0]), lambda n, other: (0.5 if other else 1.0,), foreign=foreign)
    np.testing.assert_allclose(done, [3.0])


@settings(deadline=None)
@given(
    st.lists(st.tuples(st.floats(0, 10), st.floats(0.01, 10), st.integers(0, 1)), min_size=1, max_size=8),
)
def test_the_medium_does_what_it_is_given(transfers):
    # With a capacity of 1 the last end is when all work is done: the busy periods, taken one by one.
    start, work, kind = (np.array(column) for column in zip(*transfers, strict=True))
    ends = share(start, work, lambda n, _: (1.0 / sum(n),) * len(n), kind=kind)
    clock = 0.0
    for begin, load in sorted(zip(start, work, strict=True)):
        clock = max(clock, begin) + load
    assert ends.max() == pytest.approx(clock)
    assert (ends >= start + work - 1e-9).all()


# ---- Wi-Fi ---------------------------------------------------------------------------------------------------------


def test_rates_of_802_11ax():
    # IEEE 802.11ax-2021, short guard interval: MCS 0 and 11 at 20 MHz, 11 at 80 and 160 MHz, in Mbit/s.
    rates = [phy_rate_bps(*args) / 1e6 for args in ((20, 0, 1), (20, 11, 1), (80, 11, 1), (160, 11, 8))]
    np.testing.assert_allclose(rates, [8.6, 143.4, 600.5, 9607.8], rtol=1e-3)


def test_bianchi_in_closed_form():
    # One station: tau = 2 / (W + 1). Without backoff stages the same for any number.
    tau, p = attempt_probability([1])
    np.testing.assert_allclose([tau[0], p[0]], [2.0 / 17.0, 0.0])
    tau, p = attempt_probability([2, 10], window=32, stages=0)
    np.testing.assert_allclose(tau, 2.0 / 33.0)
    np.testing.assert_allclose(p, 1.0 - (1.0 - 2.0 / 33.0) ** np.array([1, 9]), rtol=1e-9)


def test_bianchi_equations_hold_at_the_fixed_point():
    # Equations 7 and 9 as printed, W = 32, m = 3.
    n = np.array([2.0, 5.0, 50.0])
    tau, p = attempt_probability(n, window=32, stages=3)
    np.testing.assert_allclose(p, 1.0 - (1.0 - tau) ** (n - 1.0), rtol=1e-9)
    printed = 2.0 * (1.0 - 2.0 * p) / ((1.0 - 2.0 * p) * 33.0 + p * 32.0 * (1.0 - (2.0 * p) ** 3))
    np.testing.assert_allclose(tau, printed, rtol=1e-9)


def test_bianchi_against_a_slot_by_slot_backoff():
    # Five stations, W = 16, m = 3, in 400 independent channels of 500 slots; a slot is idle, a success or a collision.
    stations, window, stages = 5, 16, 3
    draw = STATIC.numpy()
    stage = np.zeros((400, stations), dtype=int)
    counter = draw.integers(0, window, stage.shape)
    attempts = collisions = slots = 0
    for step in range(500):
        sends = counter == 0
        clash = sends & (sends.sum(axis=1, keepdims=True) > 1)
        if step >= 100:  # once it is stationary
            attempts, collisions, slots = attempts + sends.sum(), collisions + clash.sum(), slots + sends.size
        stage = np.where(clash, np.minimum(stage + 1, stages), np.where(sends, 0, stage))
        again = np.floor(draw.random(stage.shape) * window * 2.0**stage).astype(int)
        counter = np.where(sends, again, counter - 1)
    tau, p = attempt_probability([stations], window, stages)
    assert attempts / slots == pytest.approx(tau[0], rel=0.03)
    assert collisions / attempts == pytest.approx(p[0], rel=0.03)


def test_wifi_throughput_of_one_station_by_hand():
    # MCS 7, 80 MHz, 2 streams: 720.6 Mbit/s; 64 packets of 1,544 bytes last 1.097 ms. One station idles (W - 1) / 2 =
    # 7.5 slots of 9 us on average and never collides: 64 x 1,460 x 8 bits in 67.5 us + T_s.
    wifi = Wifi(rts_cts=False)
    frame_s = 44e-6 + 64 * 1544 * 8 / wifi.phy_bps
    expected = 64 * 1460 * 8 / (7.5 * 9e-6 + frame_s + 16e-6 + 32e-6 + 34e-6)
    assert wifi.throughput_bps(1) == pytest.approx(expected)


def test_a_frame_is_no_longer_than_allowed():
    slow = Wifi(bandwidth_mhz=20, mcs=0, spatial_streams=1)  # 8.6 Mbit/s: three packets of 1,544 bytes in 5.484 ms
    assert slow.throughput_bps(1) < slow.phy_bps
    assert slow._packets == 3


def test_long_bitmaps_take_longer_to_acknowledge():
    # 65 packets need a bitmap of 32 bytes: 40 instead of 32 us beside the frame.
    short, long = (Wifi(aggregate=count, rts_cts=False)._durations_s()[0] for count in (64, 65))
    assert long - short == pytest.approx(1544 * 8 / Wifi().phy_bps + 8e-6)


def test_announced_frames_lose_little_to_collisions():
    n = np.arange(1, 200)
    plain, announced = (Wifi(rts_cts=flag).throughput_bps(n) for flag in (False, True))
    assert (np.diff(plain) < 0.0).all() and (announced[50:] > 0.7 * Wifi().phy_bps).all()
    assert announced[100] > 1.5 * plain[100]


def test_wifi_clients_share_the_channel():
    wifi = Wifi(rtt_s=0.0, wake_s=0.0)
    ids = np.arange(10)
    delivery = deliver(wifi, world_of(EVERYWHERE), ids, work_of(10, down=1e8, up=1e8), compute_of(10))
    np.testing.assert_allclose(delivery.downlink_s, 10 * 1e8 / wifi.throughput_bps(1))
    np.testing.assert_allclose(delivery.uplink_s, 10 * 1e8 / wifi.throughput_bps(10))


def test_uploads_share_with_downloads_under_way():
    # Client 0 has nothing to receive and uploads at once while client 1 downloads: two contenders, then one.
    wifi = Wifi(rtt_s=0.0, wake_s=0.0)
    work = work_of(2, down=0.0, up=1e9)
    work.phases[0].down_bits[1] = 1e9
    work.phases[0].up_bits[1] = 0.0
    delivery = deliver(wifi, world_of(EVERYWHERE), [0, 1], work, compute_of(2, seconds=0.0))
    download_s = 1e9 / wifi.throughput_bps(1)
    sent = download_s * wifi.throughput_bps(2) / 2.0
    np.testing.assert_allclose(delivery.downlink_s[1], download_s)
    np.testing.assert_allclose(delivery.uplink_s[0], download_s + (1e9 - sent) / wifi.throughput_bps(1))


def test_access_points_have_channels_of_their_own():
    ids, work = np.arange(60), work_of(60, down=1e8, up=1e8)
    wifi = Wifi(access_points=3, rtt_s=0.0, wake_s=0.0)
    delivery = deliver(wifi, world_of(EVERYWHERE), ids, work, compute_of(60))
    # Everybody at a point finishes together: n clients take n times as long to download.
    seconds, clients = np.unique(np.round(delivery.downlink_s, 9), return_counts=True)
    assert clients.sum() == 60 and len(clients) == 3
    np.testing.assert_allclose(seconds, clients * 1e8 / wifi.throughput_bps(1))
    alone = deliver(Wifi(rtt_s=0.0, wake_s=0.0), world_of(EVERYWHERE), ids, work, compute_of(60))
    assert delivery.round_s < alone.round_s


def test_an_access_point_has_2007_association_identifiers():
    world, ids = world_of(np.zeros((2008, 2))), np.arange(2008)
    assert deliver(Wifi(), world, ids[:-1], work_of(2007, down=1e3, up=1e3)).heard.all()
    with pytest.raises(BadInput, match=r"access_points: 1 for a cohort of 2008 leaves 2008 clients at one"):
        deliver(Wifi(), world, ids, work_of(2008, down=1e3, up=1e3))
    assert deliver(Wifi(access_points=2), world, ids, work_of(2008, down=1e3, up=1e3)).heard.all()


# ---- satellites ----------------------------------------------------------------------------------------------------


def test_a_terminal_alone_and_in_a_full_beam():
    leo = Leo(downlink_mbps=100.0, uplink_mbps=10.0, beam_downlink_mbps=300.0, beam_uplink_mbps=20.0, rtt_s=0.0,
              interruption_s=0.0)  # fmt: skip
    alone = deliver(leo, world_of(EVERYWHERE), [0], work_of(1, down=1e8, up=1e8))
    np.testing.assert_allclose([alone.downlink_s[0], alone.uplink_s[0]], [1.0, 10.0])
    # Six terminals: 300 / 6 = 50 Mbit/s each down, 20 / 6 up.
    six = deliver(leo, world_of(EVERYWHERE), np.arange(6), work_of(6, down=1e8, up=1e8))
    np.testing.assert_allclose(six.downlink_s, 2.0)
    np.testing.assert_allclose(six.uplink_s, 30.0)


def test_reconfigurations_interrupt_everybody():
    # 10 Mbit/s, 1 s without service at 0, 15, 30 ...: 300 Mbit take 30 s of service, 14 in each period: 14 + 14 + 2,
    # so the clock shows 30 + 1 + 2.
    leo = Leo(downlink_mbps=10.0, beam_downlink_mbps=10.0, rtt_s=0.0, interruption_s=1.0)
    delivery = deliver(leo, world_of(EVERYWHERE), [0], work_of(1, down=3e8, up=0.0), compute_of(1, seconds=0.0))
    np.testing.assert_allclose(delivery.downlink_s, 33.0)


@given(st.lists(st.floats(0.0, 1e5), min_size=1, max_size=5), st.floats(0.0, 14.0), st.sampled_from([0.03, 0.5, 1.0]))
def test_service_time_and_clock_invert(times, interruption, visible):
    leo = Leo(interruption_s=interruption, visible_share=visible)
    served = leo.service_s(np.array(times))
    np.testing.assert_allclose(leo.service_s(leo.clock_of(served)), served, rtol=1e-9, atol=1e-6)
    assert (leo.service_s(np.sort(times) + 1.0) >= leo.service_s(np.sort(times))).all()


def test_an_overhead_pass_by_hand():
    # 550 km, 25 degrees: cos(psi + 25) = 6371 cos(25) / 6921 = 0.83428, psi = 33.46 - 25 = 8.46 degrees = 0.14765.
    # The orbit takes 2 pi sqrt(6921 km^3 / GM) = 5,730 s, 2 psi of it 269.3 s; slant range 6921 sin(8.46) / cos(25).
    seconds, metres = overhead_pass(550.0, 25.0)
    assert seconds == pytest.approx(269.3, abs=0.5)
    assert metres == pytest.approx(1123e3, rel=1e-3)
    # From horizon to horizon, and straight above: the slant range is sqrt((R + h)^2 - R^2), and the altitude.
    assert overhead_pass(550.0, 0.0)[1] == pytest.approx(np.sqrt(6921e3**2 - 6371e3**2))
    assert overhead_pass(550.0, 89.999)[1] == pytest.approx(550e3, rel=1e-6)


def test_a_sparse_constellation_serves_in_passes():
    # 60 Mbit/s; a pass serves P seconds of 4 P. The bits of two passes take one whole distance of 4 P and P more,
    # plus what was missing of the first pass when the round began: between 5 P (at its beginning) and 8 P.
    leo = Leo(60.0, 60.0, 60.0, 60.0, rtt_s=0.0, interruption_s=0.0, visible_share=0.25)
    bits = 2.0 * 60e6 * leo.pass_s
    seconds = deliver(leo, world_of(EVERYWHERE), [0], work_of(1, down=bits, up=0.0), compute_of(1, seconds=0.0)).round_s
    assert 5.0 * leo.pass_s * (1 - 1e-9) <= seconds <= 8.0 * leo.pass_s * (1 + 1e-9)
    # Over a long time a quarter of it is served.
    many = deliver(leo, world_of(EVERYWHERE), [0], work_of(1, down=100 * bits, up=0.0), compute_of(1, seconds=0.0))
    assert many.round_s == pytest.approx(100 * bits / 60e6 / 0.25, rel=0.01)


def test_beams_have_passes_of_their_own():
    leo = Leo(beams=40, visible_share=0.1)
    delivery = deliver(leo, world_of(EVERYWHERE), np.arange(200), work_of(200, down=1e3, up=0.0), compute_of(200))
    waits = delivery.downlink_s - leo.rtt_s
    # A tenth of the beams have a satellite in view at once; the others wait up to 9 passes.
    assert 0.0 < (waits < 1.0).mean() < 0.35
    assert waits.max() <= 9.0 * leo.pass_s + 1.0


def test_beams_do_not_compete():
    ids = np.arange(300)
    one, many = (deliver(Leo(beams=beams), world_of(EVERYWHERE), ids).round_s for beams in (1, 50))
    assert many < 0.2 * one


# ---- NB-IoT --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("category", "down", "up"), [("NB1", 25.5e3, 62.5e3), ("NB2", 127.3e3, 158.5e3)])
def test_sustained_peaks_in_good_coverage(category, down, up):
    network = NbIot(category=category, mcl_db=(100.0,), shares=(1.0,))
    np.testing.assert_allclose(network.downlink().rate_bps, down, rtol=1e-3)
    np.testing.assert_allclose(network.uplink().rate_bps, up, rtol=1e-3)


def test_repetitions_at_164_db_by_hand():
    # One tone: 23 - 164 + 174 - 3 - 41.76 = -11.76 dB. 1,000 bits in 48 ms of 15 kHz are 1.389 bit/s/Hz, which wants
    # 10^(1.476) (2^1.389 - 1) = 29.9 x 1.619 = 48.4 repetitions: 64, of 48 ms, and the gap of 12 ms: 324.3 bit/s.
    use = NbIot(mcl_db=(164.0,), shares=(1.0,)).uplink()
    np.testing.assert_allclose(use.rate_bps, 1000.0 / (64 * 0.048 + 0.012))
    np.testing.assert_allclose(use.occupancy, 64 * 48 / (64 * 48 + 12) / 12)


def test_the_classes_are_explained():
    rows = {row[0]: row[1:] for row in NbIot(mcl_db=(144.0, 164.0), shares=(0.9, 0.1)).explain()}
    assert rows["class_1.mcl_db"] == (164.0, "dB", "job") and rows["class_1.share"][0] == 0.1
    assert rows["class_1.uplink_bps"][0] == pytest.approx(1000.0 / (64 * 0.048 + 0.012))
    assert rows["access.preambles"][:2] == (12, "")


@given(st.sampled_from(["NB1", "NB2"]), st.sampled_from([14, 20, 23]), st.lists(st.floats(100.0, 180.0), min_size=2))
def test_rates_fall_with_the_coupling_loss(category, power, losses):
    losses = tuple(sorted(losses))
    shares = (1.0, *[0.0] * (len(losses) - 1))
    network = NbIot(category=category, power_dbm=power, mcl_db=losses, shares=shares)
    for use in (network.downlink(), network.uplink()):
        assert (np.diff(use.rate_bps) <= 1e-9).all()
        assert ((use.occupancy > 0.0) & (use.occupancy <= 1.0) & (use.duty <= 1.0)).all()


def test_the_carrier_is_shared_once_it_is_full():
    # In good coverage a Cat-NB1 device takes 4 of 16 ms of the uplink: four fit beside each other, eight halve it.
    network = NbIot(mcl_db=(100.0,), shares=(1.0,), rtt_s=0.0, inactivity_s=1e6)
    for count, seconds in ((1, 16.0), (4, 16.0), (8, 32.0)):
        delivery = deliver(network, world_of(EVERYWHERE), np.arange(count), work_of(count, down=0.0, up=1e6),
                           compute_of(count, seconds=0.0))  # fmt: skip
        sent = delivery.uplink_s - delivery.access_s
        # Devices come through random access at different times, so only the last moments of many are shared by all.
        assert sent.max() == pytest.approx(seconds, rel=0.15)


def test_energy_of_an_upload_by_hand():
    # 1 Mbit in 16 s, a quarter of it sending at 10^2.3 mW / 0.44 + 0.091 W, the rest listening at 0.09 W; no tail.
    network = NbIot(mcl_db=(100.0,), shares=(1.0,), rtt_s=0.0, inactivity_s=0.0)
    delivery = deliver(network, world_of(EVERYWHERE), [3], work_of(1, down=0.0, up=1e6))
    sending_w = 10**2.3 * 1e-3 / 0.44 + 0.091
    expected = 0.09 * delivery.access_s + 16.0 * (0.25 * sending_w + 0.75 * 0.09)
    np.testing.assert_allclose(delivery.radio_j, expected)


def test_paging_lets_a_crowd_through():
    # 400 devices at once on 12 preambles block each other; called over 80 s, 0.64 s bring 3.2 and hardly anybody fails.
    ids, work = np.arange(400), work_of(400, down=500.0, up=0.0)
    world = world_of(EVERYWHERE)
    called = deliver(NbIot(mcl_db=(120.0,), shares=(1.0,)), world, ids, work)
    at_once = deliver(NbIot(mcl_db=(120.0,), shares=(1.0,), calls_per_s=1e6), world, ids, work)
    assert called.heard.mean() > 0.97 and at_once.heard.mean() < 0.5
    assert (at_once.status[~at_once.heard] == STATUS["access"]).all()
    assert 70.0 < called.access_s.max() < 120.0


def test_out_of_coverage_is_no_link():
    network = NbIot(mcl_db=(190.0,), shares=(1.0,))
    delivery = deliver(network, world_of(EVERYWHERE), [0, 1])
    assert (delivery.status == STATUS["missed_broadcast"]).all()
    assert delivery.up_sent_bits.sum() == delivery.down_sent_bits.sum() == 0.0


def test_classes_are_drawn_by_share_and_for_good():
    network, ids = NbIot(), np.arange(20_000)
    drawn = network.coverage(ids, STATIC)
    np.testing.assert_allclose(np.bincount(drawn) / len(ids), network.shares, atol=0.012)
    np.testing.assert_array_equal(network.coverage(ids[::3], STATIC), drawn[::3])


def test_more_coupling_loss_costs_more_energy():
    joules = [
        deliver(NbIot(mcl_db=(mcl,), shares=(1.0,)), world_of(EVERYWHERE), [0], work_of(1, down=1e4, up=1e4)).radio_j[0]
        for mcl in (144.0, 154.0, 164.0)
    ]
    assert joules[0] < joules[1] < joules[2]


# ---- all -----------------------------------------------------------------------------------------------------------


@settings(max_examples=25, deadline=None)
@given(
    st.sampled_from(NETWORKS), st.integers(1, 12), st.floats(0.0, 1e6), st.floats(0.0, 1e6), st.integers(1, 2),
    st.none() | st.floats(0.1, 1e4),
)  # fmt: skip
def test_deliveries_are_finite_and_conserve(network, count, down, up, phases, deadline_s):
    ids = np.arange(count) * 7
    work = work_of(count, down=down, up=up, phases=phases)
    delivery = deliver(network, world_of(EVERYWHERE), ids, work, compute_of(count, phases=phases),
                       deadline_s=deadline_s)  # fmt: skip
    assert (delivery.up_sent_bits <= work.up_bits + 1e-6).all() and (delivery.up_sent_bits >= 0.0).all()
    assert (delivery.down_sent_bits <= work.down_bits + 1e-6).all() and (delivery.down_sent_bits >= 0.0).all()
    for name in ("radio_j", "compute_j", "coefficient"):
        values = getattr(delivery, name)
        assert np.isfinite(values).all() and (values >= -1e-9).all()
    assert np.isfinite([delivery.round_s, delivery.airtime]).all()
    np.testing.assert_allclose(delivery.up_sent_bits[delivery.heard], work.up_bits[delivery.heard])
    if deadline_s is not None:
        assert (delivery.finish_s[delivery.heard] <= deadline_s).all()


@pytest.mark.parametrize("network", NETWORKS[:2], ids=lambda network: network.registered_name)
def test_more_clients_never_make_it_faster(network):
    rounds = [
        deliver(network, world_of(EVERYWHERE), np.arange(count), work_of(count, down=1e4, up=1e4)).round_s
        for count in (1, 20, 200)
    ]
    assert rounds[0] <= rounds[1] * (1 + 1e-9) and rounds[1] <= rounds[2] * (1 + 1e-9)


@pytest.mark.parametrize(
    ("table", "sentence"),
    [
        ({"name": "wifi", "mcs": 12}, "mcs: .*less than or equal to 11, got 12"),
        ({"name": "wifi", "bandwidth_mhz": 30}, "bandwidth_mhz: .*20, 40, 80 or 160, got 30"),
        ({"name": "leo", "interruption_s": 15.0}, r"interruption_s: 15 s must be less than reconfiguration_s, 15 s"),
        ({"name": "leo", "visible_share": 0.0}, "visible_share: .*greater than 0"),
        ({"name": "leo", "altitude_km": 0.001, "min_elevation_deg": 80.0}, "min_elevation_deg: 80 leaves a satellite"),
        ({"name": "wifi", "aggregate": 300}, "aggregate: .*less than or equal to 256"),
        ({"name": "leo", "beams": 0}, "beams: .*greater than or equal to 1"),
        ({"name": "nb-iot", "category": "NB3"}, "category: .*'NB1' or 'NB2'"),
        ({"name": "nb-iot", "shares": [0.5, 0.5]}, "shares: needs one for each of the 3 mcl_db, got 2"),
        ({"name": "nb-iot", "shares": [0.5, 0.2, 0.2]}, "shares: must sum to 1, got 0.9"),
        ({"name": "nb-iot", "access": {"preambles": 0}}, r"access.preambles: .*greater than or equal to 1"),
    ],
)
def test_refusals(table, sentence):
    with pytest.raises(BadInput, match=sentence):
        build("network", table)
