"""A method of your own in one file: FedNova, which divides each update by the number of steps behind it.

python examples/my_method.py                                            from Python
fedwave run job.toml 'method={name = "my_method:FedNova"}'              by name, from this folder
"""

from dataclasses import dataclass
from typing import Any, ClassVar

import fedwave as fw
from fedwave.core import tree
from fedwave.core.types import Leaf, Part
from fedwave.tasks.toy import Toy


@dataclass(frozen=True)
class FedNova(fw.Method):
    """``w <- w + lr_s (sum_k p_k tau_k) sum_k p_k (w_k - w) / tau_k`` with ``tau_k`` local steps.

    Wang et al., "Tackling the objective inconsistency problem in heterogeneous federated optimization", NeurIPS 2020,
    for plain SGD.
    """

    cite: ClassVar[str] = "Wang et al., NeurIPS 2020"

    def uplink(self, spec: Any) -> dict[str, Part]:
        return {**super().uplink(spec), "steps": Part({"tau": Leaf((1,))}, increment=False)}

    def reply(self, clients: Any) -> Any:
        parts, memory = super().reply(clients)
        update = tree.scale_rows(parts["update"], 1.0 / clients.steps)
        return {"update": update, "steps": {"tau": clients.steps[:, None]}}, memory

    def server_update(self, spec: Any, state: Any, replies: Any, server: Any, key: Any) -> Any:
        tau = replies.parts["steps"]["tau"]  # the weighted mean, as all summed parts
        return self.step_server(state, {name: tau * value for name, value in replies.parts["update"].items()})


if __name__ == "__main__":
    task = Toy(clients=20, ragged=True, heterogeneity=2.0)
    for method in (FedNova(local_epochs=4), fw.Experiment(task=task).method):
        run = list(fw.stream(fw.Experiment(task=task, method=method, rounds=20, eval_every=20)))
        print(type(method).__name__, run[-1].eval)
