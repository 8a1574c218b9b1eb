"""Ask the suitability map of the whole catalogue, and write what it says to ``docs/suitability.md``, with a figure."""

import sys
import tomllib
from collections import Counter
from pathlib import Path

import numpy as np

from fedwave.experiment import Experiment
from fedwave.planner.constraints import Yardsticks
from fedwave.planner.map import Map, axes_of, suitability
from fedwave.planner.map.grid import VERDICTS
from fedwave.planner.map.page import write_page
from fedwave.planner.map.write import IMPOSSIBLE, SUITABLE, bound, shares, totals
from fedwave.results.format import si

ROOT = Path(__file__).resolve().parent.parent
JOB = ROOT / "scripts" / "suitability.toml"
PAGE, FIGURE = ROOT / "docs" / "suitability.md", ROOT / "docs" / "img" / "suitability.svg"
INTERACTIVE = ROOT / "docs" / "_static" / "suitability-map.html"
COLOURS = {"unsuitable": "#e08a66", "conditional": "#f0d25a", "suitable": "#7fbfe8", "impossible": "#e4e7eb"}
PANELS = ("full", "lora", "lora-last4", "fedkseed")
SEEDED, SEEDS = ("full", "lora", "lora-4bit"), 5
HEAD = """# To what extent do foundation models suit federated learning over wireless networks?

{models} models of the catalogue, {methods} ways of fine-tuning, {networks} networks and {devices} classes of device:
{cells:,} combinations, of which {jobs:,} are jobs (some adapters do not fit some models). Each is judged by the rules
of `fedwave plan`, on one map of all of them, `fedwave plan --map`, which approximates single plans
({{doc}}`howto/plan` says how well). `scripts/suitability` makes this page; every number on it comes from that map.

## The job

Rows of {tokens} tokens, batches of {batch}, {steps} local steps; {cohort} of {clients} clients a round, all with the
same class of device; {rounds} rounds, which have to be over within {days:g} days; at most {battery:.0%} of a battery a
round.

```toml
{toml}```

## Findings

{findings}

Shares of full fine-tuning over macro cells depend on where the clients happen to stand; how much, is said below.

## How much is suitable

Share of models x devices that are suitable, by method and network:

{table}

```{{figure}} img/suitability.svg
:alt: Verdicts of every model of the catalogue on every network with four methods, on a flagship phone

Verdicts on a flagship phone (`phone`), models from the smallest to the largest: blue suitable, yellow conditional, red
unsuitable, grey no such job.
```

<a href="_static/suitability-map.html">The whole map as an interactive page</a> ({size:.1f} MB): any two axes as rows
and columns, the numbers of each cell, and the command that plans it.

## How much places decide

All the above is of one drop of clients over each network (`seed = 0`). With {seeds} seeds the shares of models x
devices that are suitable lie between:

{spread}

## What this rests on

{assumptions}
- Sources of the catalogue's numbers: `fedwave list models`, `devices` and `networks`, with `--json`. Some are marked
  *assumed* there, among them how much of its peak a device reaches in training, and how much of its memory it may use.
- The base model is on the devices when the first round begins; over cells a single plan says what its delivery
  takes.
- "Suitable" says that the work fits, ends in time and is heard. It says nothing of how good the model becomes.
"""


class Findings:
    """Sentences over numbers of the map."""

    def __init__(self, found: Map) -> None:
        self.map, self.axes = found, found.axes
        self.jobs = found.verdict != IMPOSSIBLE
        self.good = found.verdict == SUITABLE
        self.method = {one.name: index for index, one in enumerate(found.axes.methods)}
        self.network = {name: index for index, name in enumerate(found.axes.networks)}
        self.device = {name: index for index, name in enumerate(found.axes.devices)}

    def share(self, *, method: str | None = None, network: str | None = None, device: str | None = None) -> float:
        """Of suitable cells among those that are jobs."""
        at = (slice(None), *(slice(None) if name is None else index[name]
              for name, index in ((method, self.method), (network, self.network), (device, self.device))))  # fmt: skip
        return float(self.good[at].sum() / self.jobs[at].sum())

    def largest(self, method: str, network: str, device: str) -> str:
        """The largest suitable model, with its parameters."""
        fits = np.flatnonzero(self.good[:, self.method[method], self.network[network], self.device[device]])
        if not fits.size:
            return "none"
        size = np.nanmax(self.map.model_parameters[fits], axis=1)
        best = int(fits[np.argmax(size)])
        return f"{self.axes.models[best]} ({si(float(size.max()), '').strip()})"

    def sentences(self) -> list[str]:
        """The findings, in order."""
        return [
            self._overall(), self._binds(), self._sizes(), self._adapters(), self._networks(), self._narrow(),
            self._energy(), self._layers(), self._zeroth(), self._balance(),
        ]  # fmt: skip

    def _overall(self) -> str:
        counts = totals(self.map)
        jobs = sum(counts.values()) - counts["impossible"]
        part = {name: counts[name] / jobs for name in VERDICTS[:3]}
        return (
            f"Of {jobs:,} jobs, {part['suitable']:.1%} are suitable, {part['conditional']:.1%} conditional and "
            f"{part['unsuitable']:.1%} unsuitable."
        )

    def _binds(self) -> str:
        return f"Where a job is not suitable, this binds: {in_shares(bound(self.map))}."

    def _sizes(self) -> str:
        devices = ("phone-mid", "phone", "laptop", "jetson-agx-orin", "rtx-4090", "nvidia-h100")
        parts = [f"`{name}` {self.largest('lora', '5g-umi', name)}" for name in devices]
        return (
            f"The largest suitable model with LoRA of rank 8 over a city's 5G cells (`5g-umi`), by device: "
            f"{', '.join(parts)}."
        )

    def _adapters(self) -> str:
        full, lora = ([self.share(method=name, network=network) for network in (None, "lte", "fixed")]
                      for name in ("full", "lora"))  # fmt: skip
        return (
            f"Full fine-tuning suits {full[0]:.0%} of all models, networks and devices, LoRA {lora[0]:.0%}; over LTE "
            f"it is {full[1]:.0%} against {lora[1]:.0%}, over an ideal wired link {full[2]:.0%} against {lora[2]:.0%}."
        )

    def _networks(self) -> str:
        changes, wide = self._decided(()), self._decided(("nb-iot",))
        return (
            f"The network decides about {changes['full']:.0%} of the pairs of model and device under full fine-tuning "
            f"and about {changes['lora']:.0%} under LoRA, that is, their verdicts differ between networks; without "
            f"NB-IoT it is {wide['full']:.0%} and {wide['lora']:.1%}. The rest fares alike on every network."
        )

    def _decided(self, without: tuple[str, ...]) -> dict[str, float]:
        """By method, the share of models x devices whose verdicts differ between networks."""
        keep = [index for name, index in self.network.items() if name not in without]
        found = {}
        for name, r in self.method.items():
            verdicts = np.moveaxis(self.map.verdict[:, r][:, keep], 1, -1)[self.jobs[:, r].all(1)]
            found[name] = float(np.mean((verdicts != verdicts[:, :1]).any(1)))
        return found

    def _narrow(self) -> str:
        names = ("full", "lora", "lora-8bit", "lora-4bit", "ffa-lora", "fedkseed")
        parts = [f"`{name}` {self.share(method=name, network='nb-iot'):.0%}" for name in names]
        return (
            f"Over NB-IoT these shares are suitable: {', '.join(parts)}; with nothing sent at all (`local`) it is "
            f"{self.share(method='local', network='nb-iot'):.0%}."
        )

    def _energy(self) -> str:
        phones = [self.device[name] for name in ("phone-mid", "phone", "phone-2025")]
        r = self.method["lora"]
        verdict, code = self.map.verdict[:, r][..., phones], self.map.binding[:, r][..., phones]
        missed = (verdict != SUITABLE) & (verdict != IMPOSSIBLE)
        counted = dict(Counter(self.map.bounds[one] for one in code[missed]).most_common())
        energy = self.map.energy_j[:, r, self.network["5g-umi"], self.device["phone"]]
        model = self.axes.models.index("llama-3.2-1b")
        fate = VERDICTS[self.map.verdict[model, r, self.network["5g-umi"], self.device["phone"]]]
        return (
            f"On phones {missed.sum() / (verdict != IMPOSSIBLE).sum():.0%} of the jobs with LoRA are not suitable; "
            f"what binds there: {in_shares(counted)}. A round of llama-3.2-1b over `5g-umi` asks "
            f"{si(float(energy[model]), 'J')} of the battery of `phone` (the verdict is {fate})."
        )

    def _layers(self) -> str:
        both, places = self._memory("lora-last4", "lora"), ("5g-umi", "phone")
        return (
            f"LoRA in the last four layers alone needs {both:.0%} of the memory of LoRA in all (median over models). "
            f"The largest suitable model on `phone` over `5g-umi`: {self.largest('lora-last4', *places)} in the last "
            f"four layers, {self.largest('lora', *places)} in all."
        )

    def _zeroth(self) -> str:
        sent = float(np.nanmedian(self.map.uplink_bits[:, self.method["fedkseed"]]))
        share, narrow = (self.share(method="fedkseed", network=network) for network in (None, "nb-iot"))
        lora, full = (self._memory("fedkseed", name) for name in ("lora", "full"))
        return (
            f"FedKSeed sends {sent / 8e3:.0f} kB (median over models); it suits {share:.0%} of all models, networks "
            f"and devices ({narrow:.0%} over NB-IoT). It trains all weights in float32; its memory is {lora:.2f} times "
            f"that of LoRA on bfloat16 weights and {full:.2f} times that of full fine-tuning (medians over models)."
        )

    def _balance(self) -> str:
        parts = []
        for name in ("fixed", "wifi-6", "5g-umi", "5g-uma", "lte", "nb-iot"):
            at = (slice(None), self.method["lora"], self.network[name], self.device["phone"])
            there = self.jobs[at]
            spent = self.map.path_s[(slice(None), *at)][:, there]
            parts.append(f"{float(np.median(spent[1] / spent.sum(0))):.0%} over `{name}`")
        return f"With LoRA on `phone`, computing takes this share of a round (median over models): {', '.join(parts)}."

    def _memory(self, one: str, other: str) -> float:
        """Median over models of the ratio of the peaks."""
        peak = self.map.peak_memory_bytes
        return float(np.nanmedian(peak[:, self.method[one]] / peak[:, self.method[other]]))


def in_shares(counts: dict[str, int]) -> str:
    """What there is most of first, down to half a percent; ``others`` are the rest."""
    whole = sum(counts.values())
    shown = {name: count for name, count in counts.items() if count >= 0.005 * whole}
    if rest := whole - sum(shown.values()):
        shown["others"] = rest
    return ", ".join(f"{name} {count / whole:.1%}" for name, count in shown.items()) or "nothing"


def draw(found: Map) -> None:
    """Models x networks on a phone, a panel per method."""
    import matplotlib

    matplotlib.use("agg")
    from matplotlib.colors import ListedColormap
    from matplotlib.figure import Figure

    names = found.axes
    with matplotlib.rc_context({"svg.hashsalt": "fedwave", "font.size": 6, "axes.linewidth": 0.4}):
        figure = Figure(figsize=(8.4, 10.6), layout="constrained")
        panels = figure.subplots(1, len(PANELS), sharey=True)
        colours = ListedColormap([COLOURS[name] for name in VERDICTS])
        for panel, method in zip(panels, PANELS, strict=True):
            r = [one.name for one in names.methods].index(method)
            verdict = found.verdict[:, r, :, names.devices.index("phone")]
            panel.imshow(verdict, cmap=colours, vmin=0, vmax=3, aspect="auto", interpolation="nearest")
            panel.set_xticks(np.arange(len(names.networks) - 1) + 0.5, minor=True)
            panel.set_yticks(np.arange(len(names.models) - 1) + 0.5, minor=True)
            panel.grid(which="minor", color="white", linewidth=0.4)
            panel.set_title(method, fontsize=8)
            panel.set_xticks(np.arange(len(names.networks)), names.networks, rotation=90)
            panel.set_yticks(np.arange(len(names.models)), names.models)
            panel.tick_params(which="both", length=0)
        figure.savefig(FIGURE, metadata={"Date": None})


def markdown(table: list[dict[str, str]], first: str) -> str:
    """A table of texts."""
    head = list(table[0])
    rows = [[first, *head[1:]], ["---"] * len(head), *([str(row[name]) for name in head] for row in table)]
    return "\n".join(f"| {' | '.join(row)} |" for row in rows)


def spread(found: Map, others: list[Map]) -> str:
    """Least and most over seeds, a table of networks and some methods."""
    every = [Findings(one) for one in (found, *others)]
    table = []
    for name in found.axes.networks:
        row = {"network": name}
        for method in SEEDED:
            values = [one.share(method=method, network=name) for one in every]
            least, most = f"{min(values):.0%}", f"{max(values):.0%}"
            row[method] = least if least == most else f"{least} to {most}"
        table.append(row)
    return markdown(table, "network")


def page(found: Map, others: list[Map], size: float) -> str:
    """The page's text."""
    yardsticks, counts = Yardsticks(), totals(found)
    text, job = JOB.read_text(encoding="utf-8"), tomllib.loads(JOB.read_text(encoding="utf-8"))
    sentences = Findings(found).sentences()
    return HEAD.format(
        models=len(found.axes.models), methods=len(found.axes.methods), networks=len(found.axes.networks),
        devices=len(found.axes.devices), cells=found.verdict.size, jobs=found.verdict.size - counts["impossible"],
        tokens=job["task"]["max_tokens"], batch=job["task"]["batch_size"], steps=job["method"]["local_steps"],
        cohort=job["sampler"]["cohort"], clients=job["task"]["partition"]["clients"], rounds=job["rounds"],
        days=yardsticks.days, battery=yardsticks.battery_share, toml=text, table=markdown(shares(found), "method"),
        findings="\n".join(f"{number}. {sentence}" for number, sentence in enumerate(sentences, 1)),
        size=size, seeds=1 + len(others), spread=spread(found, others),
        assumptions="\n".join(f"- {one[0].upper()}{one[1:]}." for one in found.assumptions),
    )  # fmt: skip


def main() -> None:
    """The map, the figure, both pages."""
    job = Experiment.load(JOB)
    found = suitability(job, axes_of(job.to_table()))
    axes = axes_of(job.to_table(), methods=",".join(SEEDED))
    others = [suitability(Experiment.load(JOB, [f"seed={seed}"]), axes) for seed in range(1, SEEDS)]
    write_page(found, INTERACTIVE, job="suitability.toml")
    draw(found)
    PAGE.write_text(page(found, others, INTERACTIVE.stat().st_size / 1e6), encoding="utf-8")
    for path in (PAGE, FIGURE, INTERACTIVE):
        print(path.relative_to(ROOT), file=sys.stderr)


if __name__ == "__main__":
    main()
