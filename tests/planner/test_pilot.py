"""Pilots: what they measure is what a run measures, and the fit finds what a curve was made of."""

import json
import math
import signal
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import tomli_w

from fedwave.core.errors import BadInput
from fedwave.experiment import Experiment
from fedwave.pilot import Pilot, Target, pilot, small
from fedwave.planner import plan
from fedwave.planner.forecast import Forecast, PowerLaw, forecast
from fedwave.simulation import Simulation

from ..helpers import JOB
from .test_plan import job

TIMES = np.arange(13.0)


# ---- the fit -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("law", [PowerLaw(1.0, 2.0, 0.5, 0.0), PowerLaw(0.4, 3.0, 1.2, 0.0)])
@pytest.mark.parametrize("rounds", [20, 90])
def test_exact_curves_are_continued_exactly(law, rounds):
    """y = a + b (1 + t)^-c: at the curve's own value after t rounds, the answer is t."""
    found = forecast(list(law.at(TIMES)), float(law.at(rounds)))
    assert found.rounds == pytest.approx(rounds, abs=1 + 0.01 * rounds) and not found.measured
    assert found.low is not None and found.high is not None and found.low <= found.rounds <= found.high
    assert law.rounds_to(float(law.at(rounds))) == pytest.approx(rounds)


def test_rising_metrics_are_continued_too():
    """accuracy = 0.9 - 0.6 (1 + t)^-0.7 is 0.85 after (0.6 / 0.05)^(1 / 0.7) - 1 = 33.8 rounds."""
    values = list(0.9 - 0.6 * (1.0 + TIMES) ** -0.7)
    assert forecast(values, 0.85).rounds == pytest.approx((0.6 / 0.05) ** (1 / 0.7) - 1, abs=1.5)
    never = forecast(values, 0.95)
    assert never.rounds is None and never.never > 0.9 and "levels off at 0.9" in never.reason


def test_what_was_reached_is_not_extrapolated():
    found = forecast([3.0, 2.5, 2.2, 2.3], 2.25)
    assert (found.rounds, found.low, found.high, found.measured, found.curve) == (2, 2, 2, True, None)


@pytest.mark.parametrize(
    ("values", "target", "words"),
    [
        ([3.0, 2.5, 2.2], 1.0, "at least 4 rounds"),
        ([3.0, 3.1, 3.2, 3.3, 3.4], 1.0, "did not move"),
        ([3.0, 2.0, math.nan, 1.0, 0.9], 0.5, "not finite after 2 rounds"),
        ([3.0, 2.0, 1.6, 1.5, 1.49, 1.49, 1.49], 0.5, "short of 0.5"),
        (list(3.0 * (1.0 + TIMES) ** -0.1), 0.1, "more than 1,000,000 rounds"),
        ([3.0, 3.1, 3.2, 3.3, 3.4], 1.0, "if more is better, it is met already"),
    ],
)
def test_what_cannot_be_said_is_said_so(values, target, words):
    found = forecast(values, target)
    assert found.rounds is None and words in found.reason


@pytest.mark.parametrize(
    ("values", "target", "falls"),
    [
        ([3.0, 2.5], 3.0, None),
        ([2.0, 1.8, 1.6, 1.5, 1.4], 3.0, True),
        ([0.7, 0.75, 0.8, 0.82, 0.83], 0.6, False),
        ([0.7, 0.65, 0.6, 0.5, 0.5], 0.6, False),
    ],
)
def test_what_is_met_before_the_first_round(values, target, falls):
    found = forecast(values, target, falls=falls)
    assert (found.rounds, found.low, found.high, found.measured, found.reason) == (0, 0, 0, True, "")


def test_a_metric_whose_better_side_is_known_is_not_met_on_the_other():
    """A loss of 3 that rises is not at 1, though 1 is on the side that it comes from."""
    assert "did not move" in forecast([3.0, 3.1, 3.2, 3.3, 3.4], 1.0, falls=True).reason
    assert "if" not in forecast([3.0, 3.1, 3.2, 3.3, 3.4], 1.0, falls=True).reason


def test_there_is_one_limit_of_rounds():
    """3 (1 + t)^-0.5: what takes 999,999 rounds is named, what takes 1,000,002 is not."""
    law = PowerLaw(0.0, 3.0, 0.5, 0.0)
    assert law.rounds_to(3.0 * 1e6**-0.5) == pytest.approx(999_999)
    assert math.isinf(law.rounds_to(3.0 * 1_000_003.0**-0.5))


def test_the_interval_holds_most_of_the_time():
    """Curves of known laws with noise: the interval of 5 to 95 % holds the truth in most of 60, and is no catch-all."""
    draws, held, widths = np.random.default_rng(0), 0, []
    for trial in range(60):
        law = PowerLaw(draws.uniform(0.5, 2), draws.uniform(1, 3), draws.uniform(0.3, 1.2), 0.0)
        found = forecast(list(law.at(TIMES) + draws.normal(0, 0.01, len(TIMES))), float(law.at(40.0)), seed=trial)
        held += (found.low or math.inf) <= 40 <= (found.high or math.inf)
        widths.append((found.high or math.inf) / (found.low or 1))
    assert held >= 0.7 * 60 and np.median(widths) < 3.0


# ---- real rounds ---------------------------------------------------------------------------------------------------


def toy(**changes):
    task = {"name": "toy", "clients": 20, "samples_per_client": 20, "dimension": 3}
    return Experiment.parse({**JOB, "task": task, "rounds": 12, "sampler": {"cohort": 12}, **changes})


def test_a_pilot_is_the_job_with_fewer_rounds_and_clients():
    experiment = toy()
    found = pilot(experiment, 3)
    assert (found.rounds, found.cohort) == (3, 8) and found.forecast is None
    simulation = Simulation.start(small(experiment, 3))
    losses = [simulation.initial["loss"], *(record.eval["loss"] for record in simulation.stream())]
    assert found.curves["loss"] == losses and len(losses) == 4
    assert 0.0 < found.wall_s < 60.0 and 0.0 <= found.delivered <= 1.0
    kept = experiment.to_table() | {"rounds": 3, "eval_every": 1}
    kept["sampler"]["cohort"] = 8
    assert small(experiment, 3).to_table() == kept


def test_the_quorum_is_kept():
    assert small(toy(federation={"name": "sync", "quorum": 10}), 2).sampler.cohort == 10


def test_a_target_sets_the_plans_rounds(fedwave_):
    Path("toy.toml").write_text(tomli_w.dumps(toy().to_table()))
    first = pilot(toy(), 4).curves["loss"]
    goal = (first[1] + first[2]) / 2.0
    code, out, _ = fedwave_("plan", "toy.toml", "--pilot", 4, "--target", f"loss={goal}", "--json")
    table = json.loads(out)
    assert code == 0 and table["pilot"]["forecast"]["measured"] and table["rounds"] == 2
    assert table["pilot"]["curves"]["loss"] == pytest.approx(first)
    assert table["total_s"] == pytest.approx(2 * table["round_s"])
    assert any("was reached after 2" in text for text in table["assumptions"])
    same = plan(toy(rounds=2))
    assert (table["total_bits"], table["round_s"]) == (same.total_bits, same.round_s)


def test_a_target_that_is_met_already(fedwave_):
    Path("digits.toml").write_text('rounds = 3\n[task]\nname = "images"\n[method]\nname = "fedavg"\nlocal_steps = 1\n')
    code, out, _ = fedwave_("plan", "digits.toml", "--pilot", 1, "--target", "accuracy=0.001")
    assert code == 0 and "accuracy 0.001 is met already" in out and "1 round in" in out
    table = json.loads(fedwave_("plan", "digits.toml", "--pilot", 1, "--target", "loss=100", "--json")[1])
    assert (table["pilot"]["forecast"]["rounds"], table["rounds"]) == (0, 1)


def test_a_metric_that_there_is_not_is_refused_before_a_round_is_played(fedwave_, monkeypatch):
    monkeypatch.setattr(Simulation, "stream", lambda self: pytest.fail("a round was played"))
    code, _, err = fedwave_("plan", "job.toml", "--pilot", 3, "--target", "f1=0.5")
    assert (code, err) == (2, "fedwave: --target: the task reports distance, loss, not 'f1'\n")


def test_text_of_a_pilot(fedwave_):
    Path("toy.toml").write_text(tomli_w.dumps(toy().to_table()))
    out = fedwave_("plan", "toy.toml", "--pilot", 5, "--target", "loss=0.5")[1]
    assert "pilot: 5 rounds of 8 clients took" in out and "assumes: rounds: loss 0.5" in out
    plain = fedwave_("plan", "toy.toml", "--pilot", 2)[1]
    assert "the plan is for the job's 12 rounds" in plain and "rounds: loss" not in plain


@pytest.mark.parametrize(
    ("words", "sentence"),
    [
        (["--target", "loss=1"], "--target needs --pilot N"),
        (["--pilot", 3, "--target", "loss"], "must be METRIC=VALUE"),
        (["--pilot", 3, "--target", "loss=nan"], "must be METRIC=VALUE"),
        (["--pilot", 3, "--target", "f1=0.5"], "the task reports distance, loss, not 'f1'"),
        (["--pilot", 0], "must be 1 or more"),
        (["--pilot", -1], "must be 1 or more"),
    ],
)
def test_wishes_that_cannot_be_met(fedwave_, words, sentence):
    code, out, err = fedwave_("plan", "job.toml", *words, "--json")
    assert (code, out) == (2, "") and sentence in err and err.count("\n") == 1


def test_a_model_without_weights_is_no_pilots(fedwave_):
    Path("job.toml").write_text(tomli_w.dumps(job() | {"task": job()["task"] | {"model": "llama-3.1-8b"}}))
    code, out, err = fedwave_("plan", "job.toml", "--pilot", 2)
    assert (code, out) == (2, "") and err.startswith("fedwave: --pilot trains for real: model 'llama-3.1-8b'")
    with pytest.raises(BadInput):
        Target.parse("=1")


def test_ctrl_c_ends_it_with_a_sentence(tmp_path):
    (tmp_path / "toy.toml").write_text(tomli_w.dumps(toy().to_table()))
    command = [sys.executable, "-m", "fedwave.cli", "plan", "toy.toml", "--pilot", "1000000"]
    with subprocess.Popen(
        command, cwd=tmp_path, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
        preexec_fn=lambda: signal.signal(signal.SIGINT, signal.default_int_handler),
    ) as process:  # fmt: skip
        assert process.stdout is not None and process.stderr is not None
        next(line for line in process.stdout if line.split()[:1] == ["1"])  # two rounds are over
        process.send_signal(signal.SIGINT)
        process.stdout.read()
        said = process.stderr.read()
    assert process.returncode == 130 and "Traceback" not in said
    assert "fedwave: interrupted after" in said


@pytest.mark.parametrize(("rounds", "far"), [(20, False), (8_304, True)])
def test_a_forecast_far_beyond_the_pilot_says_so(rounds, far):
    found = Pilot(8, 5, {"loss": [11.0] * 6}, 1.0, 1.0, Target("loss", 0.5), Forecast(rounds, low=rounds, high=rounds))
    assert ("times the rounds played" in found.sentence()) == far
