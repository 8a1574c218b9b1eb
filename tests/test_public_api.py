"""The public surface: every name resolves and is documented, and there is nothing else."""

import inspect
import types

import pytest

import fedwave


@pytest.mark.parametrize("name", sorted(fedwave.__all__))
def test_names_resolve_and_are_documented(name):
    value = getattr(fedwave, name)
    text = inspect.getdoc(value) or ""
    assert text.strip()
    assert not text.startswith(f"{name}("), "a dataclass without a docstring of its own"


def test_nothing_else_is_public():
    assert sorted(dir(fedwave)) == sorted(fedwave.__all__)
    own = {n for n, v in vars(fedwave).items() if not n.startswith("_") and not isinstance(v, types.ModuleType)}
    assert own - set(fedwave.__all__) <= {"annotations", "TYPE_CHECKING", "Any"}
    assert set(fedwave._HOMES) == set(fedwave.__all__)


def test_unknown_names():
    with pytest.raises(AttributeError, match="module 'fedwave' has no attribute 'nope'"):
        fedwave.nope  # noqa: B018
    assert not hasattr(fedwave, "numpy")


def test_modules_do_not_hide_functions():
    """Importing submodules must not replace a public function of the same name."""
    import fedwave.planner
    import fedwave.simulation

    assert callable(fedwave.plan)
    assert callable(fedwave.run)
    assert callable(fedwave.stream)
