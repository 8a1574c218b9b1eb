"""Client batching on a GPU: random-weight Llamas in bfloat16, LoRA r 8 on q and v, a JSON line per cell.

Three arms on the same batches, AdamW, a few local steps per client: ``sequential`` (one resident model, fused
optimiser), ``graph`` (the same, one training step recorded as a CUDA graph and replayed, so that launch overhead is not
what is compared) and ``fedwave`` (the stacked session). Times are CUDA events, medians of interleaved runs;
``share_of_peak`` is the matrix-product work as ``FlopCounterMode`` counts it over a bfloat16 product's rate between the
same runs. A cell that an arm cannot run says why. The largest shape comes last, and each line is flushed.

    python benchmarks/engine_gpu.py [--shapes 135m 1b 7b] [--clients 2 8 32 128] [--batches 1 4 16] [--tokens 64 256]

``--shapes tiny --device cpu`` runs the script's logic on a processor; what it prints there says nothing about a GPU.
"""

from __future__ import annotations

import argparse
import itertools
import json
import statistics
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import torch
from engine_arms import Sequential, Stacked, job, optimizer_of, texts
from torch.utils.flop_counter import FlopCounterMode

from fedwave.experiment import Experiment
from fedwave.federation.setting import prepare
from fedwave.testing import tiny_llama

STEPS, MOST_TOKENS = 4, 32_768
SHAPES: dict[str, dict[str, int]] = {
    "tiny": {"hidden_size": 64, "intermediate_size": 176, "num_hidden_layers": 2, "num_attention_heads": 4,
             "num_key_value_heads": 2, "vocab_size": 512},
    "135m": {"hidden_size": 576, "intermediate_size": 1536, "num_hidden_layers": 30, "num_attention_heads": 9,
             "num_key_value_heads": 3, "vocab_size": 49_152},
    "1b": {"hidden_size": 2048, "intermediate_size": 5632, "num_hidden_layers": 22, "num_attention_heads": 32,
           "num_key_value_heads": 4, "vocab_size": 32_000},
    "7b": {"hidden_size": 4096, "intermediate_size": 11_008, "num_hidden_layers": 32, "num_attention_heads": 32,
           "num_key_value_heads": 32, "vocab_size": 32_000},
}  # fmt: skip


def write_model(folder: Path, shape: dict[str, int], device: str) -> Path:
    """Random bfloat16 weights, drawn on the device, with the tiny model's byte tokenizer."""
    from transformers import LlamaConfig, LlamaForCausalLM

    tiny_llama(folder, chat=False)
    (folder / "model.safetensors").unlink()
    config = LlamaConfig(**shape, max_position_embeddings=2048, tie_word_embeddings=True, pad_token_id=0)
    torch.set_default_dtype(torch.bfloat16)
    try:
        with torch.device(device):
            model = LlamaForCausalLM(config)
    finally:
        torch.set_default_dtype(torch.float32)
    model.save_pretrained(folder)
    return folder


class Clock:
    """Milliseconds of a call: CUDA events, or the wall clock on a processor."""

    def __init__(self, device: str) -> None:
        self.cuda = device == "cuda"

    def __call__(self, call: Callable[[], Any]) -> float:
        if not self.cuda:
            started = time.perf_counter()
            call()
            return 1e3 * (time.perf_counter() - started)
        start, end = (torch.cuda.Event(enable_timing=True) for _ in range(2))
        torch.cuda.synchronize()
        start.record()
        call()
        end.record()
        torch.cuda.synchronize()
        return start.elapsed_time(end)


class Plain(Sequential):
    """Sequential under bfloat16 autocast, as the weights ask for."""

    def loss(self, batch: dict[str, torch.Tensor]) -> torch.Tensor:
        with torch.autocast(self.learner.device.type, dtype=torch.bfloat16):
            return super().loss(batch)


class Graph(Plain):
    """A training step recorded once and replayed; every batch has the recorded shape."""

    def __init__(self, *args: Any) -> None:
        super().__init__(*args)
        self.at = {name: value.clone() for name, value in self.batches[0][0].items()}
        parameters = list(self.live.values())
        self.optimizer = optimizer_of(self.setting.method.local_optimizer, parameters)
        for group in self.optimizer.param_groups:
            group["capturable"] = True
        side = torch.cuda.Stream()
        side.wait_stream(torch.cuda.current_stream())
        with torch.cuda.stream(side):
            for _ in range(3):
                self.step()
        torch.cuda.current_stream().wait_stream(side)
        self.graph = torch.cuda.CUDAGraph()
        self.optimizer.zero_grad(set_to_none=True)
        with torch.cuda.graph(self.graph):
            self.step()

    def step(self) -> None:
        self.optimizer.zero_grad(set_to_none=True)
        self.loss(self.at).backward()
        self.optimizer.step()

    def run(self) -> float:
        """One round; its losses stay on the device."""
        update = {leaf: torch.zeros_like(value) for leaf, value in self.shared.items()}
        for batches, weight in zip(self.batches, self.weight.tolist(), strict=True):
            with torch.no_grad():
                for leaf, parameter in self.live.items():
                    parameter.copy_(self.shared[leaf])
                for state in self.optimizer.state.values():
                    for value in state.values():
                        value.zero_()
            for batch in batches:
                for name, value in batch.items():
                    self.at[name].copy_(value)
                self.graph.replay()
            with torch.no_grad():
                for leaf, parameter in self.live.items():
                    update[leaf].add_(parameter - self.shared[leaf], alpha=weight)
        return float("nan")


def gemm_ms(clock: Clock, device: str) -> float:
    """Milliseconds of a TFLOP of bfloat16 matrix products."""
    n = 8192 if device == "cuda" else 1024
    a, b = (torch.randn(n, n, device=device, dtype=torch.bfloat16) for _ in range(2))
    return clock(lambda: torch.mm(a, b)) * 1e12 / (2.0 * n**3)


def tried(make: Callable[[], Any]) -> Any:
    """What ``make`` gives, or why it gives nothing."""
    try:
        return make()
    except (RuntimeError, torch.OutOfMemoryError) as error:  # a cell too large must not end the others
        return f"{type(error).__name__}: {str(error).splitlines()[0][:200]}"


def cell(model: Path, device: str, clients: int, batch: int, tokens: int, repeats: int, engine: dict) -> dict:
    """Medians of all arms at one size."""
    task = {
        "name": "causal-lm", "model": str(model), "dtype": "bfloat16", "batch_size": batch, "max_tokens": tokens,
        "adapter": {"name": "lora", "rank": 8, "alpha": 16, "targets": ["q_proj", "v_proj"]}, "chunk": False,
        **texts(model, f"rows{clients}-{batch}-{tokens}", np.full(clients * batch, 2 * tokens), unit=4),
    }  # fmt: skip
    table = job(task, clients=clients, engine={"token_budget": MOST_TOKENS, **engine}, local_steps=STEPS)
    experiment = Experiment.parse(table)
    experiment.task.prepare(None)
    setting = experiment.setting()
    turn = prepare(setting, setting.world())
    learner = experiment.task.build(experiment.seed)
    learner.model.to(device)
    made: dict[str, Any] = {"sequential": tried(lambda: Plain(setting, learner, turn.cohort))}
    if device == "cuda":
        made["graph"] = tried(lambda: Graph(setting, learner, turn.cohort))
    made["fedwave"] = tried(lambda: Stacked(experiment, setting, turn))
    return measured(made, device, repeats) | {"steps": STEPS}


def measured(made: dict[str, Any], device: str, repeats: int) -> dict:
    """Interleaved milliseconds of the arms that can run, their ratios, and what of the machine's rate they reach."""
    clock, found, peak = Clock(device), {}, []
    row: dict[str, Any] = {name: arm for name, arm in made.items() if isinstance(arm, str)}
    for name, arm in made.items():
        why = None if name in row else tried(arm.run)  # warms up
        if isinstance(why, str):
            row[name] = why
        elif why is not None:
            found[name] = []
    with FlopCounterMode(display=False) as counter:
        if "sequential" in found:
            made["sequential"].run()
    for repeat in range(repeats):
        peak.append(gemm_ms(clock, device))
        for name in list(found)[:: -1 if repeat % 2 else 1]:
            found[name].append(clock(made[name].run))
    medians = {name: statistics.median(times) for name, times in found.items()}
    best = statistics.median(peak) * counter.get_total_flops() / 1e12
    for name, median in medians.items():
        row[name] = {"ms": round(median, 3), "range": [round(min(found[name]), 3), round(max(found[name]), 3)],
                     "share_of_peak": round(best / median, 4)}  # fmt: skip
        if name != "fedwave" and "fedwave" in medians:
            row[name]["fedwave_is_faster"] = round(median / medians["fedwave"], 3)
    if device == "cuda":
        row["peak_gib"] = round(torch.cuda.max_memory_allocated() / 2**30, 2)
    return row


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--shapes", nargs="+", choices=list(SHAPES), default=["135m", "1b", "7b"])
    parser.add_argument("--clients", type=int, nargs="+", default=[2, 8, 32, 128])
    parser.add_argument("--batches", type=int, nargs="+", default=[1, 4, 16])
    parser.add_argument("--tokens", type=int, nargs="+", default=[64, 256])
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument("--device", choices=["cuda", "cpu"], default="cuda")
    parser.add_argument("--engine", type=json.loads, default={})
    args = parser.parse_args()
    if args.device == "cuda" and not torch.cuda.is_available():
        parser.exit(0, "no CUDA device: nothing was measured\n")
    name = torch.cuda.get_device_name() if args.device == "cuda" else "cpu"
    for shape in args.shapes:
        with tempfile.TemporaryDirectory() as folder:
            model = write_model(Path(folder) / shape, SHAPES[shape], args.device)
            for clients, batch, tokens in itertools.product(args.clients, args.batches, args.tokens):
                if clients * batch * tokens > MOST_TOKENS:
                    continue
                row = {"benchmark": "engine_gpu", "device": name, "torch": torch.__version__, "shape": shape,
                       "clients": clients, "batch": batch, "tokens": tokens}  # fmt: skip
                result = tried(lambda: cell(model, args.device, clients, batch, tokens, args.repeats, args.engine))  # noqa: B023
                row |= {"failed": result} if isinstance(result, str) else result
                print(json.dumps(row | {"repeats": args.repeats}), flush=True)
                if args.device == "cuda":
                    torch.cuda.empty_cache()
                    torch.cuda.reset_peak_memory_stats()


if __name__ == "__main__":
    main()
