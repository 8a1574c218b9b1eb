"""Every kind of PEFT adapter: clients trained together equal ordinary PEFT models trained one after another.

Data are ragged (unequal lengths, last batches of what is left) and clients make unequal numbers of steps.
"""

import sys
import warnings
from functools import cache
from pathlib import Path

import peft
import pytest
import torch
import torch.nn.functional as F
from hypothesis import given, settings
from hypothesis import strategies as st
from transformers import GPT2Config, GPT2LMHeadModel, LlamaConfig, LlamaForCausalLM

from fedwave.core import config
from fedwave.engines.stacked.stacking import Stack
from fedwave.engines.stacked.twins import ClientEmbedding, ClientLinear, Vmapped

sys.path.insert(0, str(Path(__file__).parents[1]))
from references.plain import train_peft_model

VOCABULARY = 29
OPTIMIZERS = {
    "sgd": ({"name": "sgd", "lr": 0.05, "momentum": 0.9}, lambda p: torch.optim.SGD(p, lr=0.05, momentum=0.9)),
    "adamw": ({"name": "adamw", "lr": 1e-3, "weight_decay": 0.01},
              lambda p: torch.optim.AdamW(p, lr=1e-3, weight_decay=0.01)),
}  # fmt: skip


def llama():
    return LlamaForCausalLM(LlamaConfig(
        vocab_size=VOCABULARY, hidden_size=16, intermediate_size=24, num_hidden_layers=2, num_attention_heads=4,
        num_key_value_heads=2, max_position_embeddings=64, initializer_range=0.3, tie_word_embeddings=False,
    ))  # fmt: skip


def gpt2():
    return GPT2LMHeadModel(GPT2Config(
        vocab_size=VOCABULARY, n_positions=64, n_embd=16, n_layer=2, n_head=4, initializer_range=0.3,
    ))  # fmt: skip


QV = ["q_proj", "v_proj"]
TASK = {"task_type": "CAUSAL_LM"}
LORA = {"r": 4, "lora_alpha": 8, "lora_dropout": 0.0, **TASK}
KINDS = {
    "lora": (llama, lambda: peft.LoraConfig(**LORA, target_modules=[*QV, "gate_proj"])),
    "lora on Conv1D": (gpt2, lambda: peft.LoraConfig(**LORA, target_modules=["c_attn", "c_fc"], fan_in_fan_out=True)),
    "lora with bias": (gpt2, lambda: peft.LoraConfig(**LORA, target_modules=["c_attn"], bias="lora_only",
                                                     fan_in_fan_out=True)),
    "lora on an embedding": (llama, lambda: peft.LoraConfig(**LORA, target_modules=["embed_tokens", "q_proj"])),
    "lora, norms saved": (llama, lambda: peft.LoraConfig(**LORA, target_modules=QV, modules_to_save=["norm"])),
    "lora, layer norms saved": (gpt2, lambda: peft.LoraConfig(**LORA, target_modules=["c_attn"], fan_in_fan_out=True,
                                                              modules_to_save=["ln_1", "ln_f"])),
    "lora, head saved": (llama, lambda: peft.LoraConfig(**LORA, target_modules=QV, modules_to_save=["lm_head"])),
    "lora, ranks by layer": (llama, lambda: peft.LoraConfig(**LORA, target_modules=QV, rank_pattern={"v_proj": 2})),
    "lora, new tokens": (llama, lambda: peft.LoraConfig(**LORA, target_modules=QV, trainable_token_indices=[3, 7])),
    "dora": (llama, lambda: peft.LoraConfig(**LORA, target_modules=QV, use_dora=True)),
    "dora on Conv1D": (gpt2, lambda: peft.LoraConfig(**LORA, target_modules=["c_attn"], use_dora=True,
                                                     fan_in_fan_out=True)),
    "dora on an embedding": (llama, lambda: peft.LoraConfig(**LORA, target_modules=["embed_tokens"], use_dora=True)),
    "ia3": (llama, lambda: peft.IA3Config(**TASK, target_modules=[*QV, "down_proj"],
                                          feedforward_modules=["down_proj"])),
    "ia3 on Conv1D": (gpt2, lambda: peft.IA3Config(**TASK, target_modules=["c_attn", "mlp.c_proj"],
                                                   feedforward_modules=["mlp.c_proj"], fan_in_fan_out=True)),
    "prompt": (llama, lambda: peft.PromptTuningConfig(**TASK, num_virtual_tokens=3)),
    "prefix": (gpt2, lambda: peft.PrefixTuningConfig(**TASK, num_virtual_tokens=3)),
    "prefix, grouped heads": (llama, lambda: peft.PrefixTuningConfig(**TASK, num_virtual_tokens=3)),
    "prefix, projected": (gpt2, lambda: peft.PrefixTuningConfig(**TASK, num_virtual_tokens=3, encoder_hidden_size=8,
                                                                prefix_projection=True)),
    "p-tuning": (llama, lambda: peft.PromptEncoderConfig(**TASK, num_virtual_tokens=3, encoder_hidden_size=8)),
    "p-tuning, recurrent": (llama, lambda: peft.PromptEncoderConfig(
        **TASK, num_virtual_tokens=3, encoder_hidden_size=8, encoder_dropout=0.0,
        encoder_reparameterization_type="LSTM")),
    "ln tuning": (gpt2, lambda: peft.LNTuningConfig(**TASK, target_modules=["ln_1", "ln_2"])),
    "adalora": (llama, lambda: peft.AdaLoraConfig(**TASK, init_r=4, target_r=2, total_step=100, target_modules=QV,
                                                orth_reg_weight=1e-12)),
    "loha": (llama, lambda: peft.LoHaConfig(**TASK, r=2, alpha=4, target_modules=QV)),
    "lokr": (llama, lambda: peft.LoKrConfig(**TASK, r=2, alpha=4, target_modules=QV)),
    "vera": (llama, lambda: peft.VeraConfig(**TASK, r=4, target_modules=["q_proj"])),
    "oft": (llama, lambda: peft.OFTConfig(**TASK, oft_block_size=4, target_modules=["q_proj"])),
}  # fmt: skip


@cache
def model_of(kind):
    """The PEFT model of a kind, in eval mode, its trainable parameters moved away from zero."""
    make, config = KINDS[kind]
    with torch.random.fork_rng(devices=[]), warnings.catch_warnings():
        warnings.simplefilter("ignore")  # PEFT warns of the layer types that it tunes directly
        torch.manual_seed(3)
        model = peft.get_peft_model(make(), config()).eval()
        for parameter in model.parameters():
            if parameter.requires_grad:
                parameter.data.add_(0.1 * torch.randn_like(parameter))
    return model


def batches_of(sizes, steps, batch_size, seed=0):
    """For each client its batches: token rows of 3 to 8 tokens; the last batch of an epoch holds what is left."""
    generator = torch.Generator().manual_seed(seed)
    clients = []
    for held, count in zip(sizes, steps, strict=True):
        rows = [torch.randint(0, VOCABULARY, (int(n),), generator=generator)
                for n in torch.randint(3, 9, (held,), generator=generator)]  # fmt: skip
        epoch = [rows[at : at + batch_size] for at in range(0, held, batch_size)]
        clients.append([epoch[step % len(epoch)] for step in range(count)])
    return clients


def padded(rows):
    """Keyword arguments of a causal language model's forward; padding is neither seen nor learned."""
    length = max(len(row) for row in rows)
    ids = torch.stack([F.pad(row, (0, length - len(row))) for row in rows])
    mask = torch.stack([torch.arange(length) < len(row) for row in rows]).long()
    return {"input_ids": ids, "attention_mask": mask, "labels": ids.masked_fill(mask == 0, -100)}


def losses(model, batches, batch_size):
    """Mean loss of each client, whose rows are filled up to ``batch_size`` with rows that have no labels."""
    filled = [batch + [torch.zeros(1, dtype=torch.long)] * (batch_size - len(batch)) for batch in batches]
    batch = padded([row for rows in filled for row in rows])
    labels = batch.pop("labels")
    for client, rows in enumerate(batches):
        labels[client * batch_size + len(rows) : (client + 1) * batch_size] = -100
    logits = model(**batch).logits
    if logits.shape[1] == labels.shape[1]:  # else virtual tokens come first, from which the first one is learned too
        labels = labels[:, 1:]
    logits = logits[:, -labels.shape[1] - 1 : -1]
    loss = F.cross_entropy(logits.transpose(1, 2), labels, ignore_index=-100, reduction="none")
    k = len(batches)
    return loss.view(k, -1).sum(1) / (labels != -100).view(k, -1).sum(1)


def train_together(model, initial, clients, optimizer, batch_size, slots):
    """Leaves of every client after training in groups of ``slots``, the clients of most steps first."""
    stack = Stack(model, {name: name for name in initial}, slots, reversible=True)
    stack.rows = batch_size
    found = {}
    order = sorted(range(len(clients)), key=lambda client: -len(clients[client]))
    try:
        for at in range(0, len(order), slots):
            group = order[at : at + slots]
            for name, value in initial.items():
                stack.full[name][: len(group)] = value[group] if value.shape[0] == len(clients) else value
            state = optimizer.init({name: value[: len(group)] for name, value in stack.full.items()})
            for step in range(len(clients[group[0]])):
                k = sum(len(clients[client]) > step for client in group)
                stack.bind(k)
                loss = losses(stack.model, [clients[client][step] for client in group[:k]], batch_size)
                grads = dict(zip(stack.params, torch.autograd.grad(loss.sum(), [*stack.params.values()]), strict=True))
                views = {slot: {name: value[:k] for name, value in leaves.items()} for slot, leaves in state.items()}
                with torch.no_grad():
                    optimizer.update(stack.params, grads, views, step + 1)
            for slot, client in enumerate(group):
                found[client] = {name: value[slot].clone() for name, value in stack.full.items()}
    finally:
        stack.restore()
    return found


def trained(model):
    return {name: value.detach().clone() for name, value in model.named_parameters() if value.requires_grad}


def largest_difference(a, b):
    return max(float((a[name] - b[name]).abs().max()) for name in b)


def assert_together_equals_alone(model, clients, optimizer, batch_size, slots):
    """Every client starts at its own point."""
    generator = torch.Generator().manual_seed(5)
    own = [
        {name: value + 0.05 * torch.randn(value.shape, generator=generator) for name, value in trained(model).items()}
        for _ in clients
    ]
    start = {name: torch.stack([values[name] for values in own]) for name in own[0]}
    table, make = OPTIMIZERS[optimizer]
    together = train_together(model, start, clients, config.build("optimizer", table), batch_size, slots)
    moved = 0.0
    for client, rows in enumerate(clients):
        alone = train_peft_model(model, own[client], [padded(batch) for batch in rows], make)
        assert largest_difference(together[client], alone) < 1e-5
        moved = max(moved, largest_difference(own[client], alone))
    assert moved > 1e-4


@pytest.mark.parametrize("slots", [1, 3])
@pytest.mark.parametrize("kind", sorted(KINDS))
def test_together_equals_alone(kind, slots):
    clients = batches_of([5, 4, 7, 2, 3], [5, 3, 4, 2, 4], 4)
    assert_together_equals_alone(model_of(kind), clients, "sgd", 4, slots)


@pytest.mark.parametrize("kind", ["lora", "lora, norms saved", "dora", "ia3", "prompt", "prefix"])
def test_together_equals_alone_with_adamw(kind):
    clients = batches_of([5, 4, 7, 2, 3], [5, 3, 4, 2, 4], 4)
    assert_together_equals_alone(model_of(kind), clients, "adamw", 4, 5)


@settings(max_examples=25, deadline=None)
@given(
    kind=st.sampled_from(["lora", "lora on an embedding", "lora, head saved", "dora", "ia3", "prompt", "prefix"]),
    cohort=st.lists(st.tuples(st.integers(1, 5), st.integers(1, 3)), min_size=1, max_size=5),
    slots=st.integers(1, 5),
    batch_size=st.integers(1, 3),
    seed=st.integers(0, 99),
)
def test_any_cohort(kind, cohort, slots, batch_size, seed):
    clients = batches_of([held for held, _ in cohort], [steps for _, steps in cohort], batch_size, seed)
    assert_together_equals_alone(model_of(kind), clients, "sgd", batch_size, slots)


@pytest.mark.parametrize("optimizer", sorted(OPTIMIZERS))
@pytest.mark.parametrize("dora", [False, True])
def test_mixed_ranks_are_exact(dora, optimizer):
    """Factors padded with zeros train as PEFT adapters of each client's own rank do; the padding stays zero."""
    ranks, scale, most = [4, 1, 2], 2.0, 4

    def adapted(rank):
        torch.manual_seed(3)
        how = {**LORA, "r": rank, "lora_alpha": scale * rank}
        return peft.get_peft_model(llama(), peft.LoraConfig(**how, target_modules=QV, use_dora=dora)).eval()

    with torch.random.fork_rng(devices=[]):
        models = {rank: adapted(rank) for rank in ranks}
        own = [{name: value + 0.1 * torch.randn(value.shape) for name, value in trained(models[rank]).items()}
               for rank in ranks]  # fmt: skip
    axis = {name: {"lora_A": 0, "lora_B": 1}.get(name.split(".")[-3]) for name in own[0]}

    def pad(name, value):
        short = 0 if axis[name] is None else most - value.shape[axis[name]]
        return F.pad(value, (0, 0, 0, short) if axis[name] == 0 else (0, short)) if short else value

    start = {name: torch.stack([pad(name, values[name]) for values in own]) for name in own[0]}
    clients = batches_of([5, 4, 3], [4, 3, 2], 2)
    table, make = OPTIMIZERS[optimizer]
    together = train_together(models[most], start, clients, config.build("optimizer", table), 2, 3)
    for client, rank in enumerate(ranks):
        alone = train_peft_model(models[rank], own[client], [padded(batch) for batch in clients[client]], make)
        assert largest_difference(together[client], {name: pad(name, value) for name, value in alone.items()}) < 1e-5


def twins_in(kind):
    """Types of the twins that hold the leaves of a kind."""
    model = model_of(kind)
    stack = Stack(model, {name: name for name in trained(model)}, 2, reversible=True)
    found = {type(module) for module in stack.model.modules() if type(module).__module__ == Vmapped.__module__}
    stack.restore()
    return found


def test_plain_factors_have_fast_twins():
    assert twins_in("lora") == twins_in("lora on Conv1D") == twins_in("lora, head saved") == {ClientLinear}
    assert twins_in("lora, norms saved") == {ClientLinear, Vmapped}
    assert twins_in("dora") == twins_in("ia3") == twins_in("lora on an embedding") - {ClientLinear} == {Vmapped}
    assert twins_in("prompt") == twins_in("prefix") == {ClientEmbedding}


@pytest.mark.parametrize("slots", [1, 2])
@pytest.mark.parametrize("kind", ["lora", "dora", "ia3", "prompt", "p-tuning, recurrent"])
def test_a_restored_model_is_what_it_was(kind, slots):
    model, batch = model_of(kind), padded([torch.arange(5), torch.arange(3)])
    names, before = list(dict(model.named_parameters())), model(**batch).logits
    stack = Stack(model, {name: name for name in trained(model)}, slots, reversible=True)
    stack.bind(1)
    stack.restore()
    assert list(dict(model.named_parameters())) == names
    assert torch.equal(model(**batch).logits, before)
