"""The catalogue of shapes against the parameter counts of its sources."""

from __future__ import annotations

import typing

import pytest

from fedwave.core.catalogues import Basis
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
        # as the hub counts the published weights
        ("bert-base-uncased", 109_482_240),
        ("bge-small-en-v1.5", 33_360_000),
        ("bert-large-uncased", 335_141_888),
        ("bert-base-multilingual-cased", 177_853_440),
        ("roberta-base", 124_645_632),
        ("roberta-large", 355_359_744),
        ("distilroberta-base", 82_118_400),
        ("xlm-roberta-base", 278_043_648),
        ("xlm-roberta-large", 559_890_432),
        ("distilbert-base-uncased", 66_362_880),
        ("vit-base-patch16-224-in21k", 86_389_248),
        ("vit-huge-patch14-224-in21k", 632_404_480),
        ("dinov2-small", 22_056_576),
        ("dinov2-base", 86_580_480),
        ("dinov2-large", 304_368_640),
        ("gpt2-medium", 354_823_168),
        ("gpt2-large", 774_030_080),
        ("gpt2-xl", 1_557_611_200),
        ("tinyllama-1.1b", 1_100_048_384),
        ("smollm2-360m", 361_821_120),
        ("smollm2-1.7b", 1_711_376_384),
        ("phi-2", 2_779_683_840),
        ("phi-3-medium-4k-instruct", 13_960_238_080),
        ("gemma-2b", 2_506_172_416),
        ("gemma-7b", 8_537_680_896),
        ("gemma-2-2b", 2_614_341_888),
        ("gemma-2-9b", 9_241_705_984),
        ("gemma-2-27b", 27_227_128_320),
        ("qwen2.5-0.5b", 494_032_768),
        ("qwen2.5-7b", 7_615_616_512),
        ("qwen3-0.6b", 596_049_920),
        ("qwen3-8b", 8_190_735_360),
        ("mistral-7b-v0.1", 7_241_732_096),
        ("mistral-nemo-base-2407", 12_247_782_400),
        ("mistral-small-24b-base-2501", 23_572_403_200),
        ("mistral-large-instruct-2407", 122_610_069_504),
        ("mixtral-8x7b-v0.1", 46_702_792_704),
        ("mixtral-8x22b-v0.1", 140_620_634_112),
        ("codellama-34b", 33_743_970_304),
        ("llama-2-13b", 13_015_864_320),
        ("llama-2-70b", 68_976_648_192),
        ("llama-3.1-70b", 70_553_706_496),
        ("llama-3.1-405b", 405_853_388_800),
    ],
)
def test_exact_counts(name: str, parameters: int) -> None:
    entry = catalogue.lookup(name)
    assert entry is not None
    assert parameter_count(architecture(entry.config)) == parameters


def test_it_spans_sizes_and_kinds() -> None:
    entries = [entry for name in catalogue.names() if (entry := catalogue.lookup(name))]
    assert len(entries) >= 80
    assert min(e.parameters_m for e in entries) < 25 and max(e.parameters_m for e in entries) > 670_000
    kinds = [entry.kind for entry in entries]
    least = {"decoder": 45, "decoder, experts": 5, "text encoder": 9, "image encoder": 6}
    assert {kind: kinds.count(kind) >= count for kind, count in least.items()} == dict.fromkeys(least, True)


def test_every_number_of_an_entry_has_a_source() -> None:
    for name in catalogue.names():
        entry = catalogue.lookup(name)
        assert entry is not None
        numbers = entry.numbers()
        assert {"parameters_m", "active_m"} < set(numbers)
        assert all(len(n.source) > 10 and n.basis in typing.get_args(Basis) for n in numbers.values())


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
