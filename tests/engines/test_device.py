"""Where training happens: a device that is not there is one sentence; a GPU gives what a processor gives."""

import numpy as np
import pytest
import torch

import fedwave
from fedwave.core.errors import BadInput
from fedwave.experiment import Experiment

from .test_options import job, losses, models  # noqa: F401

needs_cuda = pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")


def test_a_device_that_is_not_there(models, monkeypatch):  # noqa: F811
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 1)
    with pytest.raises(BadInput, match=r"engine.device: 'cuda:1' is not there; torch sees 1 GPU"):
        list(fedwave.stream(Experiment.parse(job(models, "causal-lm", engine={"device": "cuda:1"}))))


@pytest.mark.parametrize("device", ["gpu", "cuda:x", ""])
def test_a_device_of_no_such_name(models, device):  # noqa: F811
    with pytest.raises(BadInput, match=r"engine\.device"):
        Experiment.parse(job(models, "causal-lm", engine={"device": device}))


@needs_cuda
@pytest.mark.parametrize("method", ["fedavg", "scaffold", "fedkseed", "distill"])
@pytest.mark.parametrize("name", ["text-classification", "causal-lm"])
def test_a_gpu_gives_what_a_processor_gives(models, name, method):  # noqa: F811
    if method == "distill" and name == "causal-lm":
        pytest.skip("a language model has no prediction of fixed size")
    tables = [job(models, name, engine={"device": device}) for device in ("cpu", "cuda")]
    for table in tables:
        table["method"] = {**table["method"], "name": method}
    cpu, cuda = (losses(table) for table in tables)
    np.testing.assert_allclose(cuda, cpu, rtol=1e-4)


@needs_cuda
def test_no_step_waits_for_the_gpu(models, monkeypatch):  # noqa: F811
    from fedwave.engines.stacked.slots import SlotClients

    step = SlotClients.step

    def watched(self, method):
        torch.cuda.set_sync_debug_mode("error")
        try:
            step(self, method)
        finally:
            torch.cuda.set_sync_debug_mode("default")

    monkeypatch.setattr(SlotClients, "step", watched)
    assert len(losses(job(models, "causal-lm", engine={"device": "cuda"}))) == 3
