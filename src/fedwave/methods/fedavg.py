"""Federated averaging. On LoRA leaves this is FedIT, which averages A and B apart and is therefore inexact."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated, ClassVar

from fedwave.core.config import part
from fedwave.core.registry import register
from fedwave.methods.method import Method
from fedwave.methods.optimizers import Optimizer, ServerAdam, ServerYogi


@register("method", "fedavg")
@dataclass(frozen=True)
class FedAvg(Method):
    """``w <- w + lr_s * sum_k p_k (w_k - w)`` (McMahan et al., AISTATS 2017, Algorithm 1).

    With a ``lora`` adapter this is FedIT (Zhang et al., ICASSP 2024): the mean of products ``B_k A_k`` differs from the
    product of means by ``sum_k p_k (B_k - Bbar)(A_k - Abar)``.
    """

    cite: ClassVar[str] = (
        "McMahan et al., Communication-Efficient Learning of Deep Networks from Decentralized Data, AISTATS 2017"
    )


@register("method", "fedadam")
@dataclass(frozen=True)
class FedAdam(Method):
    """FedAvg with Adam on the server (Reddi et al., ICLR 2021, Algorithm 2)."""

    server_optimizer: Annotated[Optimizer, part("optimizer")] = ServerAdam()

    cite: ClassVar[str] = "Reddi et al., Adaptive Federated Optimization, ICLR 2021"


@register("method", "fedyogi")
@dataclass(frozen=True)
class FedYogi(Method):
    """FedAvg with Yogi on the server (Reddi et al., ICLR 2021, Algorithm 2)."""

    server_optimizer: Annotated[Optimizer, part("optimizer")] = ServerYogi()

    cite: ClassVar[str] = "Reddi et al., Adaptive Federated Optimization, ICLR 2021"
