"""The one-time delivery of the base model, by hand and at scale."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import pytest

from fedwave.core.errors import BadInput
from fedwave.wireless.base_delivery import base_delivery, one_after_another
from fedwave.wireless.downlinks.downlink import Listeners
from fedwave.wireless.downlinks.multicast import Multicast
from fedwave.wireless.downlinks.rateless import Rateless
from fedwave.wireless.downlinks.unicast import Unicast


@dataclass(frozen=True)
class Phone:
    receive_w: float = 2.0
    downlink_j_per_bit: float = 1e-6
    setup_w: float = 1.0
    tail_w: float = 0.5

    def tail_j(self, gap_s, inactivity_s):
        return self.tail_w * np.minimum(gap_s, inactivity_s)


@dataclass(frozen=True)
class Timing:
    setup_s: float = 0.1
    inactivity_s: float = 10.0


WAKE_J = 1.0 * 0.1 + 0.5 * 10.0


def listeners_of(full, cell, *, sinr=10.0):
    full = np.asarray(full, dtype=float)
    return Listeners(np.asarray(cell), full, full, np.broadcast_to(sinr, full.shape), 1e6)


def deliver(downlink, listeners, bits=1e6, **kwargs):
    return base_delivery(bits, listeners, downlink, energy=Phone(), connection=Timing(), **kwargs)


def test_unicast_by_hand():
    # Cell 0: 1 s + 0.5 s; cell 1: 0.25 s; one device without a link.
    got = deliver(Unicast(), listeners_of([1e6, 4e6, 2e6, 0.0], [0, 1, 0, 1]))
    np.testing.assert_allclose(got.gnb_airtime_s, [1.5, 0.25])
    assert got.seconds == pytest.approx(0.1 + 1.5)
    assert got.unreached_share == 0.25
    assert got.bits_on_air == pytest.approx(3e6)
    # awake for its own turn only: 2 W x 1 s + 1 uJ x 1 Mbit + one wake
    np.testing.assert_allclose(got.joules, [2 + 1 + WAKE_J, 0.5 + 1 + WAKE_J, 1 + 1 + WAKE_J, 0.0])
    assert got.joules_mean == pytest.approx(got.joules[:3].mean())


def test_multicast_by_hand():
    got = deliver(Multicast(1.0), listeners_of([1e6, 4e6, 2e6, 0.0], [0, 1, 0, 1]))
    np.testing.assert_allclose(got.gnb_airtime_s, [1.0, 0.25])  # the weakest of each cell
    assert got.seconds == pytest.approx(1.1)
    assert got.bits_on_air == pytest.approx(2e6)
    np.testing.assert_allclose(got.joules, [2 + 1 + WAKE_J, 0.5 + 1 + WAKE_J, 2 + 1 + WAKE_J, 0.0])


def test_a_share_of_the_carrier_takes_longer_and_uses_the_same_airtime():
    listeners = listeners_of([1e6, 4e6, 2e6], [0, 0, 0])
    for downlink in (Unicast(), Multicast(0.7)):
        whole, half = deliver(downlink, listeners), deliver(downlink, listeners, carrier_share=0.5)
        np.testing.assert_allclose(half.gnb_airtime_s, whole.gnb_airtime_s)
        assert half.seconds - 0.1 == pytest.approx(2 * (whole.seconds - 0.1))


def test_a_cell_without_room_keeps_the_others_going():
    listeners = listeners_of([1e6, 4e6, 2e6], [0, 1, 0])
    for downlink in (Unicast(), Multicast(1.0)):
        got = deliver(downlink, listeners, carrier_share=np.array([0.0, 0.5]))
        assert got.unreached_share == pytest.approx(2 / 3)
        assert got.gnb_airtime_s[0] == 0.0 and got.gnb_airtime_s[1] == pytest.approx(0.25)  # 1e6 bits at 4e6 bit/s


def test_in_turn():
    finish = one_after_another(listeners_of([1.0, 2.0, 4.0, 0.0], [1, 0, 1, 1]))
    end = finish(np.array([0.0, 5.0, 2.0, 0.0]), np.array([4.0, 4.0, 4.0, 4.0]))
    np.testing.assert_allclose(end, [6.0, 7.0, 7.0, np.inf])  # cell 1 begins at 2: 4 s, then 1 s
    np.testing.assert_allclose(finish(np.ones(4), np.zeros(4)), 1.0)


@pytest.mark.parametrize("downlink", [Unicast(), Multicast(), Multicast(0.95), Rateless(coverage=0.95)])
def test_a_million_devices_in_19_cells(downlink):
    rng = np.random.default_rng(0)
    count, bits = 1_000_000, 8 * 2.2e9
    sinr = 10 ** rng.normal(1.0, 0.8, count)
    rate = 14e6 * np.minimum(np.log2(1 + sinr), 7.4) * (rng.random(count) > 0.02)
    cell = rng.integers(0, 19, count)
    listeners = Listeners(cell, rate, 0.5 * rate, sinr, 14e6)
    got = deliver(downlink, listeners, bits)
    assert got.unreached_share == pytest.approx(np.mean(rate == 0))
    assert np.isfinite(got.joules).all() and ((got.joules > 0) == (rate > 0)).all()
    alone = np.bincount(cell[rate > 0], weights=bits / rate[rate > 0])
    if downlink == Unicast():
        np.testing.assert_allclose(got.gnb_airtime_s, alone, rtol=1e-9)
    else:
        assert (got.gnb_airtime_s < alone).all()


def test_nothing_to_deliver():
    got = deliver(Unicast(), listeners_of([1e6], [0]), bits=0.0)
    assert got.seconds == 0.0 and got.unreached_share == 0.0 and got.joules_mean == 0.0


def test_bad_input():
    listeners = listeners_of([1e6], [0])
    for bits in (-1.0, np.inf, np.nan):
        with pytest.raises(BadInput, match="bits"):
            deliver(Unicast(), listeners, bits=bits)
    with pytest.raises(BadInput, match="carrier_share"):
        deliver(Unicast(), listeners, carrier_share=-0.1)
    with pytest.raises(BadInput, match="at least one device"):
        deliver(Unicast(), listeners_of([], []))
