"""The report's numbers, checked by hand; and the page itself, drawn in a headless browser that may ask for nothing."""

import json
import re
import shutil
import warnings
from pathlib import Path

import numpy as np
import pytest
from typer.testing import CliRunner

from fedwave import cli, simulation
from fedwave.core.errors import BadInput
from fedwave.experiment import Experiment
from fedwave.results.client_log import CLIENT, LOG_STATUSES, ClientTable
from fedwave.results.report import detail, load, parts, radio, totals, write_report
from fedwave.results.report.compare import TRAIN_LOSS, curves, evenly, flat, group
from fedwave.results.report.page import embedded, render
from fedwave.results.report.runs import RunLog, losses

pytestmark = pytest.mark.xdist_group("report")  # one worker: the runs and the browser are made once

JOB = {
    "seed": 5, "rounds": 8, "eval_every": 2,
    "task": {"name": "toy", "clients": 12, "ragged": True, "dimension": 500},
    "method": {"name": "fedavg", "local_optimizer": {"name": "sgd", "lr": 0.02}},
    "transform": [{"name": "quantize", "bits": 8}],
    "sampler": {"name": "uniform", "cohort": 6},
    "network": {"name": "cell", "scheduler": "round_robin"},
    "federation": {"name": "sync", "deadline_s": 0.16},
    "fleet": {"mix": {"phone": 0.7, "raspberry-pi-5": 0.3}, "availability": 0.9},
}  # fmt: skip


def rows(*entries):
    """Client rows from ``(round, id, status, seconds down, compute, up)``; device = id mod 2, SINR = id."""
    table = np.zeros(len(entries), dtype=CLIENT)
    for row, (number, client, status, down, compute, up) in zip(table, entries, strict=True):
        row["round"], row["id"], row["status"], row["device"] = number, client, LOG_STATUSES.index(status), client % 2
        row["downlink_s"], row["compute_s"], row["uplink_s"] = down, compute, up
        row["sinr_db"], row["x_m"], row["y_m"] = client, 10 * client, number + 1
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


def log(records, clients=(), *, job=None, initial=None, folder="run"):
    table = ClientTable(rows(*clients), ("phone", "laptop"), LOG_STATUSES)
    job = job or {"seed": 0, "rounds": len(records)}
    return RunLog(Path(folder), job, "seed = 0\n", {}, records, table, initial or {})


# ---- numbers -------------------------------------------------------------------------------------------------------


def test_seeds_become_median_and_band():
    """Three seeds end at 1, 5 and 3 after 10, 20 and 60 s: the median is 3 at 20 s, the band 1 to 5."""
    runs = [
        log(
            [line(0, eval={"loss": 9.0}), line(1, sim_time_s=seconds, eval={"loss": value})],
            job={"seed": seed, "method": {"name": "fedavg"}}, initial={"loss": 10.0},
        )
        for seed, (seconds, value) in enumerate([(10.0, 1.0), (20.0, 5.0), (60.0, 3.0)])
    ]  # fmt: skip
    (one,) = group(runs)
    curve = curves(one)["loss"]
    assert one.seeds == (0, 1, 2)
    assert curve["round"] == [0, 1, 2]
    assert curve["y"] == [10.0, 9.0, 3.0]
    assert (curve["low"], curve["high"]) == ([10.0, 9.0, 1.0], [10.0, 9.0, 5.0])
    assert curve["time"] == [0.0, 10.0, 20.0]
    assert curve["bytes"] == [0.0, 10.0, 20.0]  # 80 bits a round
    assert curve["joules"] == [0.0, 3.0, 6.0]


def test_points_that_not_all_seeds_have_are_left_out():
    short = log([line(0, eval={"loss": 2.0})], job={"seed": 1})
    long = log([line(0, eval={"loss": 4.0}), line(1, eval={"loss": 1.0})], job={"seed": 2})
    (one,) = group([short, long])
    assert curves(one)["loss"]["y"] == [3.0]
    assert curves(one)[TRAIN_LOSS]["round"] == [1]


def test_labels_say_what_differs():
    def job(name, **more):
        return log([line(0)], job={"seed": 1, "method": {"name": name, **more}, "transform": [{"bits": 8}]})

    assert [g.label for g in group([job("fedavg"), job("fedprox", mu=0.1)])] == ["fedavg", "fedprox"]
    mixed = [job("fedprox", mu=0.1), job("fedprox", mu=0.5), job("fedavg")]
    assert [g.label for g in group(mixed)] == ["fedprox, method.mu = 0.1", "fedprox, method.mu = 0.5", "fedavg"]
    assert len(group([job("fedavg"), job("fedavg")])) == 1


def test_flat_names_nested_keys():
    assert flat({"a": {"b": 1}, "t": [{"n": "x"}, {"n": "y"}], "l": [1, 2]}) == {
        "a.b": 1, "t.0.n": "x", "t.1.n": "y", "l": [1, 2],
    }  # fmt: skip


def test_evenly_keeps_the_ends():
    assert evenly(3, 10) == [0, 1, 2]
    assert evenly(101, 3) == [0, 50, 100]


def test_rounds_are_binned_without_losing_a_joule():
    """450 rounds make bins of 3; energy and bytes are running sums, so their ends are the totals."""
    run = log([line(n, lost={"deadline": [1, 2]}) for n in range(450)])
    table = detail.by_round(run)
    assert (table["width"], len(table["round"])) == (3, 150)
    assert (table["round"][-1], table["last"][-1]) == (447, 449)
    assert table["path"]["uplink"] == [5.0] * 150
    assert table["energy"]["radio"][-1] == 900.0
    assert table["up"][-1] == 450 * 10.0
    assert table["lost"] == {"deadline": [6.0] * 150}


def test_the_client_that_bound_the_round_is_found():
    """Round 0: client 7 ends at 10 s, as the round does. Round 1: somebody was late, so the deadline bound it."""
    clients = [
        (0, 4, "delivered", 1, 2, 3), (0, 7, "delivered", 1, 4, 5), (0, 9, "missed_broadcast", np.nan, np.nan, np.nan),
        (1, 4, "deadline", 1, 4, 5), (1, 7, "delivered", 1, 1, 1),
    ]  # fmt: skip
    run = log([line(0), line(1, lost={"deadline": [4]})], clients)
    table = detail.timelines(run)
    assert table["starts"] == [0, 3, 5]
    assert table["id"] == [7, 4, 9, 7, 4]  # the slowest heard client first, the lost ones last
    assert table["bound"] == [0, -1]
    assert table["rounds_left_out"] == 0


def test_large_rounds_are_sampled_with_the_slowest():
    """400 rounds of 300 clients: at most 100 a round, then 300 of the rounds, so 30,000 rows."""
    count, size = 400, 300
    clients = np.zeros(count * size, dtype=CLIENT)
    clients["round"] = np.repeat(np.arange(count), size)
    clients["id"] = np.tile(np.arange(size), count)
    clients["uplink_s"] = np.tile(np.linspace(0.1, 10.0, size), count)
    run = log([line(n) for n in range(count)])
    run = RunLog(**{**vars(run), "clients": ClientTable(clients, ("phone",), LOG_STATUSES)})
    table = detail.timelines(run)
    assert (len(table["round"]), len(table["id"]), table["rounds_left_out"]) == (300, 30_000, 100)
    assert table["round"][0] == 0
    assert table["round"][-1] == 399
    first = table["id"][:100]
    assert first[:50] == list(range(299, 249, -1))  # the slowest half of the allowance
    assert first[-1] == 0  # the fastest closes the even sample
    assert table["bound"][0] == 0
    assert len(detail.timelines(run, share=0.5)["id"]) == 15_000


def test_cell_takes_means_per_client():
    clients = [(0, 1, "delivered", 1, 1, 1), (1, 1, "outage", 1, 1, np.nan), (1, 3, "delivered", 1, 1, 1)]
    run = log([line(0), line(1)], clients)
    table = radio.cell(run)
    assert table["id"] == [1, 3]
    assert table["called"] == [2, 1]
    assert table["lost"] == [1, 0]
    assert table["y"] == [2.0, 2.0]  # where it was last
    assert table["sinr"] == [1.0, 3.0]
    assert radio.signal(run) == {"edges": [0.0, 3.0, 6.0], "heard": [1, 1], "lost": [1, 0]}
    assert [row["name"] for row in detail.devices(run)] == ["laptop"]
    assert detail.devices(run)[0]["lost"] == pytest.approx(1 / 3)


def test_old_lines_still_count():
    record = {"round": 0, "sim_time_s": 1.0, "status": {"delivered": 1, "outage": 2}, "uplink_bits": 8.0}
    assert losses(record) == {"outage": 2}
    assert totals(log([record]))["energy_j"] == 0.0
    assert "<h1" in render([log([record])])


def test_embedded_json_cannot_leave_its_element():
    text = embedded({"a": "</script><!--&", "b": float("nan"), "c": [1.23456789, np.float64("inf"), 12345678]})
    assert not set("<>&") & set(text)
    assert json.loads(text) == {"a": "</script><!--&", "b": None, "c": [1.2346, None, 12345678]}


def test_a_hostile_job_is_only_text():
    run = log([line(0, eval={"<b>x": 1.0})], job={"seed": 0, "method": {"name": "<img src=x onerror=alert(1)>"}})
    assert "<img" not in render([run])
    assert "<b>x" not in render([run])


def test_parts_and_papers():
    table = Experiment.parse({**JOB, "method": {"name": "fedprox"}}).to_table()
    table["sampler"] = {"name": "mine.file:Sampler"}
    table["network"]["scheduler"] = {"name": "gone"}
    found = {(part.kind, part.name): part for part in parts.parts(table)}
    assert found["method", "fedprox"].paper.endswith("MLSys 2020")
    assert found["transform", "quantize"].what.startswith("Unbiased stochastic rounding")
    assert found["sampler", "mine.file:Sampler"].what == "a class of the user's own"
    assert found["scheduler", "gone"].what == "not known to this release"
    assert ("optimizer", "sgd") in found


# ---- folders -------------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def runs(tmp_path_factory):
    """A finished run, another seed, another method, one interrupted round without evaluation or client log."""
    base = tmp_path_factory.mktemp("runs")
    wanted = {
        "one": {}, "seed": {"seed": 6}, "prox": {"method": {**JOB["method"], "name": "fedprox", "mu": 0.5}},
    }  # fmt: skip
    for name, changes in wanted.items():
        simulation.run(Experiment.parse({**JOB, **changes}), base / name)
    ideal = Experiment.parse({**JOB, "eval_every": 0, "network": {"name": "ideal"}})
    stream = simulation.Simulation.start(ideal, base / "broken").stream()
    next(stream)
    (base / "broken" / "clients.bin").unlink()
    return base


def test_refusals_are_sentences(tmp_path, runs):
    with pytest.raises(BadInput, match="is not a run folder"):
        write_report([tmp_path], tmp_path / "x.html")
    shutil.copytree(runs / "one", tmp_path / "empty")
    (tmp_path / "empty" / "rounds.jsonl").write_text("")
    with pytest.raises(BadInput, match=r"has no round in its rounds\.jsonl yet"):
        write_report([tmp_path / "empty"], tmp_path / "x.html")
    with pytest.raises(BadInput, match="is a folder"):
        write_report([runs / "one"], tmp_path)
    with pytest.raises(BadInput, match="at least one run folder"):
        write_report([], tmp_path / "x.html")


def test_loaded_run_is_the_ledger(runs):
    run = load(runs / "one")
    assert run.finished
    assert set(run.initial) == {"loss", "distance"}
    assert len(run.clients.rows) == sum(record["clients"] for record in run.records)
    assert totals(run)["lost"] == {
        name: sum(len(record["lost"].get(name, ())) for record in run.records)
        for name in {name for record in run.records for name in record["lost"]}
    }
    assert not load(runs / "broken").finished


def test_command_writes_beside_the_run(runs, tmp_path):
    done = CliRunner().invoke(cli.app, ["report", str(runs / "one"), "--json"])
    assert done.exit_code == 0, done.output
    assert json.loads(done.stdout)["runs"][0]["rounds"] == 8
    page = (runs / "one" / "report.html").read_text()
    assert len(page) < 10e6
    assert not re.search(r'(?:src|href)="(?!#)', page.split("<script")[0])
    arguments = [runs / "one", runs / "seed", "--out", tmp_path / "a.html"]
    both = CliRunner().invoke(cli.app, ["report", *map(str, arguments)])
    assert both.stdout.strip() == str(tmp_path / "a.html")


# ---- the page in a browser -----------------------------------------------------------------------------------------

SCREENS = {"phone": (360, 740), "desktop": (1920, 1080)}
FIGURES = ("time", "bytes", "joules", "path", "timeline", "cell", "signal", "energy", "traffic", "lost")


@pytest.fixture(scope="module")
def browser():
    sync_api = pytest.importorskip("playwright.sync_api", reason="playwright is not installed")
    path = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None)
    if path is None:
        pytest.skip("no chromium is installed")
    with warnings.catch_warnings(), sync_api.sync_playwright() as playwright:
        started = playwright.chromium.launch(executable_path=path, args=["--no-sandbox", "--disable-gpu"])
        yield started
        started.close()


class Opened:
    """A page under watch: what it asked for, what it complained about."""

    def __init__(self, browser, path, size, scheme="light"):
        context = browser.new_context(viewport={"width": size[0], "height": size[1]}, color_scheme=scheme)
        self.page = context.new_page()
        self.asked, self.complaints = [], []
        self.page.on("request", lambda request: self.asked.append(request.url))
        self.page.on("console", lambda message: self.complaints.append(message.text))
        self.page.on("pageerror", lambda error: self.complaints.append(str(error)))
        self.page.goto(path.as_uri())
        self.page.wait_for_selector("html[data-drawn=true]")
        self.path = path

    def check(self):
        assert self.complaints == []
        assert self.asked == [self.path.as_uri()]
        assert self.page.evaluate("document.documentElement.scrollWidth - window.innerWidth") <= 0

    def drawn(self, name):
        """Points, bars or lines in a figure."""
        return self.page.locator(f"#f-{name} :is(.point, .js-line, .js-fill)").count()

    def value(self, script):
        return self.page.evaluate(script)


@pytest.mark.parametrize("screen", SCREENS)
def test_page_draws_and_answers(browser, runs, tmp_path, screen):
    opened = Opened(browser, write_report([runs / "one"], tmp_path / "one.html"), SCREENS[screen])
    page = opened.page
    for name in FIGURES:
        assert opened.drawn(name), f"figure {name} is empty"
        box = page.locator(f"#f-{name} .main-svg").first.bounding_box()
        assert box["width"] > 200
        assert box["height"] > 100
    assert page.locator("#round-name").inner_text() == "0"
    page.locator("#next").click()
    assert page.locator("#round-name").inner_text() == "1"
    page.locator("#slider").fill("6")
    assert page.locator("#round-name").inner_text() == "6"
    assert "The round took" in page.locator("#round-says").inner_text()
    assert opened.drawn("timeline")
    page.locator("#metrics button", has_text="training loss").click()
    assert page.locator("#metrics button[aria-pressed=true]").inner_text() == "training loss"
    page.locator("#colours button", has_text="share lost").click()
    assert opened.drawn("cell")
    if screen == "desktop":  # tools of a figure: none that leaves the page
        page.locator("#f-time").hover()
        tools = page.locator("#f-time .modebar-btn").evaluate_all("all => all.map(one => one.dataset.title)")
        assert tools == ["Download plot", "Zoom", "Pan", "Reset axes"]
    opened.check()


def test_theme_follows_the_system_and_the_button(browser, runs, tmp_path):
    opened = Opened(browser, write_report([runs / "one"], tmp_path / "one.html"), SCREENS["phone"], scheme="dark")
    background = "getComputedStyle(document.body).backgroundColor"
    dark = opened.value(background)
    opened.page.locator("#theme").click()
    assert opened.value("document.documentElement.dataset.theme") == "light"
    assert opened.value(background) != dark
    opened.page.locator("#theme").click()
    assert opened.value(background) == dark
    opened.page.emulate_media(color_scheme="light")
    opened.page.wait_for_selector("html[data-theme=light]")
    assert opened.drawn("time")
    opened.check()


def test_several_runs_are_overlaid(browser, runs, tmp_path):
    """Two seeds of one job are a band and a line, the other job a line: three traces in each learning figure."""
    page_path = write_report([runs / "one", runs / "seed", runs / "prox", runs / "broken"], tmp_path / "all.html")
    opened = Opened(browser, page_path, SCREENS["desktop"])
    page = opened.page
    names = page.locator("#groups li").all_inner_texts()
    assert len(names) == 3
    assert opened.value("document.getElementById('f-time').data.length") == 3
    assert page.locator("#run option").count() == 4
    page.locator("#run").select_option("2")
    assert page.locator("[data-run='2'] h2").first.is_visible()
    assert opened.drawn("timeline")
    page.locator("#run").select_option("3")  # no client log, one round
    assert not page.locator("#timeline").is_visible()
    assert not page.locator("#cell").is_visible()
    assert page.get_by_text("kept no client log").last.is_visible()
    assert page.get_by_text("1 of 8 rounds are in the log").is_visible()
    opened.check()


def test_one_round_without_evaluation(browser, runs, tmp_path):
    opened = Opened(browser, write_report([runs / "broken"], tmp_path / "broken.html"), SCREENS["phone"])
    assert opened.drawn("path")
    assert opened.drawn("time")  # the training loss
    opened.check()
