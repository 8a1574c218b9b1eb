"""Every example runs, or at least parses and plans where its data and model are here."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

import fedwave as fw
from fedwave.core.errors import BadInput
from fedwave.experiment import Experiment

EXAMPLES = Path(__file__).parents[1] / "examples"
SOURCE = str(Path(fw.__file__).parents[1])
# What needs data that the project does not carry; its own test says more.
NEEDS_DATA = {"teleqna.py"}


def program(*arguments: str, folder: Path) -> str:
    """Output of Python in ``folder`` with warnings as errors."""
    done = subprocess.run(
        [sys.executable, "-W", "error", *arguments], cwd=folder, capture_output=True, text=True, check=False,
        env={**os.environ, "PYTHONPATH": SOURCE, "OMP_NUM_THREADS": "1"}, timeout=300,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    return done.stdout


@pytest.mark.parametrize("name", sorted(path.name for path in EXAMPLES.glob("*.py")))
def test_programs_run(name: str, tmp_path: Path) -> None:
    if name in NEEDS_DATA:
        pytest.skip("needs a data set that its authors ask not to spread in plain text")
    printed = program(str(EXAMPLES / name), folder=tmp_path)
    assert len(printed.splitlines()) >= 2
    assert not list(tmp_path.iterdir())


def test_the_own_model_learns_and_is_short(tmp_path: Path) -> None:
    lines = program(str(EXAMPLES / "my_model.py"), folder=tmp_path).splitlines()
    losses = [float(loss) for loss in re.findall(r"'loss': ([0-9.e-]+)", "\n".join(lines))]
    assert losses[-1] < 0.6 * losses[0]
    code = (EXAMPLES / "my_model.py").read_text().partition("class Forecaster")[2].partition("if __name__")[0]
    assert len([line for line in code.splitlines() if line.strip()]) <= 20


def test_the_own_model_resumes_by_its_name(tmp_path: Path) -> None:
    code = """
import sys
sys.path.insert(0, sys.argv[1])
import my_model, fedwave as fw
from fedwave.tasks.custom import Custom
if __name__ == "__main__":
    fw.run(fw.Experiment(task=Custom(my_model.make, {"width": 4}), rounds=1), "out")
    print(fw.resume("out").finished)
"""
    assert program("-c", code, str(EXAMPLES), folder=tmp_path).split()[-1] == "True"


@pytest.mark.parametrize(
    "override",
    [
        'method={name = "my_method:FedNova", local_epochs = 2}',
        'network={name = "my_channel:Sidelink", side_m = 50.0}',
        'network={name = "cell", scheduler = "my_channel:FirstCome"}',
    ],
)
def test_plug_ins_by_name(override: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "path", list(sys.path))
    table = Experiment.load(EXAMPLES / "my_device.toml", ["task=toy", "task.heterogeneity=0", override])
    records = list(fw.stream(Experiment.parse(table.to_table())))
    assert len(records) == 10 and records[-1].eval["loss"] < 0.1 * records[0].train_loss
    name = re.search(r"my_\w+:\w+", override)
    assert name and name.group() in table.to_toml()


def test_a_method_of_steps_is_fedavg_where_all_make_as_many(monkeypatch: pytest.MonkeyPatch) -> None:
    """With tau equal for all, tau x mean(update / tau) is the mean update."""
    monkeypatch.setattr(sys, "path", list(sys.path))
    job = ["task=toy", "network=ideal", "rounds=3", "eval_every=1"]
    both = [
        list(
            fw.stream(
                Experiment.load(EXAMPLES / "my_device.toml", [*job, f'method={{name = "{name}", local_steps = 5}}'])
            )
        )
        for name in ("fedavg", "my_method:FedNova")
    ]
    for plain, nova in zip(*both, strict=True):
        assert nova.eval["distance"] == pytest.approx(plain.eval["distance"], rel=1e-5)


def test_the_own_link_has_shannons_rate() -> None:
    # One client of 100,000 float32 values: 3.2 Mbit at B log2(1 + snr d^-3) each way.
    import importlib.util

    import numpy as np

    from fedwave.federation.sync import rehearse
    from fedwave.tasks.toy import Toy

    spec = importlib.util.spec_from_file_location("my_channel_example", EXAMPLES / "my_channel.py")
    assert spec is not None and spec.loader is not None
    module = sys.modules[spec.name] = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    experiment = fw.Experiment(task=Toy(clients=1, dimension=100_000), network=module.Sidelink())
    setting = experiment.setting()
    distance = max(float(np.linalg.norm(setting.world().position_m[0])), 1.0)
    record, _ = next(rehearse(setting, 1))
    assert record.uplink_s == pytest.approx(3.2e6 / (1e6 * np.log2(1 + 1e7 * distance**-3.0)), rel=1e-9)


@pytest.mark.parametrize("name", sorted(path.name for path in EXAMPLES.glob("*.toml")))
def test_jobs_parse_and_plan(name: str) -> None:
    experiment = Experiment.load(EXAMPLES / name)
    assert Experiment.parse(experiment.to_table()) == experiment
    try:
        plan = fw.plan(experiment, rounds=1)
    except BadInput as absent:  # data or model that are not on this machine
        pytest.skip(str(absent))
    assert plan.feasible and plan.uplink_bits_per_client > 0


def test_the_own_device_is_used() -> None:
    plan = fw.plan(Experiment.load(EXAMPLES / "my_device.toml"))
    assert set(plan.devices) == {"camera", "phone"}
    assert plan.devices["camera"].compute_s > plan.devices["phone"].compute_s
