"""Changes that are proposed do what is said of them, and are as few as can be."""

import contextlib

import pytest

from fedwave.core.errors import FedwaveError
from fedwave.experiment import Experiment, override
from fedwave.planner import Yardsticks, nearest, plan
from fedwave.planner.ideas import Idea, ideas_for

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
        again = plan(Experiment.parse(changed), yardsticks=yardsticks)
        assert (again.verdict, again.binding, again.round_s) == ("suitable", proposal.binding, proposal.round_s)


def test_one_change_where_one_is_enough_and_no_further_than_needed():
    """Of 8, 4 and 2 bits, of ranks 4, 2 and 1, and of 64, 32 and 16 tokens, the mildest that does."""
    experiment, _, proposals = proposed(job() | {"federation": {"deadline_s": 60.0}})
    assert proposals[0].overrides == ('transform=[{name="quantize", bits=8}]',)
    assert all(len(one.overrides) == 1 for one in proposals)
    keys = [one.overrides[0].partition("=")[0] for one in proposals]
    assert len(set(keys)) == len(keys) == 3
    for proposal in proposals:
        for milder in _milder(experiment, proposal.overrides[0]):
            changed = experiment.to_table()
            override(changed, milder)
            assert plan(Experiment.parse(changed), rounds=3).verdict != "suitable"


def _milder(experiment, text):
    """What the search knows before ``text`` of the same idea."""
    (steps,) = [i.steps for i in ideas_for(experiment, experiment.to_table()) if (text,) in i.steps]
    return [step[0] for step in steps[: steps.index((text,))]]


def test_no_two_changes_where_one_suffices():
    """Too little memory and a deadline that phones miss: each proposal needs all of its parts."""
    task = job()["task"] | {"model": "llama-3.2-3b", "dtype": "bfloat16"}
    experiment, found, proposals = proposed(job() | {"task": task, "federation": {"deadline_s": 30.0}})
    assert found.verdict == "unsuitable" and any(len(one.overrides) == 2 for one in proposals)
    for proposal in (one for one in proposals if len(one.overrides) == 2):
        for left_out in proposal.overrides:
            changed = experiment.to_table()
            for text in proposal.overrides:
                if text != left_out:
                    override(changed, text)
            assert plan(Experiment.parse(changed), rounds=3).verdict != "suitable"


def test_the_search_tells_how_far_it_is():
    experiment = Experiment.parse(job() | {"federation": {"deadline_s": 60.0}})
    told = []
    nearest(experiment, plan(experiment, rounds=3), Yardsticks(), progress=lambda *now: told.append(now))
    assert [done for done, _ in told] == list(range(1, len(told) + 1)) and told[-1][0] <= told[-1][1]


def test_larger_devices_where_memory_is_too_small():
    task = job()["task"] | {"model": "llama-3.1-8b", "dtype": "bfloat16"}
    _, found, proposals = proposed(job() | {"task": task, "fleet": {"mix": {"phone-mid": 1.0}}})
    assert (found.verdict, found.binding) == ("unsuitable", "memory")
    assert proposals and all(any(text.startswith("fleet.mix=") for text in one.overrides) for one in proposals)


def test_nothing_helps():
    """671 billion parameters in any device of the catalogue: what comes nearer is not called suitable."""
    task = job()["task"] | {"model": "deepseek-v3", "adapter": {"name": "lora", "targets": ["o_proj"]}}
    _, found, proposals = proposed(job() | {"task": task})
    assert found.verdict == "unsuitable"
    assert all(one.verdict != "suitable" for one in proposals)


def test_every_idea_is_an_override():
    """Of the job as it is, each step either is a job or is refused in a sentence; and no idea gets milder."""
    experiment = Experiment.parse(job())
    ideas = list(ideas_for(experiment, experiment.to_table()))
    steps = [step for idea in ideas for step in idea.steps]
    assert len(steps) > 20
    jobs = 0
    for step in steps:
        changed = experiment.to_table()
        for text in step:
            override(changed, text)
        with contextlib.suppress(FedwaveError):
            jobs += bool(Experiment.parse(changed).setting())
    assert jobs > 0.8 * len(steps)
    ranks = next(idea.steps for idea in ideas if "rank" in idea.steps[0][0])
    assert ranks == (("task.adapter.rank=4",), ("task.adapter.rank=2",), ("task.adapter.rank=1",))


@pytest.mark.parametrize("seed", [0, 1])
def test_what_is_proposed_is_better_than_the_job(seed):
    """Cells in which a drop says little of the next: the first rounds of one seed promise what others do not keep."""
    table = {
        "rounds": 30,
        "seed": seed,
        "task": {"name": "images", "model": "mlp", "partition": {"name": "iid", "clients": 10}},
        "method": {"name": "fedavg", "local_steps": 4},
        "sampler": {"name": "uniform", "cohort": 5},
        "network": {"name": "cell", "scenario": "UMa", "radius_m": 1500.0},
    }
    experiment = Experiment.parse(table)
    found = plan(experiment)
    assert found.verdict != "suitable"
    rank = {"unsuitable": 0, "conditional": 1, "suitable": 2}
    for one in nearest(experiment, found, Yardsticks()):
        changed = experiment.to_table()
        for text in one.overrides:
            override(changed, text)
        again = plan(Experiment.parse(changed))
        assert again.verdict == one.verdict
        assert (rank[again.verdict], again.delivered_share) >= (rank[found.verdict], found.delivered_share)


def test_ideas_that_set_the_same_key_are_not_combined():
    one, two, three = (Idea(((text,),), frozenset()) for text in ("task.adapter=lora", "task.adapter.rank=2", "a=1"))
    assert one.clashes(two) and two.clashes(one) and one.clashes(one) and not one.clashes(three)
    assert not Idea((("task.adapter.rank=2",),), frozenset()).clashes(Idea((("task.adapter.ranks=1",),), frozenset()))
