"""What stacked training must equal: each client alone, an ordinary model and optimiser. No engine code."""

import copy

import torch


def train_alone(learner, model, batches, make_optimizer, *, frozen=()):
    """Parameters by leaf of one client after ``batches`` (lists of row indices), from the learner's initial values."""
    model = copy.deepcopy(model)
    named = dict(model.named_parameters())
    parameters = {leaf: named[path] for leaf, path in learner.leaf_paths.items()}
    with torch.no_grad():
        for leaf, parameter in parameters.items():
            parameter.copy_(learner.initial[leaf])
            parameter.requires_grad_(leaf not in frozen)
    optimizer = make_optimizer([p for leaf, p in parameters.items() if leaf not in frozen])
    kept, learner.model = learner.model, model
    try:
        for rows in batches:
            optimizer.zero_grad()
            loss, weight = learner.row_losses(learner.batch(rows))
            (loss.sum() / weight.sum()).backward()
            optimizer.step()
    finally:
        learner.model = kept
    return {leaf: parameter.detach().clone() for leaf, parameter in parameters.items()}


def train_peft(folder, targets, rank, alpha, initial, token_batches, make_optimizer):
    """The same with ``peft.get_peft_model`` and Hugging Face's ``labels=`` loss; rows are ``(input_ids, labels)``."""
    from peft import LoraConfig, get_peft_model
    from transformers import AutoModelForCausalLM

    model = AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32)
    model = get_peft_model(model, LoraConfig(r=rank, lora_alpha=alpha, target_modules=targets, lora_dropout=0.0))
    named = {
        name.removeprefix("base_model.model.").replace(".default", ""): parameter
        for name, parameter in model.named_parameters()
        if parameter.requires_grad
    }
    assert set(named) == set(initial)
    with torch.no_grad():
        for leaf, parameter in named.items():
            parameter.copy_(initial[leaf])
    optimizer = make_optimizer(list(named.values()))
    model.eval()
    for ids, labels in token_batches:
        optimizer.zero_grad()
        model(input_ids=ids, labels=labels).loss.backward()
        optimizer.step()
    return {leaf: parameter.detach().clone() for leaf, parameter in named.items()}


def train_peft_model(model, initial, batches, make_optimizer):
    """An ordinary PEFT ``model`` (untouched: a copy is trained) with Hugging Face's own ``labels=`` loss.

    ``initial`` and the result go by the names of its parameters; a batch is keyword arguments of its forward.
    """
    model = copy.deepcopy(model).eval()
    named = {name: parameter for name, parameter in model.named_parameters() if parameter.requires_grad}
    assert set(named) == set(initial)
    with torch.no_grad():
        for name, parameter in named.items():
            parameter.copy_(initial[name])
    optimizer = make_optimizer(list(named.values()))
    for batch in batches:
        optimizer.zero_grad()
        model(**batch).loss.backward()
        optimizer.step()
    return {name: parameter.detach().clone() for name, parameter in named.items()}
