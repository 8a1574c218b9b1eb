"""Run logs with a radio, made by hand: rows of clients, lines of rounds, a whole deployment."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from fedwave.results.client_log import CLIENT, LOG_STATUSES, ClientTable
from fedwave.results.report.runs import BASE_FIELDS, RunLog
from fedwave.wireless.geometry.topology import Layout

DEVICES = ("phone", "laptop")


def rows(*entries, **columns):
    """Client rows from ``(round, id, status)``, device = id mod 2; ``columns`` fill fields, the rest is not known."""
    table = np.zeros(len(entries), dtype=CLIENT)
    for name in CLIENT.names:
        if CLIENT[name].kind == "f":
            table[name] = np.nan
    table["x_m"], table["y_m"], table["cell"] = 1.0, 1.0, -1
    for row, (number, client, status) in zip(table, entries, strict=True):
        row["round"], row["id"], row["device"] = number, client, client % 2
        row["status"] = LOG_STATUSES.index(status)
    for name, values in columns.items():
        table[name] = values
    return table


def line(number, **fields):
    return {
        "round": number, "sim_time_s": 10.0 * (number + 1), "round_s": 10.0,
        "downlink_s": 1.0, "compute_s": 4.0, "uplink_s": 5.0, "server_s": 0.0,
        "uplink_bits": 80.0, "downlink_bits": 160.0,
        "energy_j": 3.0, "energy_compute_j": 1.0, "energy_radio_j": 2.0, "energy_server_j": 0.0,
        "clients": 3, "delivered": 3, "status": {"delivered": 3}, "lost": {},
        "train_loss": 1.0, "wall_s": 0.1, **fields,
    }  # fmt: skip


def log(records=(), table=None, network=None, **fields):
    clients = ClientTable(rows() if table is None else table, DEVICES, LOG_STATUSES)
    job = {"seed": 0, "rounds": len(records)} | ({"network": network} if network else {})
    return RunLog(Path("run"), job, "seed = 0\n", {}, list(records), clients, {}, **fields)


def network(sites, sectors=3, step_m=600.0):
    """A job's table with sites ``step_m`` apart: the middle one, then those around it."""
    return {"name": "cell", "sites": sites, "sectors": sectors, "inter_site_distance_m": step_m}


def flow(**fields):
    return {
        "direction": "up", "five_qi": 9, "load": 0.2, "carried": 0.2, "delay_alone_s": 0.01, "delay_s": 0.03,
        "late_alone": 0.0, "late": 0.01, "late_target": 0.02, "ok_alone": True, "ok": True,
        "throughput_alone_bps": 4e6, "throughput_bps": 2e6, **fields,
    }  # fmt: skip


BASE = dict(zip(BASE_FIELDS, (8e9, 312.0, 9.6e10, 21.0, 0.031, 41.5), strict=True))


def deployment(rounds=40, cohort=30, population=240, seed=0):
    """A run of a cluster of seven sites as a network might have it: numbers of a plausible size, no physics."""
    draw = np.random.default_rng(seed)
    place = Layout(7, 3, 600.0).site_m[draw.integers(0, 7, population)] + draw.uniform(-280, 280, (population, 2))
    mean_db = draw.normal(8.0, 7.0, population)
    ids = np.concatenate([draw.choice(population, cohort, replace=False) for _ in range(rounds)])
    count, number = rounds * cohort, np.repeat(np.arange(rounds), cohort)
    sinr = mean_db[ids] + draw.normal(0.0, 2.0, count)
    rate = np.where(sinr > -6.0, 4e7 * np.log2(1.0 + 10.0 ** (sinr / 10.0)) / 8.0, 0.0)
    access, compute = draw.gamma(2.0, 0.05, count), draw.gamma(4.0, 1.0, count) * (1.0 + ids % 2)
    upload = np.minimum(3e7 / np.maximum(rate, 1e3), 60.0) + access
    status = np.where(rate == 0.0, "outage", np.where(compute + upload > 12.0, "deadline", "delivered"))
    status = np.where(draw.random(count) < 0.02, "access", status)
    status = np.where(draw.random(count) < 0.02, "radio_link_failure", status)
    table = rows(
        *zip(number, ids, status, strict=True), sinr_db=sinr, up_bps=rate, access_s=access, compute_s=compute,
        downlink_s=0.3, uplink_s=np.where(rate > 0.0, upload, np.nan), block_s=draw.gamma(2.0, 4.0, count),
        x_m=place[ids, 0], y_m=place[ids, 1], cell=(ids * 7) % 21, radio_j=1.0, compute_j=2.0,
    )  # fmt: skip
    records = []
    for index in range(rounds):
        own = table[table["round"] == index]
        names = np.array(LOG_STATUSES)[own["status"]]
        lost = {str(s): own["id"][names == s].tolist() for s in np.unique(names) if s != "delivered"}
        fields = {
            "prb_use": 0.3 + 0.2 * np.sin(index / 6),
            "energy_gnb_j": 900.0,
            "handovers": index % 3,
            "uplink_symbols": 1e6,
        }
        qos = [flow(), flow(direction="down", five_qi=1, delay_s=None if index % 4 == 0 else 0.02)]
        heard = int(np.sum(names == "delivered"))
        records.append(line(index, clients=cohort, delivered=heard, lost=lost, qos=qos, **fields))
    return records, table
