"""Client stacking by leaf swap: modules that own trainable parameters give way to twins with ``[K, ...]`` parameters.

The rest of an ordinary Hugging Face, PEFT or torch model is untouched: rows of all clients pass through it together,
``[K * b, ...]`` in client order, and only the twins know which rows belong to whom.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.utils import parametrize

from fedwave.core.errors import Refused
from fedwave.engines.stacked.twins import Vmapped, attribute, fast

_PROMPTS = ("PROMPT_TUNING", "P_TUNING")
_LORA_OF_ITS_OWN = ("MultiheadAttention", "ParamWrapper")  # PEFT's LoRA layers that read their factors' weights


class Stack:
    """The stacked parameters of one model: ``[slots, ...]`` each, of which the first ``k`` are bound to the twins.

    With one slot there are no twins: the model itself computes with that slot's values. A ``reversible`` stack keeps
    what it took out of the model, so that :meth:`restore` can put it back.
    """

    def __init__(self, model: nn.Module, leaf_paths: dict[str, str], slots: int, *, reversible: bool = False) -> None:
        _refuse_coupling(model)
        parameters = dict(model.named_parameters())
        self.slots, self.k = slots, 0
        self.rows = 1  # rows per client in the forward pass at hand, set by whoever runs it
        self.names = list(leaf_paths)
        self.full: dict[str, Tensor] = {}
        self.params: dict[str, Tensor] = {}
        for name, path in leaf_paths.items():
            value = parameters[path].detach()
            self.full[name] = value.new_empty((slots, *value.shape), dtype=torch.float32)
        self._leaf_of = {id(parameters[path]): name for name, path in leaf_paths.items()}
        self._holders: list[tuple[nn.Module, dict[str, str]]] = []
        self._reversible, self._undo = reversible, list[Callable[[], None]]()
        self.trains: set[str] = set(self.names)
        self.model = model
        if slots == 1:
            self._hold_in_place()
        else:
            self._spread_prompts()
            self.model = self._swap(model, {})

    def bind(self, k: int) -> None:
        """Give the twins views of the first ``k`` slots; gradients are then ``[k, ...]``, updates land in ``full``."""
        if k == self.k:
            return
        self.params = {
            name: value[:k].detach().requires_grad_(name in self.trains) for name, value in self.full.items()
        }
        self.lend(self.params, k)

    def lend(self, params: dict[str, Tensor], k: int) -> None:
        """Let the model compute with ``params [k, ...]``; ``self.params`` stay what they are."""
        self.k = k
        for holder, leaves in self._holders:
            values = {name: params[leaf] if self.slots > 1 else params[leaf][0] for name, leaf in leaves.items()}
            if type(holder).__setattr__ is nn.Module.__setattr__:
                vars(holder).update(values)  # what it comes to, without its search for parameters of that name
            else:
                for name, value in values.items():
                    setattr(holder, name, value)

    def spread(self, x: Tensor, layer: str) -> Tensor:
        """``x`` with the rows of all clients first: ``[1, ...]`` is shared by all rows. Raises :class:`Refused`."""
        if torch.compiler.is_compiling() and x.shape[0] > 1:
            return x  # what is looked at below would become a constant of the compiled code
        rows = self.k * self.rows
        if self.k == 1:
            return x  # everything is this client's
        if x.shape[0] == 1:
            return x.expand(rows, *x.shape[1:])
        if x.shape[0] % rows:
            raise Refused(
                f"{layer} that is trained gets an input of shape {tuple(x.shape)} in a batch of {rows} rows: "
                "it does not say which rows are whose, so clients cannot be stacked; set engine.max_clients = 1"
            )
        return x

    def train_only(self, names: set[str]) -> None:
        """Let gradients flow into ``names`` alone."""
        if names != self.trains:
            self.trains, self.k = set(names), 0

    def restore(self) -> None:
        """Put the model's own modules and parameters back in place; the stack is of no more use."""
        for undo in reversed(self._undo):
            undo()

    # ---- building --------------------------------------------------------------------------------------------------

    def _hold_in_place(self) -> None:
        """Let every module that owns leaves have plain tensors in their place, which :meth:`bind` sets."""
        for module in self.model.modules():
            owned = self._direct(module)
            if owned:
                self._on_restore(partial(_give_back, module, dict(module._parameters)))
                for name in owned:
                    del module._parameters[name]
                self._holders.append((module, owned))

    def _swap(self, module: nn.Module, seen: dict[int, nn.Module]) -> nn.Module:
        """The twin of ``module``, or ``module`` with twins in it; what stands at several places is ``seen`` once."""
        if id(module) not in seen:
            seen[id(module)] = module
            inner = {n: self._leaf_of[id(p)] for n, p in module.named_parameters() if id(p) in self._leaf_of}
            if inner and (self._direct(module) or self._is_whole(module)):
                seen[id(module)] = self._twin(module, inner)
            elif inner:
                for name, child in list(module._modules.items()):
                    if child is not None and (twin := self._swap(child, seen)) is not child:
                        setattr(module, name, twin)
                        self._on_restore(partial(setattr, module, name, child))
        return seen[id(module)]

    def _on_restore(self, undo: Callable[[], None]) -> None:
        if self._reversible:
            self._undo.append(undo)

    def _twin(self, module: nn.Module, inner: dict[str, str]) -> nn.Module:
        make = fast(module)
        if make is not None and set(inner) == {name for name, _ in module.named_parameters()}:
            twin, held = make(module, self), inner
        else:
            twin, held = Vmapped(module, self, list(inner)), {attribute(name): leaf for name, leaf in inner.items()}
        self._holders.append((twin, held))
        return twin

    def _direct(self, module: nn.Module) -> dict[str, str]:
        """Leaves that are the module's own parameters: attribute -> leaf."""
        own = module.named_parameters(recurse=False, remove_duplicate=False)
        return {name: self._leaf_of[id(p)] for name, p in own if id(p) in self._leaf_of}

    def _is_whole(self, module: nn.Module) -> bool:
        """Whether ``module`` reads leaves of its children itself, so that the children alone cannot have twins."""
        if parametrize.is_parametrized(module) or isinstance(module, nn.MultiheadAttention):
            return True
        if any(self._direct(holder) for holder in _holders_below(module)):
            return True
        layers = getattr(module, "adapter_layer_names", ())  # what PEFT calls the parameters of an adapted layer
        if not layers or "modules_to_save" in layers:
            return False
        plain = "lora_A" in layers and not getattr(module, "lora_variant", None)
        return not plain or type(module).__name__ in _LORA_OF_ITS_OWN

    def _spread_prompts(self) -> None:
        """PEFT makes one virtual prompt and repeats it for all rows; here each row gets its client's."""
        model: Any = self.model
        if hasattr(model, "prompt_encoder") and model.active_peft_config.peft_type in _PROMPTS:

            def prompts(batch_size: int, **_: Any) -> Tensor:
                tokens = model.prompt_tokens[model.active_adapter].to(model.device)
                return model.prompt_encoder[model.active_adapter](tokens[None].expand(batch_size, -1))

            model.get_prompt = prompts
            self._on_restore(partial(delattr, model, "get_prompt"))


def _holders_below(module: nn.Module) -> Iterator[nn.Module]:
    """Descendants without a forward of their own (dictionaries and lists of parameters) that ``module`` must read."""
    for child in module.children():
        if type(child).forward is nn.Module.forward:
            yield child
            yield from _holders_below(child)


def _give_back(module: nn.Module, parameters: dict[str, nn.Parameter | None]) -> None:
    """Make ``parameters`` the module's own again, in their order."""
    module._parameters.clear()
    for name, value in parameters.items():
        vars(module).pop(name, None)
        module._parameters[name] = value
        if isinstance(module, nn.RNNBase):
            setattr(module, name, value)  # it keeps a list of its weights, too


def _refuse_coupling(model: nn.Module) -> None:
    """Raise :class:`Refused` for layers through which one client's rows would change another's result."""
    for path, module in model.named_modules():
        if isinstance(module, nn.modules.batchnorm._BatchNorm) and module.training:
            raise Refused(
                f"{path} ({type(module).__name__}) in training mode mixes the rows of different clients; "
                "use GroupNorm or LayerNorm, or freeze it in eval mode"
            )
    config = getattr(model, "config", None)
    if getattr(config, "router_aux_loss_coef", 0) and getattr(config, "output_router_logits", False):
        raise Refused(
            "the model's mixture-of-experts auxiliary loss mixes the rows of different clients; "
            "set output_router_logits = false in its config"
        )
