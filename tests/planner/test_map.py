"""The suitability map: what its axes and recipes take, and that its cells are those of single plans."""

import csv
import json
import re
import shutil
import sys
import warnings

import numpy as np
import pytest

from fedwave import cli
from fedwave.core.errors import BadInput
from fedwave.experiment import Experiment
from fedwave.planner import plan
from fedwave.planner.map import Jobs, axes_of, recipes_of, suitability, write
from fedwave.planner.map.grid import ROUNDS
from fedwave.planner.map.links import Links, cohorts, links, sizes_bits
from fedwave.planner.map.page import render

JOB = {
    "rounds": 50,
    "task": {"name": "causal-lm", "model": "pythia-14m", "data": "chatterbot", "dtype": "bfloat16", "batch_size": 4,
             "adapter": {"name": "lora", "rank": 8}, "partition": {"name": "iid", "clients": 40}, "max_tokens": 128},
    "method": {"name": "fedavg", "local_steps": 4, "local_optimizer": "adamw"},
    "sampler": {"name": "uniform", "cohort": 6},
}  # fmt: skip
MODELS = "pythia-70m,smollm3-3b,llama-2-7b,bert-base-uncased,vit-base-patch16-224-in21k"
NETWORKS = "5g-uma,lte,wifi-6-crowded,leo,nb-iot,fixed"
DEVICES = "microcontroller,phone-mid,phone,laptop,rtx-4090"


def job(**changes):
    return Experiment.parse(JOB | changes)


def made(experiment, **chosen):
    return suitability(experiment, axes_of(experiment.to_table(), **chosen))


@pytest.fixture(scope="module")
def drawn():
    """A map, and plans of cells drawn at random: (cell, plan)."""
    found = made(job(), models=MODELS, networks=NETWORKS, devices=DEVICES)
    rng, names, pairs = np.random.default_rng(5), found.axes, []
    while len(pairs) < 40:
        m, r, n, d = (int(rng.integers(size)) for size in names.shape)
        cell = found.cell(m, r, n, d)
        if cell["verdict"] != "impossible":
            one = found.jobs.experiment(names.models[m], names.methods[r], names.networks[n], names.devices[d])
            with warnings.catch_warnings():
                warnings.simplefilter("ignore")
                pairs.append((cell, plan(one, rounds=ROUNDS)))
    return found, pairs


def test_cells_agree_with_plans(drawn):
    """Verdicts in 19 of 20 and what binds in 9 of 10; payloads and memory exactly; half the rounds within 2 %."""
    _, pairs = drawn
    assert {planned.verdict for _, planned in pairs} >= {"suitable", "unsuitable"}
    assert np.mean([cell["verdict"] == planned.verdict for cell, planned in pairs]) >= 0.95
    assert np.mean([cell["binding"] == planned.binding for cell, planned in pairs]) >= 0.9
    for cell, planned in pairs:
        assert cell["uplink_bits_per_client"] == planned.uplink_bits_per_client
        assert cell["downlink_bits_per_client"] == pytest.approx(planned.downlink_bits_per_client, rel=1e-12)
        assert cell["peak_memory_bytes"] == planned.peak_memory_bytes
    off = [abs(cell["round_s"] / planned.round_s - 1.0) for cell, planned in pairs]
    assert np.median(off) < 0.02
    assert np.quantile(off, 0.9) < 0.15


def test_a_round_over_an_ideal_link_in_closed_form():
    """Without contention, each client with the same rows: a cell has the plan's numbers but for rounding."""
    experiment = job()
    found = made(experiment, models="pythia-70m", methods="lora,full,local", networks="fixed", devices="phone")
    for index, recipe in enumerate(found.axes.methods):
        planned = plan(found.jobs.experiment("pythia-70m", recipe, "fixed", "phone"), rounds=ROUNDS)
        cell = found.cell(0, index, 0, 0)
        for name in ("round_s", "downlink_s", "compute_s", "uplink_s", "energy_j_per_client"):
            assert cell[name] == pytest.approx(getattr(planned, name), rel=1e-9), name
        assert cell["margin"] == pytest.approx(planned.margin)


def test_a_deadline_cuts_rounds_off():
    """3 s suffice for computing on a phone, and not for sending all weights over LTE; nobody is heard."""
    experiment = job(federation={"name": "sync", "deadline_s": 3.0})
    found = made(experiment, models="pythia-70m", methods="full,local", networks="lte", devices="phone")
    for index, recipe in enumerate(found.axes.methods):
        planned = plan(found.jobs.experiment("pythia-70m", recipe, "lte", "phone"), rounds=ROUNDS)
        cell = found.cell(0, index, 0, 0)
        assert (cell["verdict"], cell["binding"]) == (planned.verdict, planned.binding)
        assert cell["round_s"] == pytest.approx(planned.round_s, rel=1e-3)
        assert cell["delivered_share"] == pytest.approx(planned.delivered_share, abs=0.05)


def test_a_battery_runs_down():
    """A client of 40 comes 3 times in 20 rounds of 6; a hundredth of a charge does not pay for all of them."""
    experiment = job(fleet={"mix": {"phone": 1.0}, "initial_charge": 0.01})
    found = made(experiment, models="gpt2-large,pythia-70m", methods="lora", networks="5g-umi", devices="phone")
    for index, model in enumerate(found.axes.models):
        planned = plan(found.jobs.experiment(model, found.axes.methods[0], "5g-umi", "phone"), rounds=ROUNDS)
        assert found.cell(index, 0, 0, 0)["delivered_share"] == pytest.approx(planned.delivered_share)
    assert found.delivered_share[0, 0, 0, 0] == 1.0
    assert found.delivered_share[1, 0, 0, 0] < 1.0


def test_ranks_by_device():
    """A phone of rank 4 sends a quarter of a laptop of rank 16; a device without a rank has no job, and says so."""
    adapter = {"name": "lora", "rank": {"phone": 4, "laptop": 16}}
    experiment = job(task=JOB["task"] | {"adapter": adapter}, method={"name": "flora", "local_steps": 4},
                     fleet={"mix": {"phone": 0.5, "laptop": 0.5}})  # fmt: skip
    found = made(experiment, models="pythia-70m", methods="job", networks="fixed", devices="phone-mid,phone,laptop")
    cells = {one["device"]: one for one in write.rows(found)}
    for name in ("phone", "laptop"):
        planned = plan(found.jobs.experiment("pythia-70m", found.axes.methods[0], "fixed", name), rounds=ROUNDS)
        for number in ("uplink_bits_per_client", "downlink_bits_per_client", "compute_s", "uplink_s"):
            assert cells[name][number] == pytest.approx(getattr(planned, number)), (name, number)
    assert cells["laptop"]["uplink_bits_per_client"] == 4.0 * cells["phone"]["uplink_bits_per_client"]
    assert cells["phone-mid"]["verdict"] == "impossible"
    assert "no entry for device 'phone-mid'" in found.refused["pythia-70m", "job"]


def test_who_declines_is_said():
    """The map's cohorts are those of full batteries; a job whose clients decline says so, and one that starts below."""
    fleet = {"mix": {"phone": 1.0}, "initial_charge": 0.6, "min_charge": 0.5}
    chosen = {"models": "pythia-70m", "methods": "lora", "networks": "fixed"}
    said = made(job(fleet=fleet), devices="phone,rtx-4090", **chosen).assumptions
    assert any("fleet.min_charge" in one for one in said)
    assert not any(
        "fleet.min_charge" in one for one in made(job(fleet=fleet), devices="rtx-4090", **chosen).assumptions
    )
    assert not any("fleet.min_charge" in one for one in made(job(), devices="phone", **chosen).assumptions)
    empty = made(job(fleet=fleet | {"initial_charge": 0.3}), devices="phone,rtx-4090", **chosen)
    assert {one["device"]: (one["verdict"], one["delivered_share"]) for one in write.rows(empty)} == {
        "phone": ("unsuitable", 0.0),
        "rtx-4090": ("suitable", 1.0),
    }


def test_waiting_is_part_of_what_a_battery_gives():
    """A battery of 100 J, of which a round may take a twentieth: the margin is 5 J over all joules, waiting too."""
    own = {"peak_flops": 1e12, "memory_bytes": 16e9, "memory_bandwidth_bytes_s": 5e10, "active_power_w": 5.0,
           "idle_power_w": 4.0, "battery_j": 100.0, "training_efficiency": 0.3}  # fmt: skip
    experiment = job(fleet={"mix": {"tablet": 1.0}, "device": {"tablet": own}})
    found = made(experiment, models="pythia-70m", methods="full", networks="lte", devices="tablet")
    cell = found.cell(0, 0, 0, 0)
    assert cell["binding"] == "energy"
    assert cell["margin"] == pytest.approx(5.0 / cell["energy_j_per_client"])


def test_transfers_between_two_sizes_are_linear():
    """Over a link of 1 Gbit/s and 10 ms, which takes 0.01 + bits / 1e9 seconds whatever was rehearsed."""
    network = {"name": "ideal", "uplink_mbps": 1000.0, "downlink_mbps": 500.0, "latency_s": 0.01}
    setting = job(network=network).setting()
    ids, asked = cohorts(setting, 3)
    found = links(setting, ids, asked, np.array([1e4, 1e8]))
    bits = np.array([[1e4, 3e6, 1e8], [0.0, 0.0, 0.0]])
    assert found.transfers("up", bits).seconds[0, :, 0] == pytest.approx(0.01 + bits[0] / 1e9)
    assert found.transfers("down", bits).seconds[0, :, 0] == pytest.approx(0.01 + bits[0] / 5e8)
    assert not found.transfers("up", bits).seconds[1].any()


def test_transfers_beyond_the_sizes_are_linear_too():
    """As above: 0.01 + bits / 1e9 seconds for ten times the largest size, and for a tenth of the smallest."""
    network = {"name": "ideal", "uplink_mbps": 1000.0, "downlink_mbps": 500.0, "latency_s": 0.01}
    setting = job(network=network).setting()
    found = links(setting, *cohorts(setting, 2), np.array([1e7, 1e8]))
    assert found.transfers("up", np.array([[1e6, 1e9]])).seconds[0, :, 0] == pytest.approx([0.011, 1.01])


def half_of_them_out_of_reach():
    partition = {"name": "iid", "clients": 10}
    return job(task=JOB["task"] | {"partition": partition}, method={"name": "flora", "local_steps": 4},
               network={"name": "cell", "radius_m": 2500.0}, sampler={"name": "uniform", "cohort": 5})  # fmt: skip


def test_what_a_client_that_was_away_receives_is_rehearsed(monkeypatch):
    """With outages flora asks for more than one round's changes; no size that is asked is beyond the rehearsed ones."""
    asked, real = [], Links.transfers

    def seen(self, way, bits):
        asked.append(float(np.max(bits)) / self.sizes_bits[-1])
        return real(self, way, bits)

    monkeypatch.setattr(Links, "transfers", seen)
    found = made(half_of_them_out_of_reach(), models="pythia-70m", methods="job", networks="job", devices="laptop")
    assert found.delivered_share.item() < 0.9
    assert max(asked) <= 1.0


def test_clients_without_a_link_are_not_waited_for():
    """flora, half the clients out of reach: they lack all changes, and nobody waits for what never arrives."""
    found = made(half_of_them_out_of_reach(), models="pythia-70m", methods="job", networks="job", devices="laptop")
    planned = plan(found.jobs.experiment("pythia-70m", found.axes.methods[0], "job", "laptop"), rounds=ROUNDS)
    assert planned.lost["missed_broadcast"] > 0.1
    assert found.path_s[0].item() == pytest.approx(planned.downlink_s, rel=0.2)


def test_sizes_hold_all_payloads():
    assert sizes_bits(np.array([0.0, 1e3, 1e6])) == pytest.approx([1e3, 1e4, 1e5, 1e6])
    assert sizes_bits(np.array([5.0])) == pytest.approx([5.0])
    assert len(sizes_bits(np.zeros(3))) == 1


def test_every_recipe_is_a_job_of_its_own():
    """Ten or so recipes, each of which a plan takes, with the job's local steps."""
    jobs = Jobs(job())
    known = recipes_of(jobs.table)
    assert len(known) > 8
    for recipe in known.values():
        one = jobs.experiment("pythia-14m", recipe, "fixed", "phone")
        one.setting()
        assert one.method.local_steps == 4


def test_axes_take_names_globs_and_files(tmp_path):
    table = job().to_table()
    found = axes_of(table, models="pythia-*,gpt2", methods="lora*", networks="wifi*,job", devices="phone")
    assert found.models[0] == "pythia-14m"
    assert "gpt2" in found.models
    assert [one.name for one in found.methods] == ["lora", "lora-last4", "lora-8bit", "lora-4bit"]
    assert found.networks == ("job", "wifi-6", "wifi-6-crowded")
    assert "job" not in axes_of(table).networks
    own = tmp_path / "own.toml"
    own.write_text('[recipe.prompt]\nwhat = "prompts"\noverrides = ["task.adapter=prompt", "transform=[]"]\n')
    mine = axes_of(table, models="pythia-14m", methods=f"lora,{own}", networks="fixed", devices="phone")
    assert [one.name for one in mine.methods] == ["lora", "prompt"]
    map_ = suitability(job(), mine)
    assert map_.cell(0, 1, 0, 0)["trainable_parameters"] == plan(
        map_.jobs.experiment("pythia-14m", mine.methods[1], "fixed", "phone"), rounds=2
    ).trainable_parameters  # fmt: skip


@pytest.mark.parametrize(
    ("chosen", "says"),
    [
        ({"models": "pythia-14n"}, "--models: unknown model 'pythia-14n'; did you mean 'pythia-14m'"),
        ({"networks": "6g*"}, "--networks: unknown network '6g*'"),
        ({"devices": " , "}, "--devices: name at least one device, or all"),
        ({"methods": "none.toml"}, "--methods: none.toml: no such file"),
    ],
)
def test_bad_axes(chosen, says):
    with pytest.raises(BadInput, match=re.escape(says)):
        axes_of(job().to_table(), **chosen)


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("recipe = 3", "must hold tables [recipe.NAME] and nothing else"),
        ("[recipe.x]\noverride = []", "recipe.x: unknown key 'override'; did you mean 'overrides'"),
        ("[recipe.x]\noverrides = ['rounds']", "recipe.x: overrides must be a list of texts key=value"),
        ("[recipe.x", "not a TOML file"),
    ],
)
def test_bad_recipes(tmp_path, text, says):
    (tmp_path / "own.toml").write_text(text)
    with pytest.raises(BadInput, match=re.escape(says)):
        axes_of(job().to_table(), methods=str(tmp_path / "own.toml"))


def test_jobs_that_are_none_say_why():
    found = made(job(), models="vit-base-patch16-224-in21k", methods="ia3,lora", networks="fixed", devices="phone")
    assert found.cell(0, 1, 0, 0)["verdict"] == "impossible"
    assert found.cell(0, 1, 0, 0)["round_s"] is None
    assert "no key, value and feed-forward layers" in found.refused["vit-base-patch16-224-in21k", "ia3"]
    with pytest.raises(BadInput, match="'toy'"):
        Jobs(Experiment.parse({"task": {"name": "toy"}}))


@pytest.mark.parametrize(
    ("network", "says"),
    [
        ({"name": "cell", "uplink": "aircomp"}, "network.uplink = 'aircomp' sends none"),
        ({"name": "cell", "scheduler": "fedcs"}, "rehearses network 'job' without a deadline"),
    ],
)
def test_networks_that_cannot_be_taken_apart(network, says):
    experiment = job(network=network, federation={"name": "sync", "deadline_s": 60.0})
    with pytest.raises(BadInput, match=re.escape(says)):
        made(experiment, models="pythia-14m", methods="lora", networks="job", devices="phone")


def test_tables_count_every_cell(drawn, tmp_path):
    found, _ = drawn
    lines = list(csv.DictReader(write.write_csv(found, tmp_path / "map.csv").read_text().splitlines()))
    assert len(lines) == found.verdict.size == sum(write.totals(found).values())
    counts = write.bound(found)
    assert sum(counts.values()) == sum(line["verdict"] in ("conditional", "unsuitable") for line in lines)
    lora = [line for line in lines if (line["method"], line["network"]) == ("lora", "fixed")]
    share = np.mean([line["verdict"] == "suitable" for line in lora])
    row = next(row for row in write.shares(found) if row["suitable"] == "lora")
    assert row["fixed"] == f"{share:.0%}"
    with pytest.raises(BadInput, match="is a folder"):
        write.write_csv(found, tmp_path)


def test_page_shows_commands_with_the_yardsticks(tmp_path, monkeypatch, capsys):
    path = tmp_path / "job.toml"
    path.write_text(job().to_toml())
    chosen = ["--models", "pythia-14m", "--methods", "lora", "--networks", "fixed", "--devices", "phone"]
    asked = []
    monkeypatch.setattr("fedwave.planner.map.page.write_page", lambda found, out, *, job: asked.append(job) or out)
    run(
        monkeypatch, capsys, "plan", str(path), "rounds=20", "--map", *chosen, "--max-days", "7", "--max-battery", ".01"
    )
    run(monkeypatch, capsys, "plan", str(path), "--map", *chosen)
    assert asked == [f"{path} --max-days=7.0 --max-battery=0.01 rounds=20", str(path)]


def test_page_asks_nothing_of_the_network_and_is_small(drawn):
    found, _ = drawn
    page = render(found, job="job.toml")
    assert not re.search(r"(src|href)=\"(?!#)", page)
    assert len(page) < 100 * found.verdict.size


def test_command(tmp_path, monkeypatch, capsys):
    """The summary, the page beside the job, and JSON that holds the cells; exit code 0."""
    path = tmp_path / "job.toml"
    path.write_text(job().to_toml())
    chosen = ["--models", "pythia-14m,llama-2-7b", "--methods", "lora", "--networks", "fixed", "--devices", "phone"]
    out = run(monkeypatch, capsys, "plan", str(path), "--map", *chosen, "rounds=20")
    assert "1 unsuitable, 0 conditional, 1 suitable, 0 impossible" in out
    assert "memory 1" in out
    assert "assumes: the map is an approximation of single plans" in out
    assert (tmp_path / "map.html").exists()
    (tmp_path / "map.html").unlink()
    table = json.loads(run(monkeypatch, capsys, "plan", str(path), "--map", "--json", *chosen))
    assert [cell["verdict"] for cell in table["cells"]] == ["suitable", "unsuitable"]
    assert not (tmp_path / "map.html").exists()
    cells = ["--models", "pythia-14m", *chosen[2:]]
    assert "binds" not in run(monkeypatch, capsys, "plan", str(path), "--map", *cells)
    assert "are for plan --map" in run(monkeypatch, capsys, "plan", str(path), "--models", "gpt2", code=2)


def run(monkeypatch, capsys, *arguments, code=0):
    monkeypatch.setattr(sys, "argv", ["fedwave", *arguments])
    with pytest.raises(SystemExit) as end:
        cli.main()
    said = capsys.readouterr()
    assert (end.value.code or 0) == code, said.err
    return said.err if code else said.out


def test_page_in_a_browser(drawn, tmp_path):
    """The page draws its grid from the packed numbers: what it says of a cell is what the map says."""
    sync_api = pytest.importorskip("playwright.sync_api")
    chromium = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None)
    if chromium is None:
        pytest.skip("no chromium")
    found, _ = drawn
    path = tmp_path / "map.html"
    path.write_text(render(found, job="job.toml"), encoding="utf-8")
    with sync_api.sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=chromium, args=["--no-sandbox", "--disable-gpu"])
        page = browser.new_page()
        errors = []
        page.on("pageerror", lambda error: errors.append(str(error)))
        page.goto(path.as_uri())
        page.wait_for_selector("html[data-drawn=true]")
        names = found.axes
        m, n = len(names.models) - 1, names.networks.index("nb-iot")
        r, d = [one.name for one in names.methods].index("lora"), names.devices.index("phone")
        cell = found.cell(m, r, n, d)
        page.locator("#grid tbody tr").nth(m).locator("td").nth(n).click()
        said = page.locator("#says").inner_text()
        assert f"{names.models[m]} · lora · nb-iot · phone" in said
        assert cell["verdict"] in said
        assert f"{cell['binding']} binds" in said
        page.keyboard.press("ArrowUp")
        assert names.models[m - 1] in page.locator("#says").inner_text()
        assert not errors
        browser.close()
