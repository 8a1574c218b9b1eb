"""What a plan says of the server, the way to the cloud, and totals, by hand."""

import json

import pytest

from fedwave import simulation
from fedwave.devices import catalogue
from fedwave.experiment import Experiment
from fedwave.planner import plan
from fedwave.planner.show import lines

LORA = {"name": "lora", "rank": 8, "targets": ["q_proj", "v_proj"]}
WEIGHTS, TRAINED = 134_515_008, 30 * 8 * ((576 + 576) + (576 + 192))


def toy(**changes):
    table = {
        "rounds": 9,
        "task": {"name": "toy", "clients": 12, "dimension": 1000, "samples_per_client": 32, "batch_size": 8},
        "network": {"name": "ideal", "uplink_mbps": 1.0}, "sampler": {"cohort": 4},
    }  # fmt: skip
    return Experiment.parse(table | changes)


def lm(method, **changes):
    task = {"name": "causal-lm", "model": "smollm2-135m", "data": "chatterbot", "adapter": LORA, "max_tokens": 64}
    return Experiment.parse({"task": task, "method": method, "sampler": {"cohort": 6}, "network": "fixed"} | changes)


def test_memory_of_the_server():
    """The whole model in float32, one sum of what is trained, and AdamW's two moments of it; 6 replies of a median."""
    adam = {"name": "fedavg", "server_optimizer": {"name": "adamw", "lr": 1e-3}}
    memory = plan(lm(adam)).server.memory_bytes
    assert memory["weights"] == 4.0 * (WEIGHTS + TRAINED)
    assert memory["updates"] == 4.0 * TRAINED
    assert memory["optimizer"] == 8.0 * TRAINED
    assert plan(lm({"name": "median"})).server.memory_bytes["updates"] == 6 * 4.0 * TRAINED


def test_base_changes_pile_up_on_the_server():
    """FLoRA keeps the stacks of all rounds for those that come late: 7 rounds of 6 clients' factors."""
    found = plan(lm({"name": "flora"}, rounds=7)).server
    assert found.memory_bytes["base changes"] == 7 * 6 * 4.0 * TRAINED
    assert found.memory_bytes["updates"] == 6 * 4.0 * TRAINED  # each client's own


def test_a_server_that_trains_needs_room_for_it():
    """Distillation on 100 inputs: 1,000 weights, their gradients and momentum; 16 public rows at a time, of 1,001
    values each; the consensus on 64 rows. Its 5 steps are 5 x 16 x 4,000 FLOP beside 2 x 4 x 64 of the average.
    """
    method = {"name": "distill", "samples": 64, "server_steps": 5, "batch_size": 16,
              "server_trainer": {"name": "sgd", "lr": 0.1, "momentum": 0.9}}  # fmt: skip
    found = plan(toy(method=method)).server
    assert found.memory_bytes == {
        "weights": 4_000.0, "updates": 4.0 * 64, "optimizer": 4_000.0, "activations": 16 * 4.0 * 1_001,
        "gradients": 4_000.0, "method": 4.0 * 64, "step": 0.0,
    }  # fmt: skip
    assert found.peak_memory_bytes == sum(found.memory_bytes.values())
    assert found.flops == 5 * 16 * 4_000 + 2 * 4 * 64
    device = catalogue.lookup("nvidia-l4")
    seconds = max(found.flops / (0.4 * 3.03e13), 2 * found.flops / 3e11)  # two bytes a FLOP through the memory
    assert found.compute_s == pytest.approx(seconds) and found.compute_j == pytest.approx(72 * seconds)
    assert found.usable_memory_bytes == pytest.approx(0.9 * device.memory_bytes)


def test_a_server_that_is_too_small():
    """Llama 8B in float32 takes 32 GB, and an L4 has 23: conditional, for another server would do."""
    big = lm({"name": "fedavg"}, fleet={"mix": {"nvidia-h100": 1.0}})
    table = big.to_table()
    table["task"]["model"] = "llama-3.1-8b"
    found = plan(Experiment.parse(table))
    assert (found.verdict, found.binding) == ("conditional", "server memory")
    assert found.margin == pytest.approx(found.server.usable_memory_bytes / found.server.peak_memory_bytes)
    assert "BROKEN: server memory" in "\n".join(lines(found))
    table["server"] = {"device": "nvidia-h100"}
    assert plan(Experiment.parse(table)).verdict == "suitable"


def test_the_way_to_the_cloud():
    """1,000 float32 values up and down, 64,000 bits at 1 Mbit/s, and 50 ms each way: 0.164 s at each round's end."""
    cloud = {"rate_mbps": 1.0, "latency_s": 0.05}
    without, job = plan(toy()), toy(server={"cloud": cloud})
    found = plan(job)
    assert (found.server.cloud_s, found.server.cloud_bits) == (pytest.approx(0.164), 64_000.0)
    assert found.round_s == pytest.approx(without.round_s + 0.164)
    assert found.server_s == pytest.approx(found.server.compute_s + 0.164)
    record = next(simulation.stream(job)).to_dict()
    assert (record["cloud_s"], record["cloud_bits"]) == (pytest.approx(0.164), 64_000.0)
    assert record["round_s"] == pytest.approx(found.round_s)
    assert "to the cloud and back" in "\n".join(lines(found))
    assert "cloud" not in "\n".join(lines(without)) and "cloud_s" not in next(simulation.stream(toy())).to_dict()
    assert Experiment.parse(job.to_table()) == job
    assert json.loads(json.dumps(found.to_dict()))["server"]["cloud_bits"] == 64_000.0


def test_replies_that_cannot_be_summed_go_to_the_cloud_one_by_one():
    """Four clients' 8-bit replies of 1,000 values and a scale of 32 bits; the model comes down in float32."""
    quantize = [{"name": "quantize", "bits": 8}]
    job = toy(method={"name": "median"}, transform=quantize, server={"cloud": {}})
    found = plan(job)
    assert found.server.cloud_bits == 4 * found.uplink_bits_per_client + 32_000


def test_totals_by_hand():
    """12 clients, 4 a round, 9 rounds: each is in 3. A round costs it 32 rows x 4,000 FLOP / (0.2 x 1e9 FLOP/s) x 5 W =
    3.2 mJ, a hundredth of its battery; 32,000 bits up, as many down.
    """
    own = {"peak_flops": 1e9, "memory_bytes": 1e9, "memory_bandwidth_bytes_s": 1e12, "active_power_w": 5.0}
    fleet = {"mix": {"own": 1.0}, "device": {"own": own | {"battery_j": 0.32}}}
    found = plan(toy(fleet=fleet))
    assert found.battery_cycles == pytest.approx(3 * 0.01)
    assert found.total_bits == pytest.approx(9 * 4 * 64_000)
    server_j = found.server.compute_j
    assert found.total_energy_j == pytest.approx(9 * (4 * 3.2e-3 + server_j))
    shown = "\n".join(lines(found))
    assert f"{found.total_energy_j / 3.6e6:.3g} kWh" in shown and "0.03 battery charges of a client" in shown
    assert "288 kB" in shown  # 9 x 4 x 64,000 bits


def test_battery_cycles_are_those_of_the_worst_class():
    """A class with half the battery is recharged twice as often; one on mains never."""
    own = {"peak_flops": 1e9, "memory_bytes": 1e9, "memory_bandwidth_bytes_s": 1e12, "active_power_w": 5.0}
    devices = {"small": own | {"battery_j": 0.16}, "large": own | {"battery_j": 0.32}, "mains": own}
    found = plan(toy(fleet={"mix": dict.fromkeys(devices, 1.0), "device": devices}))
    assert found.battery_cycles == pytest.approx(3 * 0.02)
