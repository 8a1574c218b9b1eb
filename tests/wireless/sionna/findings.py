"""What the comparisons with Sionna find, as rows of a table: the source of ``docs/fidelity.md``."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass

import numpy as np

from . import compare_geometry, compare_slot_loop, compare_tables

SCENARIOS = ("UMa", "UMi", "RMa", "InH")


@dataclass(frozen=True)
class Finding:
    """``what`` was compared on which ``sample``: the difference ``found``, the one ``accepted`` ("": any); ``met``?"""

    what: str
    sample: str
    found: str
    accepted: str = ""
    met: bool = True


def geometry() -> Iterator[Finding]:
    """Path loss, line of sight, coupling loss, SINR and shadow fading against Sionna's TR 38.901."""
    for name in SCENARIOS:
        loss = max(compare_geometry.path_loss_difference_db(name, los) for los in (True, False))
        yield Finding(
            f"{name}: path loss, LoS and NLoS", "20,000 users each", f"at most {loss:.4f} dB", "0.01 dB", loss <= 0.01
        )
    for name in SCENARIOS:
        probability = compare_geometry.los_probability_difference(name)
        found = f"at most {probability:.1e}"
        yield Finding(f"{name}: probability of line of sight", "20,000 users", found, "1e-9", probability <= 1e-9)
    for name in SCENARIOS[:3]:
        coupling = compare_geometry.same_state(name)
        yield Finding(
            f"{name}: coupling loss with the sector's element, no shadow fading, same line of sight",
            "4,000 users x 57 cells, wrapped around",
            f"at most {coupling.difference_db():.3f} dB",
            "0.05 dB",
            coupling.difference_db() <= 0.05,
        )
    for name in SCENARIOS[:3]:
        shift = compare_geometry.own_draws(name, batch=60).sinr_difference_db()
        percentiles = ", ".join(f"p{q} {value:+.2f}" for q, value in shift.items())
        yield Finding(
            f"{name}: SINR at full load, either side with its own line of sight and shadow fading, 6.5 GHz",
            "9,000 users at the same places, walls and depths",
            f"{percentiles} dB",
            "0.5 dB",
            max(map(abs, shift.values())) <= 0.5,
        )
    pairs = compare_geometry.shadow_autocorrelation()
    worst = max(abs(ours - np.exp(-multiple)) for multiple, (ours, _) in pairs.items())
    theirs = max(abs(sionna - np.exp(-multiple)) for multiple, (_, sionna) in pairs.items())
    yield Finding(
        "UMa NLoS: autocorrelation of shadow fading against exp(-d / d_cor), 0 to 3 d_cor",
        "12 maps x 50,000 pairs; Sionna 4,000",
        f"at most {worst:.3f} (Sionna's own draws {theirs:.3f})",
        "0.03",
        worst <= 0.03,
    )


def slot_loop() -> Iterator[Finding]:
    """Finish times of finite, unequal payloads: fluid schedulers on the tables against the slot loop."""
    down = {"full_db": (10.0, 25.0)}
    arms = [
        ("round_robin", "up", {}, True),
        ("round_robin", "down", down, True),
        ("round_robin", "down", {"full_db": (3.0, 25.0)}, False),
        ("proportional_fair", "down", down | {"spread_s": 0.0, "beta": 0.995}, False),
        ("proportional_fair", "down", down | {"beta": 0.98}, False),
        ("proportional_fair", "up", {"beta": 0.98}, False),
    ]
    for scheduler, direction, options, tested in arms:
        options = {"seconds": 3.0, "spread_s": 0.75} | options
        low, high = options.get("full_db", (3.0, 25.0))
        begin = "ready at random" if options["spread_s"] else "all ready at once"
        memory = f", memory of {1.0 / (1.0 - options['beta']):.0f} slots" if "beta" in options else ""
        for users in compare_slot_loop.USERS:
            each, user = compare_slot_loop.compare(scheduler, direction, users, **options)
            yield Finding(
                f"{scheduler}, {direction}link, {users} users, {low:.0f} to {high:.0f} dB, {begin}{memory}",
                f"{each.transfers} transfers, 5 seeds",
                f"bias {each.bias:+.1%}; a user's mean {user.mean_abs:.1%}, at most {user.worst:.1%}; "
                f"a transfer {each.mean_abs:.1%}, {each.within_10:.0%} within 10 %",
                "bias 3 %, a user 10 %" if tested else "",
                not tested or (abs(each.bias) <= 0.03 and user.worst <= 0.1),
            )
    cost = compare_slot_loop.cost_ratio()
    yield Finding(
        "processor time of the same job, round robin, 10 users",
        f"{cost['simulated_s']:.1f} s of an uplink, {cost['slots']} slots",
        f"slot loop {cost['slot_loop_s']:.2f} s, fluid {1e3 * cost['fluid_s']:.1f} ms: {cost['ratio']:,.0f} times",
    )


def tables() -> Iterator[Finding]:
    """Transport block sizes, and goodput tables against Sionna's link adaptation between their points."""
    different, total = compare_tables.transport_block_differences()
    yield Finding("transport block sizes", f"{total:,} of them", f"{different} differ", "0", different == 0)
    found = [row for case in compare_tables.cases(32) for row in compare_tables.rows(case)]
    fresh = [row for row in found if row["case"].speed_kmh == 0.0]
    old = [row for row in found if row["case"].speed_kmh > 0.0]
    for name, rows in (
        ("all", found),
        ("the channel of the slot known", fresh),
        ("a report 5 ms old, to 60 km/h", old),
    ):
        some, total = compare_tables.summary(rows), name == "all"
        yield Finding(
            f"goodput between the tables' points, {name}",
            f"{some['points']} points",
            f"mean {some['mean']:.2%}, p99 {some['p99']:.2%}, bias {some['bias']:+.2%} "
            f"(standard error of the reference {some['error_bar']:.2%})",
            "mean 1 %, p99 5 %" if total else "",
            not total or (some["mean"] <= 0.01 and some["p99"] <= 0.05),
        )
        yield Finding(
            f"the same where most bits rest on our extension below Sionna's lowest MCS, {name}",
            f"{some['extension_points']} points",
            f"mean {some['extension_mean']:.4f}, at most {some['extension_largest']:.4f} bit per resource element",
            "mean 0.01, at most 0.03" if total else "",
            not total or (some["extension_mean"] <= 0.01 and some["extension_largest"] <= 0.03),
        )


FINDINGS: dict[str, Callable[[], Iterator[Finding]]] = {
    "compare_geometry": geometry,
    "compare_tables": tables,
    "compare_slot_loop": slot_loop,
}
