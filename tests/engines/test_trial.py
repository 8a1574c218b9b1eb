"""A model whose clients cannot be stacked is found out before training; clients then train one by one, and a warning
says so.
"""

import copy
import warnings

import numpy as np
import pytest
import torch
from torch import nn

from fedwave.core.errors import Refused
from fedwave.core.types import Leaf, Spec
from fedwave.engines.stacked.trial import stack_clients
from fedwave.engines.stacked.twins import Vmapped
from fedwave.tasks.learner import Learner


class Simple(Learner):
    """Squared outputs of a model on given rows ``[n, ...]``."""

    def __init__(self, model, x):
        self.model, self._x = model.eval(), x
        self.initial = {name: value.detach().clone() for name, value in model.named_parameters()}
        self.leaf_paths = {name: name for name in self.initial}
        trainable = {name: Leaf(tuple(value.shape)) for name, value in self.initial.items()}
        self.spec = Spec(trainable, 0, 0, 0.0, 0.0, 0.0)
        self.order, self.offsets = np.arange(len(x)), np.arange(len(x) + 1)

    def batch(self, rows):
        return {"x": self._x[np.maximum(rows, 0)]}

    def row_losses(self, batch):
        return self.model(batch["x"]).square().flatten(1).sum(1), torch.ones(len(batch["x"]))

    def predict(self, batch):
        return self.model(batch["x"])

    def distance(self, predicted, target):
        return (predicted - target).flatten(1).sum(1)

    def export(self, folder, params, base=None):
        raise NotImplementedError


class Peeking(nn.Module):
    """Reads a layer's weight behind its back."""

    def __init__(self):
        super().__init__()
        self.layer = nn.Linear(4, 4)

    def forward(self, x):
        return x @ self.layer.weight.T


class Scaling(nn.Module):
    """Does so where shapes happen to agree: the gain of one client ends up on another's rows."""

    def __init__(self):
        super().__init__()
        self.norm = nn.LayerNorm(4)

    def forward(self, x):
        rows, gain = x.shape[0], self.norm.weight.reshape(-1, 4)
        return x * gain.repeat(-(-rows // len(gain)), 1)[:rows] + self.norm(x)


class Bypassing(nn.Module):
    """Calls a method that is not forward."""

    class Layer(nn.Module):
        def __init__(self):
            super().__init__()
            self.gain = nn.Parameter(torch.ones(4))

        def forward(self, x):
            return x * self.gain

        def other(self, x):
            return x * self.gain

    def __init__(self):
        super().__init__()
        self.layer = self.Layer()

    def forward(self, x):
        return self.layer.other(x)


class Placed(nn.Module):
    """Positions ``[s]``, of which nothing says whose they are."""

    def __init__(self):
        super().__init__()
        self.places = nn.Embedding(4, 4)

    def forward(self, x):
        return x + self.places(torch.arange(4))[None].sum(1)


class Counting(nn.Module):
    """Control flow by value, for which vmap has no rule; rows stay apart, so calls in turn do."""

    def __init__(self):
        super().__init__()
        self.gain = nn.Parameter(torch.ones(4))

    def forward(self, x):
        return x * self.gain if float(self.gain.detach().sum()) > 0 else -x * self.gain


ODD = {"peeking": Peeking, "scaling": Scaling, "bypassing": Bypassing, "placed": Placed}


def learner_of(model):
    return Simple(model, torch.randn(6, 4, generator=torch.Generator().manual_seed(0)))


def gradients(learner, stack, k):
    stack.bind(k)
    stack.rows = 2
    loss, _ = learner.row_losses(learner.batch(np.arange(2 * k)))
    return dict(
        zip(stack.params, torch.autograd.grad(loss.sum(), [*stack.params.values()], allow_unused=True), strict=True)
    )


@pytest.mark.parametrize("name", sorted(ODD))
def test_what_cannot_be_stacked_trains_one_by_one(name):
    torch.manual_seed(0)
    learner = learner_of(ODD[name]())
    plain = copy.deepcopy(learner.model)
    with pytest.warns(UserWarning, match="one by one"):
        stack, why = stack_clients(learner, 3)
    assert stack.slots == 1 and why
    moved = {leaf: value + 0.1 * torch.randn(value.shape) for leaf, value in learner.initial.items()}
    for leaf, value in moved.items():
        stack.full[leaf][0] = value
        plain.get_parameter(leaf).data.copy_(value)
    found = gradients(learner, stack, 1)
    plain(learner.batch(np.arange(2))["x"]).square().sum().backward()
    for leaf, grad in found.items():
        wanted = plain.get_parameter(leaf).grad
        assert (grad is None) == (wanted is None)
        if grad is not None:
            torch.testing.assert_close(grad[0], wanted)


@pytest.mark.parametrize("make", [lambda: nn.Linear(4, 3), Counting, lambda: nn.Sequential(nn.Linear(4, 4), nn.Tanh())])
def test_what_can_be_stacked_is(make):
    learner = learner_of(make())
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        stack, _ = stack_clients(learner, 3)
    assert stack.slots == 3 and learner.model is stack.model


def test_without_a_rule_clients_take_turns_in_that_layer_alone():
    learner = learner_of(nn.Sequential(nn.Linear(4, 4), Counting()))
    stack, _ = stack_clients(learner, 2)
    twin = next(module for module in stack.model.modules() if isinstance(module, Vmapped))
    stack.full["1.gain"].copy_(torch.tensor([[1.0] * 4, [-2.0] * 4]))
    stack.full["0.weight"].copy_(torch.eye(4))
    stack.full["0.bias"].zero_()
    stack.bind(2)
    x = torch.randn(4, 4)
    torch.testing.assert_close(stack.model(x), torch.cat([x[:2], 2 * x[2:]]))
    assert twin._looped


def test_one_slot_is_not_tried(monkeypatch):
    learner = learner_of(Peeking())
    monkeypatch.setattr(learner, "row_losses", None)
    assert stack_clients(learner, 1)[0].slots == 1


def test_layers_that_mix_rows_are_refused():
    learner = learner_of(nn.Sequential(nn.Linear(4, 4), nn.BatchNorm1d(4)))
    learner.model.train()
    with pytest.raises(Refused, match="BatchNorm1d"):
        stack_clients(learner, 3)


def test_updates_land_in_the_one_slot():
    """Step after step on the same binding: the model computes with what the optimiser has written."""
    learner = learner_of(nn.Linear(4, 3))
    stack, _ = stack_clients(learner, 1)
    stack.full["weight"].fill_(1.0)
    stack.full["bias"].zero_()
    for value in (1.0, 2.0, 3.0):
        grads = gradients(learner, stack, 1)
        out = value * learner.batch(np.arange(2))["x"].sum(1, keepdim=True).expand(2, 3)
        torch.testing.assert_close(grads["bias"][0], 2 * out.sum(0))
        with torch.no_grad():
            stack.params["weight"].add_(1.0)
    assert stack.full["weight"].eq(4.0).all()
