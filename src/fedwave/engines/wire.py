"""Messages and client memory as bytes (safetensors), as they cross a process or a real network."""

from __future__ import annotations

from fedwave.core.tree import Tree
from fedwave.core.types import Message


def message_to_bytes(message: Message) -> bytes:
    """A message; its ``own`` parts, where it has any, are those of the one client that it is for, ``[1, ...]``."""
    from safetensors.torch import save

    flat = {f"shared|{part}|{leaf}": x for part, leaves in message.shared.items() for leaf, x in leaves.items()}
    flat |= {f"own|{part}|{leaf}": x for part, leaves in (message.own or {}).items() for leaf, x in leaves.items()}
    for number, change in enumerate(message.base):
        for module, factors in change.items():
            flat |= {f"base|{number:06d}|{module}|{name}": x for name, x in zip("AB", factors, strict=True)}
    return save({name: x.detach().contiguous().clone() for name, x in flat.items()})


def message_from_bytes(data: bytes) -> Message:
    """The inverse of :func:`message_to_bytes`."""
    from safetensors.torch import load

    message = Message(shared={})
    changes: dict[str, dict[str, Tree]] = {}
    for name, value in load(data).items():
        kind, *path = name.split("|")
        if kind == "shared":
            message.shared.setdefault(path[0], {})[path[1]] = value
        elif kind == "own":
            message.own = message.own or {}
            message.own.setdefault(path[0], {})[path[1]] = value
        else:
            changes.setdefault(path[0], {}).setdefault(path[1], {})[path[2]] = value
    for number in sorted(changes):
        message.base.append({module: (f["A"], f["B"]) for module, f in changes[number].items()})
    return message


def tree_to_bytes(tree: Tree) -> bytes:
    """A flat tree of tensors."""
    from safetensors.torch import save

    return save({name: x.detach().contiguous().clone() for name, x in tree.items()})


def tree_from_bytes(data: bytes) -> Tree:
    """The inverse of :func:`tree_to_bytes`."""
    from safetensors.torch import load

    return dict(load(data))
