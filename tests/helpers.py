"""A small job and what its plan must hold, for tests of the command line."""

JOB = {
    "seed": 1, "rounds": 4, "eval_every": 2,
    "task": {"name": "toy", "clients": 6, "samples_per_client": 8, "dimension": 3},
    "method": {"name": "fedprox", "mu": 0.1, "local_optimizer": {"name": "sgd", "lr": 0.05}},
    "transform": [{"name": "clip", "norm": 1.0}, {"name": "quantize", "bits": 8}],
    "sampler": {"name": "uniform", "cohort": 3}, "federation": {"name": "sync", "deadline_s": 5.0},
    "network": {"name": "cell", "scenario": "UMi", "scheduler": {"name": "round_robin"}},
    "fleet": {"mix": {"phone": 0.5, "laptop": 0.5}}, "engine": {"name": "cohort", "max_clients": 2},
}  # fmt: skip
PLAN_KEYS = ("round_s", "uplink_bits_per_client", "downlink_bits_per_client", "energy_j_per_client",
             "peak_memory_bytes", "trainable_parameters", "model_parameters")  # fmt: skip
