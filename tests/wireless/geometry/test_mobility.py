"""Positions as functions of key, id and time."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from fedwave.core import config, registry
from fedwave.core.errors import BadInput
from fedwave.core.keys import Key
from fedwave.wireless.geometry.mobility import Area, Mobility, Static, StraightLine, disc
from fedwave.wireless.geometry.waypoints import RandomWaypoint

KEY = Key(5).fold("static")
RADIUS = 300.0
DISC = disc(RADIUS, min_distance_m=35.0)
MODELS = [Static(), StraightLine(), RandomWaypoint(1.0, 60.0, pause_s=20.0)]


def placed(ids, area=DISC):
    return area.draw(np.asarray(ids), KEY.fold("placement"))


def begun(model, ids, area=DISC):
    return model.start(np.asarray(ids), placed(ids, area), KEY)


def path_of(model, ids, clock_s=0.0, area=DISC):
    return model.advance(begun(model, ids, area), np.asarray(ids), KEY, clock_s, area)[1]


def test_jobs_name_the_models():
    assert registry.names("mobility") == ["random_waypoint", "static", "straight_line"]
    model = config.build("mobility", {"name": "random_waypoint", "max_speed_kmh": 10.0})
    assert isinstance(model, Mobility) and model == RandomWaypoint(3.0, 10.0, 0.0)
    assert [row[0] for row in model.rows()] == ["min_speed_kmh", "max_speed_kmh", "pause_s"]
    assert not Static().moves and StraightLine().moves


def test_static_clients_stay():
    ids = np.arange(20)
    path = path_of(Static(), ids, 1e6)
    np.testing.assert_array_equal(path.at(5e4), placed(ids))
    np.testing.assert_array_equal(path.speed_m_s, 0.0)


@pytest.mark.parametrize("model", MODELS)
@settings(max_examples=25, deadline=None)
@given(st.lists(st.floats(0.0, 2_000.0), min_size=1, max_size=6), st.floats(0.0, 3_000.0))
def test_one_step_or_many_come_to_the_same_bits(model, waits, ahead):
    ids = np.array([3, 8, 1_000_000])
    state, clock = begun(model, ids), 0.0
    for wait in waits:
        clock += wait
        state, path = model.advance(state, ids, KEY, clock, DISC)
        path.at(ahead / 2)  # looking ahead changes nothing
    at_once, direct = model.advance(begun(model, ids), ids, KEY, clock, DISC)
    np.testing.assert_array_equal(path.at(ahead), direct.at(ahead))
    np.testing.assert_array_equal(path.speed_m_s, direct.speed_m_s)
    for name in model.memory:
        np.testing.assert_array_equal(state[name], at_once[name])


@pytest.mark.parametrize("model", MODELS)
@settings(max_examples=20, deadline=None)
@given(st.floats(0.0, 5_000.0), st.floats(0.0, 5_000.0))
def test_a_path_ahead_is_the_path_of_later(model, clock, ahead):
    ids = np.arange(6)
    later = path_of(model, ids, clock + ahead)
    np.testing.assert_allclose(path_of(model, ids, clock).at(ahead), later.at(0.0), atol=1e-6)


@pytest.mark.parametrize("model", MODELS)
def test_the_rest_of_the_cohort_does_not_matter(model):
    everybody, some = np.arange(50), np.array([41, 7, 19])
    np.testing.assert_array_equal(path_of(model, everybody, 700.0).at(99.0)[some], path_of(model, some, 700.0).at(99.0))


@pytest.mark.parametrize("model", MODELS)
def test_a_path_can_be_asked_in_any_order(model):
    path = path_of(model, np.arange(9), 50.0)
    near, far = path.at(10.0), path.at(5_000.0)
    np.testing.assert_array_equal(path.at(10.0), near)
    np.testing.assert_array_equal(path.at(np.linspace(10.0, 5_000.0, 9))[[0, 8]], [near[0], far[8]])


@pytest.mark.parametrize("model", MODELS)
@settings(max_examples=25, deadline=None)
@given(st.floats(0.0, 1e5), st.floats(1e-3, 60.0))
def test_nobody_leaves_the_disc_or_goes_too_fast(model, clock, step):
    path = path_of(model, np.arange(40), clock)
    before, after = path.at(0.0), path.at(step)
    fastest = max(getattr(model, "max_speed_kmh", getattr(model, "speed_kmh", 0.0)) / 3.6, 0.0)
    assert np.isfinite(after).all()
    assert (np.hypot(*after.T) <= RADIUS * (1 + 1e-9)).all()
    assert (np.hypot(*(after - before).T) <= fastest * step + 1e-6).all()
    assert (path.speed_m_s <= fastest + 1e-12).all()


def test_straight_line_by_hand():
    # 30 km/h for 563 s are 4,691.7 m, in one direction where there is no edge
    ids, area = np.arange(100), Area(DISC.draw)
    path = path_of(StraightLine(30.0), ids, 100.0, area)
    way = path.at(563.0) - path.at(0.0)
    np.testing.assert_allclose(np.hypot(*way.T), 30 / 3.6 * 563, rtol=1e-12)
    np.testing.assert_allclose(path.at(1126.0) - path.at(563.0), way)
    np.testing.assert_allclose(path.speed_m_s, 30 / 3.6)
    assert abs(way.mean(axis=0)).max() < 3 * 4691.7 / np.sqrt(2 * 100)  # directions do not agree: 3 standard errors


def test_wrap_around_folds_positions():
    area = Area(DISC.draw, fold=lambda position: np.mod(position, 500.0))
    ids = np.arange(10)
    straight = path_of(StraightLine(), ids, 0.0, Area(DISC.draw)).at(900.0)
    np.testing.assert_array_equal(path_of(StraightLine(), ids, 0.0, area).at(900.0), np.mod(straight, 500.0))


def test_through_the_middle_and_back():
    # from the centre every edge is met at a right angle: the distance is a triangular wave of the way
    ids, model = np.arange(5), StraightLine(36.0)  # 10 m/s
    path = model.advance(model.start(ids, np.zeros((5, 2)), KEY), ids, KEY, 0.0, DISC)[1]
    for time, distance, side in [(20, 200, 1), (30, 300, 1), (45, 150, 1), (60, 0, 1), (80, 200, -1), (1305, 150, -1)]:
        position = path.at(float(time))
        np.testing.assert_allclose(np.hypot(*position.T), distance, atol=1e-6)
        np.testing.assert_allclose(position, side * distance / 10.0 * path.at(1.0), atol=1e-6)


@settings(max_examples=50, deadline=None)
@given(st.integers(0, 2**31), st.floats(0.0, 200.0))
def test_reflections_equal_a_loop_of_mirrors(client, time):
    ids, model = np.array([client]), StraightLine(120.0)
    position = placed(ids)[0]
    free = path_of(model, ids, 0.0, Area(DISC.draw))
    direction = (free.at(1.0) - free.at(0.0))[0] * 3.6 / 120.0
    left = 120.0 / 3.6 * time
    while True:
        along = position @ direction
        to_edge = -along + np.sqrt(along**2 + RADIUS**2 - position @ position)
        if left <= to_edge:
            break
        position, left = position + to_edge * direction, left - to_edge
        normal = position / np.hypot(*position)
        direction = direction - 2 * (direction @ normal) * normal
        position, direction = RADIUS * normal, direction / np.hypot(*direction)  # or rounding errors would grow
    np.testing.assert_allclose(path_of(model, ids).at(time)[0], position + left * direction, atol=1e-6)


def test_a_path_along_the_edge_stays_there():
    ids = np.arange(200)
    angle = 2 * np.pi * KEY.fold("mobility", "heading").uniform(ids)[:, 0] - np.pi / 2  # headings are tangents
    model, edge = StraightLine(36.0), RADIUS * np.stack([np.cos(angle), np.sin(angle)], axis=1)
    position = model.advance(model.start(ids, edge, KEY), ids, KEY, 0.0, DISC)[1].at(100.0)
    np.testing.assert_allclose(np.hypot(*position.T), RADIUS, rtol=1e-6)
    turned = np.arctan2(position[:, 1], position[:, 0]) - angle  # 1,000 m along a circle of 300 m
    np.testing.assert_allclose(np.exp(1j * turned), np.exp(1j * 1000 / 300), atol=1e-3)


def test_reflected_clients_stay_uniform_and_waypoints_gather_in_the_middle():
    ids, area = np.arange(4_000), disc(RADIUS)

    def mean_square(model):  # of the distance over the radius: 1/2 where uniform, standard error 0.005
        return np.mean((np.hypot(*path_of(model, ids, 20_000.0, area).at(0.0).T) / RADIUS) ** 2)

    assert mean_square(StraightLine(30.0)) == pytest.approx(0.5, abs=0.02)
    # On a leg from A to B, u uniform: E|A + u (B - A)|^2 = (|A|^2 + |B|^2 + A.B) / 3, legs weighted by their length
    a, b = (area.draw(ids, KEY.fold(name)) / RADIUS for name in "ab")
    length = np.hypot(*(a - b).T)
    expected = np.average(((a**2).sum(1) + (b**2).sum(1) + (a * b).sum(1)) / 3, weights=length)
    assert mean_square(RandomWaypoint(30.0, 30.0)) == pytest.approx(expected, abs=0.03)
    assert expected < 0.4


def test_legs_by_hand():
    corners = np.array([[100.0, 0.0], [100.0, 50.0], [0.0, 0.0]])

    def draw(numbers, key):
        return corners[((numbers >> 32) - 1) % 3]

    area, model, ids = Area(draw), RandomWaypoint(3.6, 3.6, pause_s=10.0), np.array([4])  # 1 m/s
    path = model.advance(model.start(ids, np.zeros((1, 2)), KEY), ids, KEY, 0.0, area)[1]
    last = np.hypot(100.0, 50.0)
    for time, position, speed in [
        (0, (0, 0), 1), (50, (50, 0), 1), (105, (100, 0), 0),  # leg 0 takes 100 s and a pause of 10 s
        (130, (100, 20), 1), (165, (100, 50), 0),  # leg 1 from 110 s to 160 s, pause to 170 s
        (170 + last / 2, (50, 25), 1), (170 + last + 10 + 50, (50, 0), 1),  # leg 2, then the first corner again
    ]:  # fmt: skip
        np.testing.assert_allclose(path.at(time), [position], atol=1e-9)
        np.testing.assert_allclose(path.speed_at(time), [speed])


def test_speeds_are_uniform_between_the_limits():
    speed = path_of(RandomWaypoint(10.0, 20.0), np.arange(5_000)).speed_m_s * 3.6
    assert speed.min() >= 10.0 and speed.max() <= 20.0
    assert speed.mean() == pytest.approx(15.0, abs=4 * 10 / np.sqrt(12 * 5_000))


def test_legs_without_length_come_to_an_end():
    nowhere = Area(lambda numbers, key: np.zeros((len(numbers), 2)))
    model, ids = RandomWaypoint(), np.arange(3)
    state, path = model.advance(model.start(ids, np.zeros((3, 2)), KEY), ids, KEY, 100.0, nowhere)
    np.testing.assert_array_equal(path.at(7.0), 0.0)
    np.testing.assert_array_equal(state["leg"], 100.0)


@pytest.mark.parametrize("model", MODELS)
def test_those_never_met_begin_at_their_placement(model):
    ids = np.arange(4)
    kept = model.advance(begun(model, ids), ids, KEY, 800.0, DISC)[0]
    partly = {name: np.where(ids < 2, values, np.nan) for name, values in kept.items()}
    for memory in (partly, {}):
        state = model.resume(memory, ids, placed(ids), KEY)
        path = model.advance(state, ids, KEY, 900.0, DISC)[1]
        np.testing.assert_array_equal(path.at(1.0), path_of(model, ids, 900.0).at(1.0))


@pytest.mark.parametrize("model", MODELS)
def test_nobody_is_a_cohort_too(model):
    assert path_of(model, np.zeros(0, dtype=np.int64), 10.0).at(5.0).shape == (0, 2)


@pytest.mark.parametrize(
    ("wrong", "key"),
    [
        (lambda: StraightLine(0.0), "speed_kmh"),
        (lambda: StraightLine(np.inf), "speed_kmh"),
        (lambda: RandomWaypoint(0.0, 3.0), "min_speed_kmh"),
        (lambda: RandomWaypoint(5.0, 3.0), "min_speed_kmh"),
        (lambda: RandomWaypoint(3.0, np.nan), "max_speed_kmh"),
        (lambda: RandomWaypoint(pause_s=-1.0), "pause_s"),
        (lambda: disc(0.0), "radius_m"),
        (lambda: disc(10.0, min_distance_m=10.0), "min_distance_m"),
        (lambda: Area(DISC.draw, -1.0), "radius_m"),
        (lambda: Static().start(np.arange(2), np.full((2, 2), np.nan), KEY), "position_m"),
        (lambda: Static().start(np.arange(2), np.zeros((3, 2)), KEY), "position_m"),
        (lambda: path_of(StraightLine(), [1], np.nan), "clock_s"),
        (lambda: path_of(RandomWaypoint(), [1], -1.0), "clock_s"),
        (lambda: path_of(StraightLine(), [1]).at(-1.0), "t_s"),
        (lambda: path_of(StraightLine(), [1]).at(np.inf), "t_s"),
        (lambda: path_of(StraightLine(), [1, 2]).at(np.zeros(3)), "t_s"),
        (lambda: RandomWaypoint().advance({}, np.arange(1), KEY, 0.0, DISC), "x_m"),
    ],
)
def test_bad_input_names_the_key(wrong, key):
    with pytest.raises(BadInput, match=key):
        wrong()


def test_time_does_not_go_back_and_lines_start_inside():
    model, ids = RandomWaypoint(60.0, 60.0), np.arange(2)
    state = model.advance(begun(model, ids), ids, KEY, 500.0, DISC)[0]
    with pytest.raises(BadInput, match="before the state's own time"):
        model.advance(state, ids, KEY, 1.0, DISC)
    line = StraightLine()
    outside = line.start(ids, np.array([[0.0, 0.0], [0.0, 301.0]]), KEY)
    with pytest.raises(BadInput, match="within 300 m"):
        line.advance(outside, ids, KEY, 0.0, DISC)[1].at(0.0)
