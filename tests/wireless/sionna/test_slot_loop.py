"""The slot loop and the link level against closed forms, against each other, and against the fluid model."""

from __future__ import annotations

import numpy as np
import pytest

from fedwave.core.keys import Key
from fedwave.wireless.link import mcs_table, transport_block_bits
from fedwave.wireless.reference.backend import link_adaptation
from fedwave.wireless.reference.carrier import Carrier
from fedwave.wireless.reference.fading import Fading
from fedwave.wireless.reference.grants import capped, rotation
from fedwave.wireless.reference.link_level import link_rates
from fedwave.wireless.reference.slot_loop import run_slots

from .compare_slot_loop import USERS, agreement, compare

sionna = pytest.importorskip("sionna", reason="needs the extra fedwave[sionna]")
torch = pytest.importorskip("torch")
TDL = pytest.importorskip("sionna.phy.channel.tr38901").TDL

KEY = Key(11)
KEYS = (KEY, KEY.fold(1))
SYSTEM = {"fidelity": "system"}
CARRIER = Carrier(12)


def test_transport_blocks_are_those_of_whole_resource_blocks():
    blocks = link_adaptation(132, 0.1)[2]
    order, rate = mcs_table(2)
    prbs = np.arange(1, 52)
    qm, count = torch.as_tensor(order, dtype=torch.int32)[:, None], torch.as_tensor(prbs, dtype=torch.int32)
    got = blocks.transport_block_size(qm, torch.as_tensor(rate / 1024)[:, None].float(), qm * count)[0]
    np.testing.assert_array_equal(got, transport_block_bits(prbs, 12, 12, 0, order[:, None], rate[:, None], 1))


def test_fading_has_mean_power_one_and_the_variance_of_its_diversity():
    # |h|^2 of Rayleigh fading is exponential: mean 1, variance 1; the mean of B branches has variance 1 / B.
    for branches in (1, 4):
        gain = Fading("rayleigh", branches=branches).gains(KEY, np.arange(4), CARRIER, first=0, slots=4000, **SYSTEM)
        assert gain.shape == (4000, 12, 4)
        np.testing.assert_array_equal(gain, np.broadcast_to(gain[:, :1], gain.shape))  # flat
        assert gain[:, 0].mean() == pytest.approx(1.0, abs=4.0 / np.sqrt(16000 * branches))
        assert gain[:, 0].var() == pytest.approx(1.0 / branches, rel=0.1)


def test_tapped_delay_lines_fade_in_time_and_frequency():
    # 500 slots 100 ms apart at 3 km/h and 3.5 GHz (Doppler 9.7 Hz) are nearly independent; 20 users.
    fading = Fading(delay_spread_s=300e-9)
    gain = fading.gains(KEY, np.arange(20), Carrier(51), first=0, slots=500, spacing=40, **SYSTEM)
    assert gain.mean() == pytest.approx(1.0, abs=0.03)
    assert gain.var() == pytest.approx(1.0, abs=0.1)
    # Gains of Rayleigh fading at two frequencies f apart covary by |R(f)|^2, R(f) = sum_p P_p exp(-j 2 pi f tau_p):
    # the mean over the carrier varies by the mean of |R|^2 over all pairs of blocks.
    tdl = TDL("C", 300e-9, 3.5e9)
    apart = 360e3 * (np.arange(51)[:, None] - np.arange(51)).ravel()
    turn = np.exp(-2j * np.pi * apart[:, None] * tdl.delays.double().numpy())
    expected = np.mean(np.abs(turn @ tdl.mean_powers.double().numpy()) ** 2)
    assert gain.mean(axis=1).var() == pytest.approx(expected, rel=0.1)
    # Successive uplink slots of DDDSU are 2.5 ms apart: J0(2 pi 9.7 Hz 2.5 ms)^2 = 0.988 is their correlation.
    near = fading.gains(KEY, np.arange(20), Carrier(51), first=0, slots=500, **SYSTEM)
    each = near - near.mean()
    assert (each[1:] * each[:-1]).mean() / each.var() == pytest.approx(0.988, abs=0.01)


@pytest.mark.parametrize("model", ["TDL-C", "CDL-C", "TDL-D", "rayleigh"])
def test_a_users_channel_does_not_depend_on_the_others(model):
    everyone = Fading(model).gains(KEY, np.arange(4), CARRIER, first=0, slots=30, **SYSTEM)
    torch.manual_seed(5)
    before = torch.random.get_rng_state()
    some = Fading(model).gains(KEY, np.array([3, 1]), CARRIER, first=0, slots=30, **SYSTEM)
    np.testing.assert_array_equal(some, everyone[:, :, [3, 1]])
    assert torch.equal(torch.random.get_rng_state(), before)  # the caller's generator is untouched
    other = Fading(model).gains(Key(12), np.array([3, 1]), CARRIER, first=0, slots=30, **SYSTEM)
    assert not np.allclose(some, other)


def test_downlink_slots_share_the_channel_of_every_slot():
    # Slots 0, 1, 2, 5, 6, 7 of DDDSU are the downlink's; the same realisation at every slot has them in these places.
    every = Fading().gains(KEY, np.arange(2), Carrier(12, pattern="D", direction="down"), first=0, slots=8, **SYSTEM)
    down = Fading().gains(KEY, np.arange(2), Carrier(12, direction="down"), first=0, slots=6, **SYSTEM)
    np.testing.assert_allclose(down, every[[0, 1, 2, 5, 6, 7]], rtol=1e-4, atol=1e-5)


def test_rotation_gives_adjacent_parts_in_turn():
    active = torch.tensor([[True, False, True, True]])
    cap = torch.tensor([8, 8, 8, 1])
    # 8 blocks in 3 parts: floor(3 b / 8) = 0 0 0 1 1 1 2 2; users 0, 2, 3 hold parts 1, 2, 0 in slot 1.
    owner = _owners(rotation(active, 8, cap, 1))
    assert owner == [3, None, None, 0, 0, 0, 2, 2]  # user 3 may use one block
    granted = torch.stack([rotation(active, 8, torch.full((4,), 8), slot)[0] for slot in range(3)])
    assert granted.sum(dim=(0, 1)).tolist() == [8, 0, 8, 8]


def test_a_capped_user_keeps_its_best_blocks_and_others_get_the_rest():
    metric = torch.tensor([[[9.0, 1.0, 2.0], [8.0, 3.0, 2.0], [7.0, 4.0, 5.0], [6.0, 5.0, 9.0]]])
    granted = torch.nn.functional.one_hot(metric.argmax(dim=2), 3).bool()
    assert _owners(granted) == [0, 0, 0, 2]
    everyone = torch.ones(1, 3, dtype=torch.bool)
    # User 0 keeps block 0. User 1 wins block 1, user 2 block 2 and is full with block 3.
    assert _owners(capped(granted, metric, everyone, torch.tensor([1, 4, 2]))) == [0, 1, 2, 2]
    # With nobody else ready, blocks stay empty.
    alone = torch.tensor([[True, False, True]])
    assert _owners(capped(granted, metric, alone, torch.tensor([1, 4, 1]))) == [0, None, None, 2]


@pytest.mark.parametrize("scheduler", ["pf", "round_robin"])
def test_nothing_is_lost_and_nothing_is_given_twice(scheduler):
    bits, ready = np.array([0.0, 2e4, 8e4, 5e9]), np.array([0.3, 0.0, 0.1, 0.05])
    out = _run(np.array([10.0, 20.0, 10.0, 15.0])[:, None], bits, ready, scheduler=scheduler, max_slots=120)
    np.testing.assert_allclose(out.delivered_bits + out.left_bits, np.broadcast_to(bits, (2, 4)))
    assert out.slot_bits.sum() == pytest.approx(out.delivered_bits.sum(axis=1).mean())
    assert out.slot_blocks.sum() == pytest.approx(out.block_slots.sum(axis=1).mean())
    assert len(out.slot_bits) == 120 and (out.slot_blocks <= CARRIER.prbs).all() and (out.slot_users <= 4).all()
    np.testing.assert_array_equal(out.finish_s[:, 0], 0.3)  # nothing to send
    assert np.isinf(out.finish_s[:, 3]).all() and np.isnan(out.bler[:, 0]).all()
    assert (out.finish_s[:, 1:3] > ready[1:3]).all() and (out.bler[:, 1:] < 0.3).all()
    ends = np.rint(out.finish_s[:, 1:3] / CARRIER.slot_s)
    np.testing.assert_allclose(out.finish_s[:, 1:3], ends * CARRIER.slot_s)
    assert (ends % 5 == 0).all()  # uplink slots of DDDSU end with the pattern
    again = _run(np.array([10.0, 20.0, 10.0, 15.0])[:, None], bits, ready, scheduler=scheduler, max_slots=120)
    np.testing.assert_array_equal(out.delivered_bits, again.delivered_bits)
    assert (out.delivered_bits[0] != out.delivered_bits[1]).any()  # replications differ


def test_the_first_slot_is_the_first_that_starts_when_the_user_is_ready():
    # One transport block of 12 blocks at 25 dB carries these bits. Uplink slots start at 2.0, 4.5, 7.0 ms.
    for ready, end in ((0.0, 2.5e-3), (2.0e-3, 2.5e-3), (2.1e-3, 5.0e-3)):
        out = _run(np.array([[30.0]]), [500.0], [ready], fading=Fading("TDL-D"))
        np.testing.assert_allclose(out.finish_s, end)


@pytest.mark.parametrize("direction", ["up", "down"])
def test_a_lone_user_gets_the_link_levels_rate(direction):
    # Same key, same fading: what the slot loop delivers is the link level's expectation up to transport block errors,
    # of which about 5 % are lost in 125 slots: standard deviation below sqrt(0.05 / 125) = 2 %.
    carrier = Carrier(12, direction=direction)
    link = link_rates([[12.0]], [12], carrier=carrier, fading=Fading(), key=KEY, slots=125)
    out = run_slots(
        [[12.0]], [1e12], [0.0], carrier=carrier, fading=Fading(), keys=[KEY], scheduler="round_robin", max_slots=125
    )
    expected = link.trace_bps.sum() / (carrier.share / carrier.slot_s)
    assert out.delivered_bits.item() == pytest.approx(expected, rel=0.06)
    assert out.bler.item() == pytest.approx(link.bler.item(), abs=0.06)


def test_link_rates_grow_with_sinr_and_power_density_sets_the_grant():
    # 12 blocks share a power: SINR per block falls by 10 log10 m. At low power few blocks are best, at high all.
    spread = -10.0 * np.log10(np.arange(1, 13))
    full = np.array([4.0, 12.0, 30.0])[:, None] + spread
    link = link_rates(full, [1, 2, 4, 8, 12], carrier=CARRIER, fading=Fading(), key=KEY, slots=200, spacing=40)
    assert link.mean_bps.shape == (3, 5) and link.trace_bps.shape == (3, 5, 200)
    assert (np.diff(link.mean_bps[:, :3], axis=0) > 0.0).all()
    assert link.useful_blocks[0] < link.useful_blocks[2] == 12
    # 256QAM at rate 0.926, 132 elements, all blocks lossless: no rate is above this.
    assert (link.mean_bps <= 8 * 0.926 * 132 * link.grants * CARRIER.share / CARRIER.slot_s * 1.01).all()


def test_equal_users_get_equal_blocks_in_turn():
    out = _run(np.full((5, 1), 15.0), np.full(5, 1e12), np.zeros(5), scheduler="round_robin", max_slots=100)
    np.testing.assert_array_equal(out.block_slots, 12 * 100 / 5)


def test_proportional_fair_serves_users_at_their_peaks():
    many = {"bits": np.full(8, 1e12), "ready_s": np.zeros(8), "max_slots": 200}
    gain = [_run(np.full((8, 1), 10.0), scheduler=name, **many) for name in ("pf", "round_robin")]
    pf, rr = (out.delivered_bits.sum(axis=1).mean() for out in gain)
    assert 1.2 < pf / rr < 2.0
    # Alone there is nobody to choose among.
    alone = {"bits": [1e12], "ready_s": [0.0], "max_slots": 100}
    one = [_run(np.full((1, 1), 10.0), scheduler=name, **alone).block_slots for name in ("pf", "round_robin")]
    np.testing.assert_array_equal(*one)


def test_a_newcomer_does_not_have_the_cell_to_itself():
    # Sionna's average starts at 1 bit per slot; here at an equal share, so that user 1 gets about half from the start.
    out = _run(np.full((2, 1), 15.0), [1e12, 1e12], [0.0, 0.1], scheduler="pf", max_slots=60)  # slots of 2.5 ms
    both = out.slot_users == 2
    share = out.block_slots[:, 1].mean() / (both.sum() * CARRIER.prbs)
    assert both.sum() == 20 and 0.3 < share < 0.7


def test_agreement_counts_from_when_a_transfer_is_ready():
    got = agreement(np.array([[3.0, 4.0]]), np.array([[2.0, 5.0]]), np.array([[0.0, 3.0]]))
    # Errors: (3 - 2) / 2 = 0.5 and (4 - 5) / (5 - 3) = -0.5.
    assert (got.bias, got.mean_abs, got.worst, got.within_10) == (0.0, 0.5, 0.5, 0.0)


@pytest.mark.parametrize("users", USERS)
def test_fluid_round_robin_is_the_slot_loop_of_an_uplink(users):
    # Per user over five seeds; single transfers of a second vary with their fading (8 % at the 90th percentile).
    transfers, each = compare("round_robin", "up", users, seconds=1.5, spread_s=0.4)
    assert abs(transfers.bias) <= 0.03 and each.worst <= 0.1
    assert transfers.mean_abs <= 0.04 and transfers.within_10 >= 0.9


@pytest.mark.parametrize(
    ("scheduler", "seconds", "spread_s"), [("round_robin", 1.2, 0.4), ("proportional_fair", 2.0, 0.0)]
)
def test_fluid_schedulers_are_the_slot_loop_of_a_downlink(scheduler, seconds, spread_s):
    # Proportional fair takes some hundred slots to settle, so transfers are longer and all start together. Below 10 dB
    # single blocks fade to where Sionna has no curves.
    transfers, each = compare(scheduler, "down", 10, seconds=seconds, spread_s=spread_s, full_db=(10.0, 25.0))
    assert abs(transfers.bias) <= 0.03 and each.worst <= 0.1


def _owners(granted):
    """User of each block of the only replication."""
    return [int(row.nonzero()) if row.any() else None for row in granted[0]]


def _run(sinr_db, bits, ready_s, *, carrier=CARRIER, fading=None, keys=KEYS, **options):
    return run_slots(sinr_db, bits, ready_s, carrier=carrier, fading=fading or Fading(), keys=keys, **options)
