"""Names of plug-ins, and users' own classes without registration."""

import dataclasses
import sys

import pytest

from fedwave.core import config, registry
from fedwave.core.errors import BadInput
from fedwave.methods.fedavg import FedAvg

OWN = """
from dataclasses import dataclass
from fedwave.methods.fedavg import FedAvg

@dataclass(frozen=True)
class Mine(FedAvg):
    '''My own.'''
    strength: float = 2.0

class Bare(FedAvg):
    pass

number = 3
"""


@pytest.fixture
def own(tmp_path, monkeypatch):
    """A user's module in the current folder, under a name that no other test uses."""
    name = f"own_{tmp_path.name.replace('-', '_')}"
    (tmp_path / f"{name}.py").write_text(OWN)
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "path", list(sys.path))
    yield name
    sys.modules.pop(name, None)


def test_built_in_names():
    assert {"fedavg", "fedprox", "scaffold"} <= set(registry.names("method"))
    assert registry.lookup("method", "fedavg") is FedAvg
    assert registry.names("method") == sorted(registry.names("method"))
    assert registry.name_of(FedAvg()) == "fedavg"


def test_unknown_name_says_the_nearest():
    with pytest.raises(BadInput, match=r"unknown method 'fedprix'; did you mean 'fedprox'\? \(known: .*fedavg"):
        registry.lookup("method", "fedprix")
    with pytest.raises(BadInput, match="name of a method must be a string, got 3"):
        registry.lookup("method", 3)  # type: ignore[arg-type]


def test_own_class_from_the_current_folder(own):
    method = config.build("method", {"name": f"{own}:Mine", "strength": 3, "local_steps": 2})
    assert (method.strength, method.local_steps) == (3.0, 2)
    # It is written under the name that finds it again, not under its parent's.
    table = config.dump({"method": method})["method"]
    assert registry.name_of(method) == f"{own}:Mine"
    assert config.build("method", {"name": registry.name_of(method), **table}) == method
    with pytest.raises(BadInput, match=r"strenght: unknown key 'strenght'; did you mean 'strength'\?"):
        config.build("method", {"name": f"{own}:Mine", "strenght": 3})


@pytest.mark.parametrize(
    ("what", "message"),
    [
        (":Nothing", "cannot be imported: AttributeError"),
        (":number", "must be a frozen dataclass"),
        ("x:Mine", "cannot be imported: ModuleNotFoundError"),
        (":", "cannot be imported"),
    ],
)
def test_own_class_that_is_none(own, what, message):
    with pytest.raises(BadInput, match=message) as caught:
        registry.lookup("method", own + what)
    assert "\n" not in str(caught.value)


def test_own_class_of_another_kind(own):
    with pytest.raises(BadInput, match=r"must be a subclass of fedwave\.tasks\.task\.Task"):
        registry.lookup("task", f"{own}:Mine")


@pytest.mark.parametrize("text", ["def broken(:\n", "1 / 0\n", "raise SystemError('no')\n"])
def test_own_module_that_fails_on_import(tmp_path, monkeypatch, text):
    (tmp_path / "failing_module.py").write_text(text)
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "path", list(sys.path))
    with pytest.raises(BadInput, match=r"'failing_module:Mine' cannot be imported: (Syntax|ZeroDivision|System)Error"):
        registry.lookup("method", "failing_module:Mine")


def test_registered_classes_are_frozen_and_forbid_unknown_keys():
    for kind in registry._HOMES:
        for name in registry.names(kind):
            cls = registry.lookup(kind, name)
            assert dataclasses.is_dataclass(cls), (kind, name)
            assert cls.__dataclass_params__.frozen, (kind, name)
            assert vars(cls)["registered_name"] == name
            assert (cls.__doc__ or "").strip() and not cls.__doc__.startswith(cls.__name__ + "("), (kind, name)
