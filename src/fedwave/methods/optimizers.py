"""Optimisers as configuration: ``sgd``, ``adamw`` (either side) and the adaptive server rules ``adam``, ``yogi``.

Each is a pure update on flat trees, leafwise, and works alike on one model ``[...]`` and on clients ``[K, ...]``.
Torch's fused kernels do the work, but for clients that have made different numbers of AdamW's steps. They are called
below ``torch.optim``, whose preparations cost more than the step of a small model.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Annotated, Any, ClassVar

import numpy as np
from pydantic import Field

from fedwave.core.config import NonNegative, Positive, Probability
from fedwave.core.registry import register
from fedwave.core.types import Ints

Tree = dict[str, Any]
Decay = Annotated[float, Field(ge=0, lt=1, allow_inf_nan=False)]


@dataclass(frozen=True)
class Optimizer:
    """Base of all optimisers; ``slots`` names the state trees that it keeps besides the parameters.

    Parameters
    ----------
    lr : learning rate.
    """

    lr: Positive = 1.0

    @property
    def slots(self) -> tuple[str, ...]:
        """State kept per parameter, each as large as the parameters in float32."""
        return ()

    @property
    def plain(self) -> bool:
        """The step is ``-lr`` times the gradient and nothing else."""
        return False

    def init(self, params: Mapping[str, Any]) -> dict[str, Tree]:
        """Zero state for ``params``: ``{slot: {leaf: zeros}}``."""
        return {slot: {name: value.new_zeros(value.shape) for name, value in params.items()} for slot in self.slots}

    def update(self, params: Tree, grads: Tree, state: dict[str, Tree], step: int | Ints) -> None:
        """One step in place on ``params`` and ``state``; ``step`` counts from 1, for each client ``[K]`` or for all."""
        raise NotImplementedError


@register("optimizer", "sgd")
@dataclass(frozen=True)
class Sgd(Optimizer):
    """``torch.optim.SGD``: (Nesterov) momentum, and L2 ``weight_decay`` in the gradient.

    Parameters
    ----------
    momentum : m in ``v <- m v + g``; 0 is plain descent.
    nesterov : look ahead, as Nesterov's method does.
    weight_decay : added to the gradient, times the weights.
    """

    momentum: Probability = 0.0
    nesterov: bool = False
    weight_decay: NonNegative = 0.0

    cite: ClassVar[str] = (
        "Sutskever et al., On the Importance of Initialization and Momentum in Deep Learning, ICML 2013 (momentum)"
    )

    @property
    def slots(self) -> tuple[str, ...]:
        """One buffer with momentum, none without."""
        return ("momentum",) if self.momentum else ()

    @property
    def plain(self) -> bool:
        """Neither momentum nor weight decay."""
        return not (self.momentum or self.weight_decay)

    def update(self, params: Tree, grads: Tree, state: dict[str, Tree], step: int | Ints) -> None:
        """``v <- m v + g; w <- w - lr v`` (Nesterov: ``w <- w - lr (g + m v)``)."""
        import torch

        torch._fused_sgd_(  # type: ignore[reportPrivateImportUsage]
            list(params.values()),
            _contiguous(params, grads),
            [state["momentum"][name] for name in params] if self.momentum else [],
            weight_decay=self.weight_decay,
            momentum=self.momentum,
            lr=self.lr,
            dampening=0.0,
            nesterov=self.nesterov,
            maximize=False,
            is_first_step=False,
        )


@dataclass(frozen=True)
class _Adaptive(Optimizer):
    """First and second moments; subclasses say how the second one moves and whether bias is corrected.

    Parameters
    ----------
    beta1, beta2 : how much of the first and of the second moment is kept at a step.
    eps : added to the root of the second moment.
    """

    lr: Positive = 1e-3
    beta1: Decay = 0.9
    beta2: Decay = 0.999
    eps: Positive = 1e-8

    @property
    def slots(self) -> tuple[str, ...]:
        """First and second moment."""
        return ("exp_avg", "exp_avg_sq")


@register("optimizer", "adamw")
@dataclass(frozen=True)
class AdamW(_Adaptive):
    """AdamW (Loshchilov & Hutter, ICLR 2019, Algorithm 2) with the conventions of ``torch.optim.AdamW``.

    Parameters
    ----------
    weight_decay : the weights shrink by ``lr`` times it at each step.
    """

    weight_decay: NonNegative = 0.0

    cite: ClassVar[str] = "Loshchilov & Hutter, Decoupled Weight Decay Regularization, ICLR 2019"

    def update(self, params: Tree, grads: Tree, state: dict[str, Tree], step: int | Ints) -> None:
        """Decoupled decay, bias-corrected moments, ``eps`` outside the root."""
        first = int(np.min(step))
        if np.max(step) != first:
            return self._apart(params, grads, state, np.asarray(step))
        import torch

        made = next(iter(params.values())).new_tensor(float(first))
        torch._fused_adamw_(  # type: ignore[reportPrivateImportUsage]
            list(params.values()),
            _contiguous(params, grads),
            [state["exp_avg"][name] for name in params],
            [state["exp_avg_sq"][name] for name in params],
            [],
            [made] * len(params),
            amsgrad=False,
            beta1=self.beta1,
            beta2=self.beta2,
            lr=self.lr,
            weight_decay=self.weight_decay,
            eps=self.eps,
            maximize=False,
        )
        return None

    def _apart(self, params: Tree, grads: Tree, state: dict[str, Tree], step: Ints) -> None:
        """Clients that have made ``step [K]`` steps: ``w <- w - rate m / (sqrt(v) + eps root)``, one rate each."""
        roots = np.sqrt(1 - self.beta2**step)
        rates = self.lr * roots / (1 - self.beta1**step)
        for name, value in params.items():
            grad, each = grads[name], (-1, *[1] * (value.dim() - 1))
            root, rate = (value.new_tensor(x).view(each) for x in (roots, rates))
            if self.weight_decay:
                value.mul_(1 - self.lr * self.weight_decay)
            mean = state["exp_avg"][name].lerp_(grad, 1 - self.beta1)
            square = state["exp_avg_sq"][name].mul_(self.beta2).addcmul_(grad, grad, value=1 - self.beta2)
            value.addcdiv_(mean * rate, square.sqrt().add_(self.eps * root), value=-1.0)


@register("optimizer", "adam")
@dataclass(frozen=True)
class ServerAdam(_Adaptive):
    """FedAdam's server rule (Reddi et al., ICLR 2021, Algorithm 2): no bias correction, ``eps`` is the paper's tau.

    ``v`` starts at ``tau^2``, the least that the algorithm's first line allows.
    """

    lr: Positive = 1e-2
    beta2: Decay = 0.99
    eps: Positive = 1e-3

    cite: ClassVar[str] = "Reddi et al., Adaptive Federated Optimization, ICLR 2021"

    def init(self, params: Mapping[str, Any]) -> dict[str, Tree]:
        """``m = 0``, ``v = tau^2``."""
        state = super().init(params)
        state["exp_avg_sq"] = {name: value.fill_(self.eps**2) for name, value in state["exp_avg_sq"].items()}
        return state

    def update(self, params: Tree, grads: Tree, state: dict[str, Tree], step: int | Ints) -> None:
        """``m <- b1 m + (1-b1) g; v <- b2 v + (1-b2) g^2; w <- w - lr m / (sqrt(v) + tau)``."""
        for name, value in params.items():
            grad = grads[name]
            mean = state["exp_avg"][name].lerp_(grad, 1 - self.beta1)
            square = self.second(state["exp_avg_sq"][name], grad)
            value.addcdiv_(mean, square.sqrt().add_(self.eps), value=-self.lr)

    def second(self, square: Any, grad: Any) -> Any:
        """Second-moment rule, in place."""
        return square.mul_(self.beta2).addcmul_(grad, grad, value=1 - self.beta2)


@register("optimizer", "yogi")
@dataclass(frozen=True)
class ServerYogi(ServerAdam):
    """FedYogi's server rule (Reddi et al., ICLR 2021, Algorithm 2)."""

    def second(self, square: Any, grad: Any) -> Any:
        """``v <- v - (1 - b2) g^2 sign(v - g^2)``."""
        squared = grad * grad
        return square.sub_((1 - self.beta2) * squared * (square - squared).sign())


def _contiguous(params: Tree, grads: Tree) -> list[Any]:
    """Gradients in the order of ``params``, laid out as the fused kernels read them: without regard to strides."""
    return [grads[name].contiguous() for name in params]
