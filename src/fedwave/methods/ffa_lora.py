"""FFA-LoRA: freeze A, train and send B alone."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from fedwave.core.errors import Refused
from fedwave.core.registry import register
from fedwave.core.types import Leaves, Spec
from fedwave.methods.method import Method


@register("method", "ffa_lora")
@dataclass(frozen=True)
class FfaLora(Method):
    """A keeps its random start, which every device has; only B (and a head) is trained and averaged.

    The aggregate is linear in what is sent, hence exact (Sun et al., ICLR 2024, Section 3). Traffic is
    ``S_out / (S_in + S_out)`` of FedIT's, a half only where ``S_in = S_out``.
    """

    cite: ClassVar[str] = "Sun et al., Improving LoRA in Privacy-preserving Federated Learning, ICLR 2024"

    def check(self, spec: Spec) -> None:
        """Needs LoRA leaves."""
        super().check(spec)
        if not spec.max_rank:
            raise Refused("method ffa_lora trains LoRA factors; set task.adapter.name = 'lora'")

    def travelling(self, spec: Spec) -> Leaves:
        """Everything but A."""
        return {name: leaf for name, leaf in spec.trainable.items() if not name.endswith(".lora_A.weight")}
