"""A user's own devices, networks and models, from the files of ``FEDWAVE_CATALOGUE``."""

import json
import os
import tomllib
from pathlib import Path

import pytest

from fedwave.core.errors import BadInput
from fedwave.devices import catalogue as devices
from fedwave.experiment import Experiment
from fedwave.models import catalogue as models
from fedwave.wireless import catalogue as networks

from .test_refusals import refused

LAB = """
[device.glasses]
what = "smart glasses of the lab"
peak_flops = 2e10
memory_bytes = 2e9
memory_bandwidth_bytes_s = { value = 8e9, source = "our measurement, notebook 12", basis = "measured" }
active_power_w = 1.2

[device.phone]
memory_bytes = 8e9

[network.campus]
name = "5g-umi"
what = "the campus cell"
bandwidth_mhz = 40
budget = { p0_dbm = { value = -95, unit = "dBm", source = "the operator", basis = "vendor" } }

[network.wifi-6]
mcs = 9

[network.commute]
name = "trace"
file = "link.csv"

[model.ours]
model_type = "llama"
num_hidden_layers = 4
hidden_size = 256
num_attention_heads = 4
intermediate_size = 1024
vocab_size = { value = 8000, source = "our tokenizer" }
tie_word_embeddings = true
aliases = ["Our-Model"]
"""


@pytest.fixture
def lab(here, monkeypatch):
    """``lab(text)`` writes lab.toml, which the variable names."""

    def write(text=LAB, name="lab.toml"):
        Path(name).write_text(text)
        monkeypatch.setenv("FEDWAVE_CATALOGUE", name)
        return here / name

    return write


def test_without_the_variable_there_is_nothing_of_ones_own(monkeypatch):
    monkeypatch.delenv("FEDWAVE_CATALOGUE", raising=False)
    assert not any(devices.is_own(name) for name in devices.names())
    assert "campus" not in networks.names() and "ours" not in models.names()


def test_own_entries_are_listed_with_their_sources(lab, fedwave_):
    file = str(lab())
    listed = {kind: {row["name"]: row for row in json.loads(fedwave_("list", kind, "--json")[1])}
              for kind in ("devices", "networks", "models")}  # fmt: skip
    glasses, campus, ours = listed["devices"]["glasses"], listed["networks"]["campus"], listed["models"]["ours"]
    assert (glasses["what"], glasses["peak_flops"]) == ("smart glasses of the lab", 2e10)
    assert glasses["source"] == "3 user, 1 measured"
    assert glasses["sources"]["peak_flops"] == {"value": 2e10, "unit": "FLOP/s", "basis": "user", "source": file}
    assert glasses["sources"]["memory_bandwidth_bytes_s"] == {
        "value": 8e9, "unit": "byte/s", "basis": "measured", "source": "our measurement, notebook 12",
    }  # fmt: skip
    assert (campus["network"], campus["what"]) == ("cell", "the campus cell")
    assert campus["sources"]["bandwidth_mhz"] == {"value": 40, "unit": "", "basis": "user", "source": file}
    p0 = {"value": -95, "unit": "dBm", "basis": "vendor", "source": "the operator"}
    assert campus["sources"]["budget.p0_dbm"] == p0
    assert campus["sources"]["scenario"]["basis"] == "standard"
    assert (ours["kind"], ours["basis"], ours["source"]) == ("decoder", "user", file)
    assert ours["sources"]["vocab_size"]["source"] == "our tokenizer"
    # by hand: 8000 x 256 + 4 (4 x 256^2 + 3 x 256 x 1024 + 2 x 256) + 256
    assert ours["parameters_m"] == pytest.approx(6.244608)


def test_an_efficiency_of_ones_own_is_not_called_assumed(lab, fedwave_):
    lab(LAB.replace("active_power_w = 1.2", "active_power_w = 1.2\ntraining_efficiency = 0.25"))
    out = fedwave_("plan", "job.toml", "fleet.mix={glasses=1.0, phone=1.0}", "--no-changes")[1]
    assert "(at 25% of peak), " in out and "(at 20% of peak, assumed), " in out


def test_built_in_entries_are_changed_key_by_key(lab):
    before, wifi = devices.lookup("phone"), networks.table("wifi-6")
    lab()
    phone = devices.lookup("phone")
    assert (phone.memory_bytes, phone.peak_flops) == (8e9, before.peak_flops)
    assert devices.describe("phone").startswith("flagship phone")
    assert networks.table("wifi-6") == wifi | {"mcs": 9}
    assert models.canonical("our-model") == models.canonical("Ours") == "ours"


def test_a_later_file_comes_first(here, lab, monkeypatch):
    lab()
    Path("more.toml").write_text("[device.glasses]\nactive_power_w = 2.5\n")
    monkeypatch.setenv("FEDWAVE_CATALOGUE", os.pathsep.join(["lab.toml", "", str(here / "more.toml")]))
    glasses = devices.lookup("glasses")
    assert (glasses.active_power_w, glasses.peak_flops) == (2.5, 2e10)


def test_a_changed_file_is_read_anew(lab):
    file = lab("[device.a]\npeak_flops=1e9\nmemory_bytes=1e9\nmemory_bandwidth_bytes_s=1e9\nactive_power_w=1.0\n")
    assert devices.lookup("a").active_power_w == 1.0
    file.write_text(file.read_text().replace("1.0", "3.0"))
    os.utime(file, ns=(1, 1))
    assert devices.lookup("a").active_power_w == 3.0


def test_a_run_of_ones_own_does_not_depend_on_the_file(lab, fedwave_, monkeypatch):
    lab()
    keys = ["network=campus", "network.bandwidth_mhz=20", "fleet.mix={glasses=1.0, phone=1.0}", "rounds=1"]
    assert fedwave_("plan", "job.toml", *keys)[0] == 0
    assert fedwave_("run", "job.toml", *keys, "--out", "own", "-q")[0] == 0
    monkeypatch.delenv("FEDWAVE_CATALOGUE")
    written = tomllib.loads(Path("own/experiment.toml").read_text())
    found = Experiment.parse(written)
    assert (written["network"]["name"], found.network.bandwidth_mhz, found.network.budget.p0_dbm) == ("cell", 20, -95)
    assert written["fleet"]["device"]["glasses"]["peak_flops"] == 2e10
    assert written["fleet"]["device"]["phone"]["memory_bytes"] == 8e9
    assert fedwave_("run", "--resume", "own", "-q")[0] == 0


def test_files_stand_beside_the_catalogue(lab, here, tmp_path_factory, monkeypatch):
    lab()
    Path("link.csv").write_text("time_s,uplink_mbps,downlink_mbps\n0,2,20\n1,3,30\n")
    monkeypatch.setenv("FEDWAVE_CATALOGUE", str(here / "lab.toml"))
    monkeypatch.chdir(tmp_path_factory.mktemp("elsewhere"))
    assert Experiment.parse({"task": "toy", "network": "commute"}).network.file == str(here / "link.csv")


DEVICE = "[device.d]\npeak_flops=1e9\nmemory_bytes=1e9\nmemory_bandwidth_bytes_s=1e9\nactive_power_w=1.0\n"
NET = '[network.n]\nname="cell"\n'
MODEL = '[model.m]\nmodel_type="gpt2"\nn_embd=8\nn_layer=2\nn_head=2\n'


@pytest.mark.parametrize(
    ("text", "sentence"),
    [
        ("[device.d", "not a TOML file: "),
        ("[devices.d]\n", "unknown table 'devices'; did you mean 'device'? (known: device, model, network)"),
        ("device = 3\n", "device: must hold tables [device.NAME], got 3"),
        ("[device]\nd = 3\n", "device.d: must be a table, as in [device.NAME], got 3"),
    ],
)
def test_a_file_that_is_no_catalogue(lab, fedwave_, text, sentence):
    lab(text)
    for kind in ("devices", "networks", "models"):
        refused(fedwave_("list", kind), f"lab.toml: {sentence}")


@pytest.mark.parametrize(
    ("text", "sentence"),
    [
        ("[device.d]\npeak_flop = 1\n", "unknown key 'peak_flop' of a device; did you mean 'peak_flops'?"),
        ("[device.d]\npeak_flops = 1e9\n", "memory_bytes: this key is missing"),
        (DEVICE + "idle_power_w = -1\n", "idle_power_w: input should be greater than or equal to 0, got -1"),
        (DEVICE + "battery_j = { value = 'full' }\n", "battery_j: input should be a valid number, got 'full'"),
        (DEVICE + "battery_j = { value = 1, from = 'me' }\n", "battery_j: unknown key 'from' of a number"),
        (DEVICE + "battery_j = { value = 1, basis = 'guess' }\n", "battery_j: unknown basis 'guess'"),
        (DEVICE + "what = 3\n", "what: must be text, got 3"),
    ],
)
def test_a_wrong_device(lab, fedwave_, text, sentence):
    lab(text)
    refused(fedwave_("list", "devices"), f"lab.toml: device.d: {sentence}")
    refused(fedwave_("plan", "job.toml"), f"lab.toml: device.d: {sentence}")


@pytest.mark.parametrize(
    ("text", "sentence"),
    [
        ("[network.n]\nmcs = 3\n", "n: name is missing (one of: cell, "),
        ('[network.n]\nname = "cel"\n', "n: name: unknown network 'cel'; did you mean 'cell'?"),
        ('[network.n]\nname = "n"\n', "n: name: unknown network 'n'"),
        ("[network.n]\nname = 3\n", "n: name: must be text, got 3"),
        ("[network.cell]\nsites = 7\n", "cell: this is the name of a registered network; choose another"),
        (
            NET + "bandwith_mhz = 20\n",
            "n: bandwith_mhz: unknown key 'bandwith_mhz' of cell; did you mean 'bandwidth_mhz'?",
        ),
        (NET + "bandwidth_mhz = 21\n", "n: bandwidth_mhz: 21 MHz has no 30 kHz grid"),
        (NET + "budget.p0_dbm = { value = 'low' }\n", "n: budget.p0_dbm: input should be a valid number, got 'low'"),
        ("[network.5g-umi]\nsites = 3\n", "5g-umi: sites: "),
    ],
)
def test_a_wrong_network(lab, fedwave_, text, sentence):
    lab(text)
    refused(fedwave_("list", "networks"), f"lab.toml: network.{sentence}")


@pytest.mark.parametrize(
    ("text", "sentence"),
    [
        (MODEL, "the config of a gpt2 model lacks vocab_size"),
        (
            MODEL + "vocab_size = 'big'\n",
            "the model's vocab_size must be a whole number from 1 to 1,000,000,000, got 'big'",
        ),
        (MODEL + "vocab_size = -5\n", "vocab_size: must not be negative, got -5"),
        (MODEL + "vocab_size = 9\nparameters_m = 'many'\n", "parameters_m: must be a number above 0"),
        (MODEL + "vocab_size = 9\naliases = 'a'\n", "aliases: must be a list of names, got 'a'"),
        ("[model.m]\nmodel_type = 'mamba'\n", "model_type: must be one of bert, "),
    ],
)
def test_a_wrong_model(lab, fedwave_, text, sentence):
    lab(text)
    refused(fedwave_("list", "models"), f"lab.toml: model.m: {sentence}")


def test_a_file_that_is_not_there(here, fedwave_, monkeypatch):
    monkeypatch.setenv("FEDWAVE_CATALOGUE", "gone.toml")
    refused(fedwave_("list", "devices"), "FEDWAVE_CATALOGUE: ", "gone.toml cannot be read: No such file or directory")
    refused(fedwave_("plan", "job.toml"), "FEDWAVE_CATALOGUE: ")


def test_a_folder_is_no_catalogue(here, fedwave_, monkeypatch):
    Path("mine").mkdir()
    monkeypatch.setenv("FEDWAVE_CATALOGUE", "mine")
    told = f"FEDWAVE_CATALOGUE: {here / 'mine'} is a folder; name a TOML file with tables [device.NAME], [model.NAME]"
    assert fedwave_("list", "devices")[2].startswith(f"fedwave: {told}")
    refused(fedwave_("plan", "job.toml"), f"job.toml: fleet: {told}")


def test_a_wrong_entry_is_told_where_a_job_uses_it(lab, fedwave_):
    lab(NET + "bandwidth_mhz = 21\n")
    told = "lab.toml: network.n: bandwidth_mhz: 21 MHz"
    refused(fedwave_("plan", "job.toml", "network=n"), "job.toml: network: ", told)
    refused(fedwave_("plan", "job.toml", "network=m"), "network: unknown network 'm'", "5g-umi")


def test_the_library_says_it_too(lab):
    lab("[model.m]\nhidden_size = 3\n")
    with pytest.raises(BadInput, match="model_type: must be one of"):
        models.lookup("gpt2")
