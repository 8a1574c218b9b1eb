"""A model, loss and data of your own: a GRU that forecasts the readings of ten sensors, each of its own period.

python examples/my_model.py
"""

import torch
from torch import nn

import fedwave as fw
from fedwave.methods.fedavg import FedAvg
from fedwave.methods.optimizers import AdamW
from fedwave.tasks.custom import Custom, Problem


class Forecaster(nn.Module):
    def __init__(self, width):
        super().__init__()
        self.gru, self.head = nn.GRU(1, width, batch_first=True), nn.Linear(width, 1)

    def forward(self, x):
        return self.head(self.gru(x)[0][:, -1])


def sensor(number):
    """96 windows of 24 readings of one sensor, and the reading that follows each."""
    series = torch.sin(torch.arange(120) * (0.2 + 0.04 * number)) + 0.05 * torch.randn(120)
    windows = series.unfold(0, 25, 1)
    return {"x": windows[:, :-1, None], "y": windows[:, -1:]}


def make(width=16):
    def loss(output, batch):
        return (output - batch["y"]).square().mean(1)

    return Problem(model=lambda: Forecaster(width), loss=loss, data=[sensor(number) for number in range(10)])


if __name__ == "__main__":
    method = FedAvg(local_epochs=2, local_optimizer=AdamW(lr=0.01))
    experiment = fw.Experiment(task=Custom(make), method=method, rounds=8, eval_every=2)
    for record in fw.stream(experiment):
        print(record.round, record.delivered, record.train_loss, record.eval)
