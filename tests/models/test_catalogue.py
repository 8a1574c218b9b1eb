"""The catalogue of shapes against the parameter counts of its sources."""

from __future__ import annotations

import pytest

from fedwave.models import catalogue
from fedwave.models.shapes import architecture, parameter_count


@pytest.mark.parametrize("name", catalogue.names())
def test_the_shape_has_as_many_parameters_as_its_source_says(name: str) -> None:
    entry = catalogue.lookup(name)
    assert entry is not None
    arch = architecture(entry.config)
    assert parameter_count(arch) == pytest.approx(entry.parameters_m * 1e6, rel=5e-3)
    # DeepSeek's own "37 B" is a rounded figure that leaves the embedding out
    tolerance = 0.02 if name == "deepseek-v3" else 5e-3
    assert arch.active_parameters == pytest.approx(entry.active_m * 1e6, rel=tolerance)
    assert entry.source
    assert name == name.lower()


@pytest.mark.parametrize(
    ("name", "parameters"),
    [
        # exact counts that the model cards print
        ("pythia-70m", 70_426_624),
        ("pythia-1.4b", 1_414_647_808),
        ("llama-2-7b", 6_738_415_616),
        ("llama-3.2-3b", 3_212_749_824),
        ("llama-3.1-8b", 8_030_261_248),
        ("smollm2-135m", 134_515_008),
        ("gpt2", 124_439_808),
    ],
)
def test_exact_counts(name: str, parameters: int) -> None:
    entry = catalogue.lookup(name)
    assert entry is not None
    assert parameter_count(architecture(entry.config)) == parameters


def test_a_model_answers_to_name_alias_and_hub_id_in_any_case() -> None:
    for name in ("minilm", "all-MiniLM-L6-v2", "sentence-transformers/all-MiniLM-L6-v2"):
        assert catalogue.canonical(name) == "minilm"
    assert catalogue.canonical("meta-llama/Llama-3.2-3B") == "llama-3.2-3b"
    assert catalogue.lookup("no-such-model") is None
    assert catalogue.canonical("Some/Model") == "Some/Model"


def test_names_are_not_ambiguous() -> None:
    entries = [entry for name in catalogue.names() if (entry := catalogue.lookup(name))]
    spoken = [n for e in entries for n in {e.name, *e.aliases, *([e.hub.lower()] if e.hub else [])}]
    assert len(spoken) == len(set(spoken))
