"""Changes that are proposed do what is said of them, and are as few as can be."""

import pytest

from fedwave.experiment import Experiment, override
from fedwave.planner import Yardsticks, nearest, plan
from fedwave.planner.changes import _clash, _ideas

from .test_plan import job


def proposed(table, yardsticks=Yardsticks()):  # noqa: B008
    experiment = Experiment.parse(table)
    found = plan(experiment, rounds=3, yardsticks=yardsticks)
    return experiment, found, nearest(experiment, found, yardsticks)


@pytest.mark.parametrize(
    ("changes", "binding"),
    [({"federation": {"deadline_s": 20.0}}, "deadline"), ({"fleet": {"mix": {"phone-mid": 1.0}}}, None)],
)
def test_what_is_called_suitable_is(changes, binding):
    table = job() | changes
    yardsticks = Yardsticks() if binding else Yardsticks(battery_share=1e-4)
    experiment, found, proposals = proposed(table, yardsticks)
    assert found.verdict != "suitable" and binding in (None, found.binding)
    assert 1 <= len(proposals) <= 3
    for proposal in proposals:
        assert proposal.verdict == "suitable" and proposal.margin >= 1.0
        changed = experiment.to_table()
        for text in proposal.overrides:
            override(changed, text)
        again = plan(Experiment.parse(changed), rounds=3, yardsticks=yardsticks)
        assert (again.verdict, again.binding, again.round_s) == ("suitable", proposal.binding, proposal.round_s)


def test_one_change_where_one_is_enough():
    _, _, proposals = proposed(job() | {"federation": {"deadline_s": 60.0}})
    assert [one.overrides for one in proposals][:2] == [
        ('transform=[{name="quantize", bits=8}]',), ('transform=[{name="quantize", bits=4}]',)
    ]  # fmt: skip


def test_larger_devices_where_memory_is_too_small():
    task = job()["task"] | {"model": "llama-3.1-8b", "dtype": "bfloat16"}
    _, found, proposals = proposed(job() | {"task": task, "fleet": {"mix": {"phone-mid": 1.0}}})
    assert (found.verdict, found.binding) == ("unsuitable", "memory")
    assert all(any(text.startswith("fleet.mix=") for text in one.overrides) for one in proposals)


def test_nothing_helps():
    """671 billion parameters in any device of the catalogue: what comes nearer is not called suitable."""
    task = job()["task"] | {"model": "deepseek-v3", "adapter": {"name": "lora", "targets": ["o_proj"]}}
    _, found, proposals = proposed(job() | {"task": task})
    assert found.verdict == "unsuitable"
    assert all(one.verdict != "suitable" for one in proposals)


def test_every_idea_is_an_override():
    """Of the job as it is, each idea either is a job or is refused in a sentence; and no two set the same key."""
    experiment = Experiment.parse(job())
    ideas = list(_ideas(experiment))
    assert len(ideas) > 20
    for idea in ideas:
        override(experiment.to_table(), idea.overrides[0])
    assert _clash(("method.name=fedkseed", "method.name=ffa_lora")) and _clash(
        ("task.adapter=lora", "task.adapter.rank=2")
    )
    assert not _clash(("task.adapter.rank=2", "task.adapter.last_layers=1"))
