"""What a message carries for each client apart, and for all, reaches the client hooks; bits are charged for both."""

from dataclasses import dataclass, replace

import numpy as np
import torch

from fedwave import simulation
from fedwave.core.types import Leaf, Message, Part
from fedwave.experiment import Experiment
from fedwave.methods.method import Method

SEEN = {}


@dataclass(frozen=True)
class OwnStart(Method):
    """Sends every client its own number beside the model, and remembers what the client saw."""

    def downlink(self, spec):
        return {**super().downlink(spec), "number": Part({"number": Leaf((1,))})}

    def broadcast(self, spec, state, cohort):
        message = super().broadcast(spec, state, cohort)
        number = torch.as_tensor(cohort.ids, dtype=torch.float32)[:, None] + 100 * cohort.round
        return Message(shared=message.shared, own={"number": {"number": number}})

    def step(self, clients, rows):
        numbers = clients.own["number"]["number"][:, 0]
        for client, number in zip(clients.ids, numbers, strict=True):
            SEEN[(clients.round, int(client))] = float(number)
        return super().step(clients, rows)


def experiment(**engine):
    return Experiment.parse(
        {
            "rounds": 2,
            "task": {"name": "toy", "clients": 9, "ragged": True},
            "sampler": {"name": "uniform", "cohort": 5},
            "network": {"name": "ideal"},
            "engine": {"name": "cohort", **engine},
        }
    )


def test_own_parts_reach_their_clients_in_any_packing():
    """Groups are formed by steps, not by position: a client must still see its own number."""
    for k in (0, 1, 2):
        SEEN.clear()
        job = replace(experiment(max_clients=k), method=OwnStart())
        records = list(simulation.stream(job))
        assert len(SEEN) == 10
        assert all(number == client + 100 * round_ for (round_, client), number in SEEN.items())
        # 10 weights and one number, 4 bytes each, to five clients.
        assert [r.downlink_bits for r in records] == [5 * 32 * 11] * 2


def test_own_parts_go_through_the_downlink_transforms():
    job = replace(experiment(), method=OwnStart())
    table = Experiment.parse(
        {**experiment().to_table(), "transform": [{"name": "quantize", "bits": 8, "direction": "down"}]}
    )
    SEEN.clear()
    records = list(simulation.stream(replace(job, transform=table.transform)))
    # One value per leaf is its own scale: it survives 8 bits exactly. Scale (32 bits) and codes: 10 and 1 bytes.
    assert all(np.isclose(number, client + 100 * round_) for (round_, client), number in SEEN.items())
    assert records[0].downlink_bits == 5 * (32 + 80 + 32 + 8)
