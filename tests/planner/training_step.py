"""Two real training steps of a plain Hugging Face model, in a process of its own: how far its memory rose, as JSON.

Nothing of fedwave is in here: eager attention, float32, AdamW, PEFT's LoRA or all weights, rows of full length.
"""

import gc
import json
import sys
from pathlib import Path

import torch
import transformers as hf


def resident(key: str) -> int:
    """Bytes of this process: ``VmRSS`` now, ``VmHWM`` at most since the mark was reset."""
    lines = Path("/proc/self/status").read_text().splitlines()
    return next(int(line.split()[1]) * 1024 for line in lines if line.startswith(key))


def main(case: dict) -> dict:
    torch.set_num_threads(1)
    torch.manual_seed(0)
    warm = torch.nn.Linear(64, 64)  # what torch allocates for itself
    warm(torch.ones(4, 64)).sum().backward()
    torch.optim.AdamW(warm.parameters()).step()
    before = resident("VmRSS")
    kind = hf.AutoModelForCausalLM if case["causal"] else hf.AutoModel
    settings = hf.AutoConfig.from_pretrained(case["folder"])
    if case["weights"]:
        more = {} if case["causal"] else {"add_pooling_layer": False}
        model = kind.from_pretrained(case["folder"], dtype=torch.float32, attn_implementation="eager", **more)
        for parameter in model.parameters():
            parameter.data = parameter.data.clone()  # out of the mapped file
    else:
        model = kind.from_config(settings, attn_implementation="eager")
    if case["targets"]:
        import peft

        model = peft.get_peft_model(model, peft.LoraConfig(r=8, lora_alpha=16, target_modules=case["targets"]))
    model.train()
    trained = [p for p in model.parameters() if p.requires_grad]
    optimizer = torch.optim.AdamW(trained, lr=1e-4)
    ids = torch.randint(5, settings.vocab_size, (case["batch"], case["tokens"]))
    gc.collect()
    Path("/proc/self/clear_refs").write_text("5")  # resets VmHWM, proc(5)
    for _ in range(2):  # the second has AdamW's moments
        if case["causal"]:
            loss = model(input_ids=ids, labels=ids).loss
        else:
            loss = model(input_ids=ids).last_hidden_state.mean(1).square().sum()
        loss.backward()
        optimizer.step()
        optimizer.zero_grad(set_to_none=False)
    return {"peak_bytes": resident("VmHWM") - before, "trained": sum(p.numel() for p in trained)}


if __name__ == "__main__":
    json.dump(main(json.loads(sys.argv[1])), sys.stdout)
