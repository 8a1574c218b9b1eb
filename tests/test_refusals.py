"""Everything that a user can get wrong or run into, through the command: the sentence, the exit code, nothing lost."""

import json
import re
from pathlib import Path

import numpy as np
import pytest
import tomli_w
import torch

from fedwave import simulation
from fedwave.engines.stacked import slots
from fedwave.testing import tiny_bert, tiny_llama

from .helpers import JOB

SMALL = "{peak_flops = 1e9, memory_bytes = %s, memory_bandwidth_bytes_s = 1e9, active_power_w = 1.0}"
SILENT = ["network=ideal", "network.loss=1.0"]  # every update is lost after it was sent


def refused(result, *parts, code=2):
    """The one sentence of a refusal, which holds ``parts``."""
    found, out, err = result
    assert (found, out) == (code, ""), (found, out, err)
    assert err.startswith("fedwave: ") and err.count("\n") == 1, err
    assert "Error" not in err and "Traceback" not in err
    for part in parts:
        assert part in err, (part, err)
    return err


def notes(err):
    return [line.removeprefix("fedwave: note: ") for line in err.splitlines() if line.startswith("fedwave: note: ")]


def text_job(model, **task):
    Path("rows.csv").write_text("text,label\n" + "".join(f"this is text {i},c{i % 2}\n" for i in range(20)))
    table = {"name": "text-classification", "model": str(model), "data": "rows.csv", "adapter": {"name": "head"},
             "partition": {"name": "iid", "clients": 4}, "max_tokens": 16} | task  # fmt: skip
    Path("text.toml").write_text(tomli_w.dumps({"rounds": 1, "task": table}))
    return "text.toml"


# ---- the job -------------------------------------------------------------------------------------------------------


def test_unknown_key(fedwave_):
    refused(
        fedwave_("run", "job.toml", "method.local_step=3"),
        "job.toml: method.local_step: unknown key 'local_step' of fedprox; did you mean 'local_steps'? (known: ",
    )
    refused(fedwave_("run", "job.toml", "federaton.quorum=3"), "unknown key 'federaton'; did you mean 'federation'?")


def test_unknown_name(fedwave_):
    refused(
        fedwave_("run", "job.toml", "method=fedproxx"), "method: unknown method 'fedproxx'; did you mean 'fedprox'?"
    )


@pytest.mark.parametrize(
    ("override", "sentence"),
    [
        ("rounds=many", "rounds: input should be a valid integer, got 'many'"),
        ("rounds=2.5", "rounds: input should be a valid integer, got 2.5"),
        ("method.mu='0.1'", "method.mu: input should be a valid number, got '0.1'"),
        ("fleet=3", "fleet: input should be a table, got 3"),
        ("transform=clip", "transform: must be a list of transform tables, got 'clip'"),
        ("sink=tensorboard", "sink: must be a list of sink tables, got 'tensorboard'"),
    ],
)
def test_wrong_type(fedwave_, override, sentence):
    assert refused(fedwave_("run", "job.toml", override)) == f"fedwave: job.toml: {sentence}\n"


@pytest.mark.parametrize(
    ("override", "sentence"),
    [
        ("rounds=0", "rounds: input should be greater than or equal to 1, got 0"),
        ("fleet.availability=1.5", "fleet.availability: input should be less than or equal to 1, got 1.5"),
        ("transform.1.bits=3", "transform.1.bits: input should be 2, 4 or 8, got 3"),
        ("federation.deadline_s=nan", "federation.deadline_s: input should be a finite number, got nan"),
    ],
)
def test_out_of_range(fedwave_, override, sentence):
    assert refused(fedwave_("run", "job.toml", override)) == f"fedwave: job.toml: {sentence}\n"


def test_missing_and_malformed_jobs(fedwave_):
    refused(fedwave_("run", "none.toml"), "none.toml: no such job file")
    Path("bad.toml").write_text("rounds = 3\n[task]\nname = toy\n")
    refused(fedwave_("run", "bad.toml"), "bad.toml: not valid TOML: ", "(at line 3, column 8)")


# ---- data and models -----------------------------------------------------------------------------------------------


def test_missing_and_malformed_data(fedwave_):
    job = text_job("minilm")
    refused(fedwave_("plan", job, "task.data=none.csv"), "none.csv", "does not exist")
    Path("bad.csv").write_text("text,label\nhello,a\nonly one\n")
    refused(fedwave_("plan", job, "task.data=bad.csv"), "bad.csv, line 3 does not have the 2 fields of the header")
    Path("bad.jsonl").write_text('{"text": "hello", "label": "a"}\n{"text": \n')
    refused(fedwave_("plan", job, "task.data=bad.jsonl"), "bad.jsonl, line 2 is not JSON: ")


def test_data_without_the_needed_fields(fedwave_):
    job = text_job("minilm")
    Path("other.jsonl").write_text('{"txt": "hello", "label": "a"}\n' * 9)
    refused(
        fedwave_("plan", job, "task.data=other.jsonl"),
        "other.jsonl",
        "'text'",
        "did you mean 'txt'? (known: label, txt)",
    )
    Path("lm.toml").write_text('[task]\nname = "causal-lm"\ndata = "other.jsonl"\n')
    refused(
        fedwave_("plan", "lm.toml"), "other.jsonl must have the fields prompt and response, or text; it has: label, txt"
    )
    refused(
        fedwave_("plan", job, "task.partition={name = 'column', column = 'user'}"), "'user'", "(known: label, text)"
    )


def test_a_row_without_text(fedwave_):
    job = text_job("minilm")
    Path("empty.jsonl").write_text('{"text": "hello", "label": "a"}\n{"text": "", "label": "a"}\n')
    refused(
        fedwave_("plan", job, "task.data=empty.jsonl"), "empty.jsonl, line 2: 'text' must be a non-empty string, got ''"
    )


def test_a_model_that_is_not_to_be_had_offline(fedwave_, monkeypatch):
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    err = refused(
        fedwave_("run", text_job("nobody/nothing"), "--out", "r"), "model 'nobody/nothing' is not to be had here: "
    )
    ways = re.findall(r"\((\d)\) ([^(,]+)", err)
    assert [number for number, _ in ways] == ["1", "2", "3", "4"]
    for (_, way), word in zip(ways, ("folder", "cache", "hub", "package"), strict=True):
        assert word in way
    assert not Path("r").exists()


def test_an_adapter_target_that_the_model_does_not_have(fedwave_, here):
    job = text_job(tiny_bert(here / "bert"), adapter={"name": "lora", "targets": ["q_proj"]})
    sentence = "adapter target 'q_proj' matches no linear layer of the model (it has: dense, key, query, value)"
    refused(fedwave_("run", job, "--out", "r"), sentence)
    assert not Path("r").exists()


def test_a_client_without_data(fedwave_, here):
    job = text_job(tiny_bert(here / "bert"))
    refused(fedwave_("plan", job, "task.partition.clients=40"), "client ", " of 40 holds no data")
    refused(
        fedwave_("plan", job, "task.partition={name = 'dirichlet', clients = 40}"),
        "partition dirichlet: 40 clients with min_samples = 1 need 40 rows, the data has ", "would go short",
    )  # fmt: skip


def test_no_learnable_row(fedwave_, here):
    """Prompts that fill max_tokens leave no response to learn."""
    tiny_llama(here / "llama")
    Path("long.jsonl").write_text(
        "".join(json.dumps({"prompt": f"{i} " * 40, "response": "ok"}) + "\n" for i in range(9))
    )
    Path("lm.toml").write_text('[task]\nname = "causal-lm"\nmodel = "llama"\ndata = "long.jsonl"\nmax_tokens = 8\n')
    refused(fedwave_("run", "lm.toml"), "long.jsonl: no row has anything to learn within max_tokens = 8")


# ---- devices -------------------------------------------------------------------------------------------------------


def test_a_model_that_fits_no_device(fedwave_):
    """3 values: parameters, gradients and update at 4 bytes, and 8 rows of activations, are more than 8 bytes."""
    fleet = f"fleet={{mix = {{tiny = 1, mini = 1}}, device = {{tiny = {SMALL % 8}, mini = {SMALL % 40}}}}}"
    err = refused(
        fedwave_("run", "job.toml", fleet, "seed=0", "--out", "r"),
        "the training fits into the memory of no client's device: mini has 20 B for it and needs ",
        "; tiny has 4 B for it and needs ",
        code=3,
    )
    (need,) = set(re.findall(r"needs (\d+) B", err))
    plan = json.loads(fedwave_("plan", "job.toml", fleet, "seed=0", "--json")[1])
    assert int(need) == plan["peak_memory_bytes"]
    assert not Path("r").exists()


def test_a_model_that_fits_some_devices(fedwave_):
    fleet = f"fleet={{mix = {{tiny = 1, laptop = 1}}, device = {{tiny = {SMALL % 8}}}}}"
    code, out, err = fedwave_("run", "job.toml", fleet, "seed=0", "sampler.cohort=6", "--out", "r")
    assert code == 0
    (note,) = notes(err)
    lost = int(
        re.match(
            r"(\d) of 6 clients cannot hold the training, so their updates are lost to memory: tiny has 4 B", note
        )[1]
    )
    assert 0 < lost < 6
    assert out.count(f"{6 - lost}/6  memory {lost}\n") == 4
    rows = [json.loads(line) for line in Path("r/rounds.jsonl").read_text().splitlines()]
    assert all(row["status"] == {"delivered": 6 - lost, "memory": lost} for row in rows)


# ---- rounds --------------------------------------------------------------------------------------------------------


def test_all_clients_lost_in_a_round(fedwave_):
    """At a loss of 0.8, 2 rounds of 12 with 3 clients each are empty with seed 1; the first of them is noted."""
    code, _, err = fedwave_("run", "job.toml", "network=ideal", "network.loss=0.8", "rounds=12", "--out", "r")
    rows = [json.loads(line) for line in Path("r/rounds.jsonl").read_text().splitlines()]
    empty = [row["round"] for row in rows if not row["delivered"]]
    assert (code, len(rows)) == (0, 12)
    assert 1 < len(empty) < 12
    what = "no update counts (outage 3), so the model stays as it is"
    assert notes(err) == [f"round {empty[0]}: {what}; later rounds like it are not noted"]


def test_every_round_lost(fedwave_):
    """The run is done and its folder whole, but nothing was learned: exit code 3 and the main reason."""
    sentence = "in 4 rounds no client's update counted, so the model is the initial one: 12 of 12 were lost to outage"
    for command in (("run", "job.toml", *SILENT, "--out", "r"), ("run", "--resume", "r")):
        code, out, err = fedwave_(*command)
        assert code == 3
        assert err.splitlines()[-1] == f"fedwave: {sentence}"
        assert "run folder: r" in out
    code, out, _ = fedwave_("run", "--resume", "r", "--json")
    assert (code, json.loads(out)["delivered"], json.loads(out)["finished"]) == (3, 0, True)


def test_nobody_answers(fedwave_):
    code, _, err = fedwave_("run", "job.toml", "fleet.availability=0.0", "rounds=1")
    assert code == 3
    assert err.splitlines()[-1].endswith("in 1 round no client's update counted, so the model is the initial one: "
                                         "no client answered a call")  # fmt: skip


@pytest.mark.parametrize("all_of_them", [False, True])
def test_not_a_number_from_a_client(fedwave_, monkeypatch, all_of_them):
    """The reply of a client that holds NaN has no influence, and is named."""
    train = slots.train

    def poisoned(method, clients, rows):
        losses = train(method, clients, rows)
        for value in clients.params.values():
            bad = slice(None) if all_of_them else 0
            value.data[bad] = torch.nan
        return losses

    monkeypatch.setattr(slots, "train", poisoned)
    code, out, err = fedwave_("run", "job.toml", "engine.max_clients=3", "--out", "r")
    rows = [json.loads(line) for line in Path("r/rounds.jsonl").read_text().splitlines()]
    count = 3 if all_of_them else 1
    assert [len(row["lost"]["not_finite"]) for row in rows] == [count] * 4
    assert all(row["status"]["not_finite"] == count and row["delivered"] == 3 - count for row in rows)
    assert out.count(f"{3 - count}/3  not finite {count}\n") == 4
    who = rows[0]["lost"]["not_finite"]
    named = f"clients {', '.join(map(str, who))}" if all_of_them else f"client {who[0]}"
    assert notes(err)[0].startswith(f"round 0: the update of {named} is not finite and does not count")
    assert np.isfinite(simulation.resume("r").final["loss"])
    assert code == (3 if all_of_them else 0)


# ---- run folders (what the disk does to them is in test_faults.py) ---------------------------------------------------


def test_a_run_folder_of_another_version(fedwave_):
    fedwave_("run", "job.toml", "--out", "r")
    note = json.loads(Path("r/environment.json").read_text())
    Path("r/environment.json").write_text(json.dumps(note | {"run_format": 7}))
    before = {path: path.read_bytes() for path in Path("r").rglob("*") if path.is_file()}
    refused(fedwave_("run", "--resume", "r"), "r has run format 7, this fedwave reads format 1")
    assert {path: path.read_bytes() for path in Path("r").rglob("*") if path.is_file()} == before


def test_the_jobs_of_this_file_work(fedwave_, here):
    """Or they would be refused for something else."""
    assert JOB["rounds"] == 4
    assert fedwave_("run", "job.toml", "--quiet")[0] == 0
    assert fedwave_("run", text_job(tiny_bert(here / "bert")), "--quiet")[0] == 0
