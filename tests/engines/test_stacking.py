"""Twins of layers equal one module per client: outputs and gradients, any number of clients and rows."""

import copy

import pytest
import torch
from torch import nn

from fedwave.core import tree
from fedwave.core.errors import Refused
from fedwave.engines.fold import finite
from fedwave.engines.stacked.stacking import Stack
from fedwave.engines.stacked.twins import ClientConv, ClientEmbedding, ClientLinear, Vmapped


class Positions(nn.Module):
    """Token and position embeddings; positions ``[1, s]`` are the same for all rows."""

    def __init__(self):
        super().__init__()
        self.tokens, self.places = nn.Embedding(11, 6), nn.Embedding(5, 6)

    def forward(self, ids):
        return self.tokens(ids) + self.places(torch.arange(ids.shape[1])[None])


class Tied(nn.Module):
    def __init__(self):
        super().__init__()
        self.embed, self.out = nn.Embedding(11, 6), nn.Linear(6, 11, bias=False)
        self.out.weight = self.embed.weight

    def forward(self, ids):
        return self.out(self.embed(ids))


class Scaled(nn.Module):
    """Owns a parameter itself, with a trainable layer inside: one vmapped twin for all."""

    def __init__(self):
        super().__init__()
        self.gain, self.inner = nn.Parameter(torch.rand(6)), nn.Linear(6, 6)

    def forward(self, x, *, bias=0.5):
        return self.inner(x) * self.gain + bias


class Keyword(nn.Module):
    def __init__(self):
        super().__init__()
        self.scaled = Scaled()

    def forward(self, x):
        return self.scaled(x, bias=x.mean(-1, keepdim=True))


class Doubled(nn.Module):
    def __init__(self):
        super().__init__()
        self.embed = Subclass(11, 6)

    def forward(self, ids):
        return self.embed(ids)


class Subclass(nn.Embedding):
    """Not exactly ``nn.Embedding``, so mapped."""

    def forward(self, ids):
        return 2.0 * super().forward(ids)


def ids(n, generator):
    return torch.randint(0, 11, (n, 5), generator=generator)


def vectors(*shape):
    return lambda n, generator: torch.randn(n, *shape, generator=generator)


MODELS = {
    "linear": (lambda: nn.Linear(6, 4), vectors(6)),
    "linear on sequences": (lambda: nn.Linear(6, 4, bias=False), vectors(3, 6)),
    "embedding": (lambda: nn.Embedding(11, 6), ids),
    "positions": (Positions, ids),
    "tied": (Tied, ids),
    "layer norm": (lambda: nn.LayerNorm(6), vectors(3, 6)),
    "group norm": (lambda: nn.GroupNorm(2, 6), vectors(6, 3)),
    "conv": (lambda: nn.Conv2d(2, 3, 3, padding=1), vectors(2, 5, 5)),
    "conv with stride and groups": (
        lambda: nn.Conv2d(4, 6, 3, stride=2, dilation=2, groups=2, bias=False),
        vectors(4, 7, 7),
    ),
    "conv same": (lambda: nn.Conv2d(2, 3, 3, padding="same"), vectors(2, 5, 5)),
    "conv circular": (lambda: nn.Conv2d(2, 3, 3, padding=1, padding_mode="circular"), vectors(2, 5, 5)),
    "conv 1d": (lambda: nn.Conv1d(2, 3, 3, padding=1), vectors(2, 5)),
    "conv net": (
        lambda: nn.Sequential(nn.Conv2d(2, 3, 3), nn.ReLU(), nn.Flatten(), nn.Linear(27, 4)),
        vectors(2, 5, 5),
    ),
    "own parameter": (lambda: nn.Sequential(nn.Linear(6, 6), Scaled()), vectors(3, 6)),
    "keyword argument": (Keyword, vectors(3, 6)),
    "subclass": (Doubled, ids),
    "frozen batch norm": (lambda: nn.Sequential(nn.Conv2d(2, 3, 3), nn.BatchNorm2d(3)).eval(), vectors(2, 5, 5)),
}


def stacked(make, k, slots=None):
    """(stack, one ordinary model per client with the values of its slot)."""
    torch.manual_seed(0)
    model = make()
    plain = [copy.deepcopy(model) for _ in range(k)]
    names = [name for name, _ in model.named_parameters()]
    stack = Stack(model, {name: name for name in names}, slots or k)
    generator = torch.Generator().manual_seed(1)
    for name in names:
        stack.full[name].copy_(torch.randn(stack.full[name].shape, generator=generator))
        for slot in range(k):
            with torch.no_grad():
                plain[slot].get_parameter(name).copy_(stack.full[name][slot])
    stack.bind(k)
    return stack, plain


def assert_equal_to_a_module_per_client(make, draw, k, rows):
    """Outputs, and gradients of sum_k sin(output_k) in every leaf, with one slot to spare."""
    stack, plain = stacked(make, k, slots=k + 1)
    x = draw(k * rows, torch.Generator().manual_seed(2))
    stack.rows = rows
    together = stack.model(x)
    grads = dict(zip(stack.params, torch.autograd.grad(together.sin().sum(), list(stack.params.values())), strict=True))
    for slot, model in enumerate(plain):
        alone = model(x[slot * rows : (slot + 1) * rows])
        torch.testing.assert_close(together[slot * rows : (slot + 1) * rows], alone, atol=1e-5, rtol=1e-5)
        alone.sin().sum().backward()
        for leaf, value in model.named_parameters():
            torch.testing.assert_close(grads[leaf][slot], value.grad, atol=1e-4, rtol=1e-4)


@pytest.mark.parametrize("rows", [1, 4])
@pytest.mark.parametrize("k", [1, 3])
@pytest.mark.parametrize("name", sorted(MODELS))
def test_twins_equal_a_module_per_client(name, k, rows):
    assert_equal_to_a_module_per_client(*MODELS[name], k, rows)


class Twice(nn.Module):
    """One module at two places."""

    def __init__(self):
        super().__init__()
        self.a = self.b = nn.Linear(6, 6)

    def forward(self, x):
        return self.b(self.a(x).tanh())


class SharedInput(nn.Module):
    """A trained layer whose input ``[1, s, d]`` is the same for all rows, as relative positions are."""

    def __init__(self, layer):
        super().__init__()
        self.layer, self.places = layer, isinstance(layer, nn.Embedding)

    def forward(self, x):
        n = x.shape[1]
        shared = torch.arange(n)[None] if self.places else torch.linspace(0, 1, 6 * n).view(1, n, 6)
        return x + self.layer(shared)


class Pair(nn.Module):
    """Takes and gives tuples, as attention with rotary embeddings does."""

    def __init__(self):
        super().__init__()
        self.gain = nn.Parameter(torch.rand(6))

    def forward(self, x, waves):
        return x * self.gain * waves[0], waves[1]


class Rotary(nn.Module):
    def __init__(self):
        super().__init__()
        self.pair = Pair()

    def forward(self, x):
        y, wave = self.pair(x, (x.cos(), x.sin()))
        return y + wave


class Flattened(nn.Module):
    def __init__(self):
        super().__init__()
        self.norm = nn.LayerNorm(6)

    def forward(self, x):
        return self.norm(x.reshape(-1, 6)).view(x.shape)


HARD = {
    "padding index": (lambda: nn.Embedding(11, 6, padding_idx=3), ids),
    "one module at two places": (Twice, vectors(6)),
    "shared input, linear": (lambda: SharedInput(nn.Linear(6, 6)), vectors(3, 6)),
    "shared input, mapped": (lambda: SharedInput(Subclass(11, 6)), vectors(3, 6)),
    "tuples": (Rotary, vectors(3, 6)),
    "flattened tokens": (Flattened, vectors(3, 6)),
}


@pytest.mark.parametrize("name", sorted(HARD))
def test_hard_cases(name):
    assert_equal_to_a_module_per_client(*HARD[name], 3, 2)


@pytest.mark.parametrize("length", [3, 5])
def test_an_input_without_rows_is_refused(length):
    """Positions ``[s]`` in a batch of k x rows = 6: nothing says whose they are."""

    class Bare(nn.Module):
        def __init__(self):
            super().__init__()
            self.places = nn.Embedding(6, 6)

        def forward(self, x):
            return x + self.places(torch.arange(x.shape[1]))

    stack, _ = stacked(Bare, 3)
    stack.rows = 2
    with pytest.raises(Refused):
        stack.model(torch.zeros(6, length, 6))


@pytest.mark.parametrize("what", ["distance", "finite"])
def test_scalar_parameters(what):
    """A trained temperature is a leaf of shape (); stacked it is ``[K]``."""
    if what == "distance":
        a, b = ({"t": torch.tensor(values)} for values in ([1.0, 2.0], [1.0, 5.0]))
        assert tree.sqdist(a, b).tolist() == [0.0, 9.0]
    else:
        assert finite(torch.zeros(2), {"u": {"t": torch.tensor([1.0, torch.nan])}}).tolist() == [True, False]


def test_which_twin():
    for make, kind in ((lambda: nn.Linear(2, 2), ClientLinear), (lambda: nn.Embedding(3, 2), ClientEmbedding),
                       (lambda: nn.Conv1d(2, 2, 1), ClientConv), (lambda: nn.Conv2d(2, 2, 1), ClientConv),
                       (lambda: nn.Conv2d(2, 2, 3, padding=1, padding_mode="circular"), Vmapped),
                       (lambda: nn.LayerNorm(2), Vmapped),
                       (lambda: nn.Embedding(3, 2, max_norm=1.0), Vmapped)):  # fmt: skip
        assert type(stacked(make, 2)[0].model) is kind


def test_fewer_clients_than_slots_leave_the_others_alone():
    stack, _ = stacked(lambda: nn.Linear(3, 2), 3)
    before = stack.full["weight"].clone()
    stack.bind(2)
    stack.model(torch.ones(4, 3)).sum().backward()
    assert stack.params["weight"].grad.shape == (2, 2, 3)
    with torch.no_grad():
        stack.params["weight"].add_(1.0)
    assert torch.equal(stack.full["weight"], before + torch.tensor([1.0, 1.0, 0.0])[:, None, None])


def test_only_chosen_leaves_get_gradients():
    stack, _ = stacked(lambda: nn.Linear(3, 2), 2)
    stack.train_only({"bias"})
    stack.bind(2)
    assert {name: value.requires_grad for name, value in stack.params.items()} == {"weight": False, "bias": True}


def test_batch_norm_in_training_is_refused_by_name():
    model = nn.Sequential(nn.Linear(3, 3), nn.Sequential(nn.BatchNorm1d(3)))
    with pytest.raises(Refused, match=r"1\.0 \(BatchNorm1d\) in training mode"):
        Stack(model, {"w": "0.weight"}, 2)


def test_mixture_of_experts_loss_is_refused():
    model = nn.Linear(3, 3)
    model.config = type("Config", (), {"router_aux_loss_coef": 0.01, "output_router_logits": True})()
    with pytest.raises(Refused, match="mixture-of-experts"):
        Stack(model, {"weight": "weight"}, 2)
    model.config.output_router_logits = False
    Stack(model, {"weight": "weight"}, 2)


def test_frozen_neighbours_keep_their_rows_apart():
    """A frozen layer between two twins sees all rows at once and changes nothing about who is who."""
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(4, 4), nn.Tanh(), nn.Linear(4, 2))
    plain = copy.deepcopy(model)
    stack = Stack(model, {"a": "0.weight"}, 2)
    stack.full["a"].copy_(torch.randn(2, 4, 4))
    stack.bind(2)
    stack.rows = 3
    x = torch.randn(6, 4)
    out = stack.model(x)
    for slot in range(2):
        with torch.no_grad():
            plain[0].weight.copy_(stack.full["a"][slot])
        torch.testing.assert_close(out[3 * slot : 3 * slot + 3], plain(x[3 * slot : 3 * slot + 3]))
