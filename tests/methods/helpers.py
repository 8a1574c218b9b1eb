"""One round by hand: a linear regression whose rows are given, a cohort and a delivery of one's own choosing."""

import numpy as np

from fedwave.core import config
from fedwave.core.keys import Key
from fedwave.core.types import STATUS, Cohort, Delivery
from fedwave.engines.cohort import CohortEngine
from fedwave.results.memory_store import MemoryStore
from fedwave.tasks.learners.toy import ToyLearner
from fedwave.tasks.toy import Regression, Toy
from fedwave.transforms.chain import Chain

KEY = Key(11)


def clients_data(counts=(1, 3, 4), d=2, seed=0):
    """``[(x [n, d], y [n])]``, one pair a client."""
    rng = np.random.default_rng(seed)
    return [(rng.normal(size=(n, d)), rng.normal(size=n)) for n in counts]


def gradient(w, x, y):
    """Of ``mean (x w - y)^2 / 2``."""
    return x.T @ (x @ w - y) / len(y)


def descend(w, data, *, steps, lr, correct=lambda w, g: g):
    """Full-batch gradient descent, ``correct`` applied to each gradient."""
    for _ in range(steps):
        w = w - lr * correct(w, gradient(w, *data))
    return w


class Bench:
    """A method on the regression. Batches hold all rows of a client, so every local step is full-batch descent."""

    def __init__(self, method, data, *, transforms=(), max_clients=0, public=0, **settings):
        self.method = config.build("method", {"name": method, **settings})
        self.data, d = data, data[0][0].shape[1]
        rng = np.random.default_rng(99)
        x = np.concatenate([x for x, _ in data] + [rng.normal(size=(public, d))])
        y = np.concatenate([y for _, y in data] + [np.zeros(public)])
        self.counts = np.array([len(y) for _, y in data])
        offsets = np.concatenate([[0], np.cumsum(self.counts)])
        self.public = x[offsets[-1] :]
        self.spec = Toy(clients=len(data), dimension=d).spec()
        self.method.check(self.spec)
        learner = ToyLearner(self.spec, Regression(x, y, offsets), np.zeros(d))
        up = Chain(tuple(config.build("transform", t) for t in transforms))
        self.session = CohortEngine(max_clients=max_clients).start(self.method, learner, up=up, batch_size=64)
        self.store = MemoryStore(None, self.session.memory_leaves)
        self.state = self.method.init(self.spec, self.session.initial, self.session, KEY)

    def cohort(self, ids, round=0):
        ids, n = np.array(ids), len(ids)
        samples = self.counts[ids]
        steps, rows = self.method.amount(samples, 64)
        weight = samples.astype(float) if self.method.weighting == "samples" else np.ones(n)
        zero = np.zeros(n, dtype=np.int64)
        return Cohort(round, ids, weight, samples, steps, rows, zero, zero, zero - 1, zero)

    def train(self, ids, *, lost=(), round=0):
        """Clients train and are heard but for ``lost``: the replies."""
        cohort = self.cohort(ids, round)
        self.message = self.method.broadcast(self.spec, self.state, cohort)
        delivery = delivered(ids, lost)
        return self.session.run(self.message, self.store, cohort, delivery, KEY.fold("round", round))

    def round(self, ids, *, lost=(), round=0):
        """:meth:`train`, then the server's step."""
        replies = self.train(ids, lost=lost, round=round)
        if len(replies):
            self.state = self.method.server_update(
                self.spec, self.state, replies, self.session, KEY.fold("server", round)
            )
        return replies

    @property
    def weight(self):
        """The server's model, ``[d]``."""
        return self.state["params"]["weight"].numpy()[0].astype(float)

    def memory(self, client, name="method/weight"):
        """What a client keeps, and whether it keeps anything."""
        rows, known = self.store.get([client])
        return rows[name][0].numpy().reshape(-1).astype(float), bool(known[0])


def delivered(ids, lost=()):
    """A delivery in which only ``lost`` were not heard (they trained, and their update was lost on the way)."""
    n = len(ids)
    heard = ~np.isin(ids, list(lost))
    ones, zeros = np.ones(n), np.zeros(n)
    return Delivery(
        coefficient=heard[:, None].astype(float), status=np.where(heard, STATUS["delivered"], STATUS["outage"]),
        downlink_s=ones, compute_s=ones, uplink_s=ones, finish_s=3 * ones, round_s=3.0, radio_j=zeros,
        compute_j=zeros, down_sent_bits=zeros, up_sent_bits=zeros, sinr_db=zeros,
    )  # fmt: skip
