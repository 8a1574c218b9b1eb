"""Low-rank adapters in a federation: what averaging factors misses, what FFA-LoRA and FLoRA do about it."""

import dataclasses

import numpy as np
import pytest
import torch

from fedwave import simulation
from fedwave.core import config
from fedwave.core.errors import Refused
from fedwave.experiment import Experiment
from fedwave.federation import sync
from fedwave.federation.samplers import Uniform
from fedwave.federation.setting import prepare
from fedwave.results.memory_store import MemoryStore
from fedwave.tasks.toy import Toy
from fedwave.testing import tiny_llama

SCALE = 8 / 4  # alpha / (largest) rank
PER_RANK = 2 * ((32 + 32) + (32 + 16))  # values of one rank in both factors: 2 layers of q (32 -> 32) and v (32 -> 16)


@pytest.fixture(scope="module")
def files(tmp_path_factory):
    folder = tmp_path_factory.mktemp("lora")
    rows = folder / "rows.csv"
    rows.write_text(
        "text\n"
        + "\n".join(f"cell {i} has {i * i} users and {'no' if i % 3 else 'some'} power" for i in range(23))
        + "\n"
    )
    return tiny_llama(folder / "llama"), rows


@dataclasses.dataclass(frozen=True)
class Script(Uniform):
    """The given clients, round by round."""

    turns: tuple = ()
    played: list = dataclasses.field(default_factory=list)

    def select(self, available, key):
        self.played.append(None)
        return np.array(self.turns[len(self.played) - 1])


class Lab:
    """An experiment on the tiny Llama; ``trained[round][client]`` are the leaves that the client ended with."""

    def __init__(self, files, method, monkeypatch, turns, *, rank=4, settings=None, **rest):
        model, rows = files
        table = {
            "seed": 2, "rounds": len(turns), "network": {"name": "ideal"},
            "task": {"name": "causal-lm", "model": str(model), "data": str(rows), "max_tokens": 32, "batch_size": 4,
                     "partition": {"name": "iid", "clients": 4},
                     "adapter": {"name": "lora", "rank": rank, "alpha": 8}},
            "fleet": {"mix": {"phone": 0.5, "jetson-orin-nano": 0.5}},
            "method": {"name": method, "local_steps": 3, "local_optimizer": {"name": "adamw", "lr": 0.02},
                       **(settings or {})},
            **rest,
        }  # fmt: skip
        self.experiment = Experiment.parse(table)
        self.setting = dataclasses.replace(self.experiment.setting(), sampler=Script(turns=tuple(turns)))
        self.session = simulation.build_session(self.experiment, self.setting)
        self.spec, self.method = self.setting.spec, self.setting.method
        self.base = {m: self.weight(m).clone() for m in self.spec.bases}
        self.store = MemoryStore(None, self.session.memory_leaves)
        self.world, self.state = self.setting.world(), sync.begin(self.setting, self.session)
        self.trained, self.records, self.turns = [], [], []
        original = type(self.method).reply

        def watch(method, clients):
            for slot, client in enumerate(clients.ids):
                self.trained[-1][int(client)] = {n: v[slot].detach().clone() for n, v in clients.params.items()}
            return original(method, clients)

        monkeypatch.setattr(type(self.method), "reply", watch)

    def weight(self, module):
        return self.session.learner.model.get_parameter(self.session.learner.base_paths[module]).detach()

    def play(self):
        original = sync.prepare

        def noted(setting, world):
            self.trained.append({})
            self.turns.append(original(setting, world))
            return self.turns[-1]

        sync.prepare = noted
        try:
            for record, world, state in sync.play(self.setting, self.session, self.store, self.world, self.state):
                self.records.append(record)
                self.world, self.state = world, state
        finally:
            sync.prepare = original
        return self

    def shares(self, turn):
        """p_k = n_k / n of the round's clients."""
        ids = self.turns[turn].cohort.ids
        held = self.setting.population.samples[ids]
        return dict(zip(ids.tolist(), held / held.sum(), strict=True))

    def products(self, turn, module):
        """``{client: (p_k, B_k, A_k)}`` in float64."""
        a, b = f"{module}.lora_A.weight", f"{module}.lora_B.weight"
        return {
            k: (p, self.trained[turn][k][b].double(), self.trained[turn][k][a].double())
            for k, p in self.shares(turn).items()
        }


def test_fedit_error_is_the_spread_of_the_factors(files, monkeypatch):
    """sum p B_k A_k - Bbar Abar = sum p (B_k - Bbar)(A_k - Abar), of rank at most (K - 1) r."""
    lab = Lab(files, "fedavg", monkeypatch, [[0, 3]]).play()
    assert len(set(lab.shares(0).values())) == 2  # 23 rows on 4 clients: not the same number each
    for module in lab.spec.bases:
        found = lab.products(0, module)
        mean_a, mean_b = (sum(p * x[i] for p, *x in found.values()) for i in (1, 0))
        server_a, server_b = (lab.state["params"][f"{module}.lora_{n}.weight"].double() for n in "AB")
        torch.testing.assert_close(server_a, mean_a, atol=1e-6, rtol=0)
        torch.testing.assert_close(server_b, mean_b, atol=1e-6, rtol=0)
        error = sum(p * b @ a for p, b, a in found.values()) - server_b @ server_a
        spread = sum(p * (b - mean_b) @ (a - mean_a) for p, b, a in found.values())
        torch.testing.assert_close(error, spread, atol=1e-6, rtol=0)
        values = torch.linalg.svdvals(spread)
        assert values[0] > 1e-5  # the error is there
        assert values[(2 - 1) * 4 :].max() < 1e-9


def test_ffa_is_exact(files, monkeypatch):
    """A is everybody's A, so scale Bbar A is the weighted mean of the clients' own changes."""
    lab = Lab(files, "ffa_lora", monkeypatch, [[0, 1, 3], [1, 2]]).play()
    for module in lab.spec.bases:
        a0 = lab.session.initial[f"{module}.lora_A.weight"]
        found = lab.products(1, module)
        assert all(torch.equal(a.float(), a0) for _, _, a in found.values())
        assert torch.equal(lab.state["params"][f"{module}.lora_A.weight"], a0)
        server = lab.state["params"][f"{module}.lora_B.weight"].double() @ a0.double()
        torch.testing.assert_close(server, sum(p * b @ a for p, b, a in found.values()), atol=1e-6, rtol=0)
        assert server.abs().max() > 1e-3


MIXED = {"phone": 2, "jetson-orin-nano": 4}


@pytest.mark.parametrize("server_lr", [1.0, 0.5])
def test_flora_is_exact_for_mixed_ranks(files, monkeypatch, server_lr):
    """W_3 = W_0 + lr_s scale sum over rounds of sum p_k B_k A_k, applied once however often the model is evaluated."""
    turns = [[0, 1], [1, 2], [0, 2, 3]]
    settings = {"server_optimizer": {"name": "sgd", "lr": server_lr}}
    lab = Lab(
        files,
        "flora",
        monkeypatch,
        turns,
        rank=MIXED,
        settings=settings,
        eval_every=1,
        engine={"name": "cohort", "max_clients": 2},
    )
    lab.play()
    ranks = lab.setting.population.rank
    assert set(ranks) == {2, 4}
    for _ in range(2):
        lab.session.evaluate(*lab.method.model(lab.state))
    for module in lab.spec.bases:
        change = torch.zeros(lab.base[module].shape, dtype=torch.float64)
        for turn in range(3):
            for client, (p, b, a) in lab.products(turn, module).items():
                assert not a[ranks[client] :].any()
                assert not b[:, ranks[client] :].any()
                assert torch.linalg.matrix_rank(b @ a) == ranks[client]
                change += server_lr * p * SCALE * b @ a
        torch.testing.assert_close((lab.weight(module) - lab.base[module]).double(), change, atol=1e-5, rtol=0)
        assert change.abs().max() > 1e-2
    stacked = [sum(int(ranks[k]) for k in turn) for turn in turns]
    _, base = lab.method.model(lab.state)
    assert [next(iter(group.values()))[0].shape[0] for group in base] == stacked


def test_flora_charges_every_change_that_a_client_has_not_heard(files, monkeypatch):
    """Bits by hand. A seed is 64; c_j = 32 x 224 x (sum of the ranks heard in round j) is the change of round j.

    Round 1: 1 (heard 0) and 2 (new) lack c_0. Round 2: 0 (heard round 0's broadcast, skipped round 1) lacks both,
    2 (heard round 1's, which brought c_0) lacks c_1, 3 (new) both.
    """
    lab = Lab(files, "flora", monkeypatch, [[0, 1], [1, 2], [0, 2, 3]], rank=MIXED).play()
    rank = lab.setting.population.rank
    c0, c1 = (32.0 * PER_RANK * sum(rank[k] for k in ids) for ids in ([0, 1], [1, 2]))
    down = [turn.work.down_bits.tolist() for turn in lab.turns]
    assert down == [[64, 64], [64 + c0, 64 + c0], [64 + c0 + c1, 64 + c1, 64 + c0 + c1]]
    assert [record.downlink_bits for record in lab.records] == [sum(bits) for bits in down]
    for turn in lab.turns:  # and up: each its own rank
        assert turn.work.up_bits.tolist() == [32.0 * PER_RANK * rank[k] for k in turn.cohort.ids]


def test_flora_charges_the_stack_of_who_was_heard(files, monkeypatch):
    """Client 1's update of round 0 is lost: it heard the broadcast, but the change has client 0's rank alone."""
    lab = Lab(files, "flora", monkeypatch, [[0, 1], [1, 2]], rank=MIXED, network={"name": "ideal", "loss": 0.5})
    deliver = type(lab.setting.network).deliver

    def lose(self, world, cohort, *args, **rest):
        found = deliver(dataclasses.replace(self, loss=0.0), world, cohort, *args, **rest)
        if world.round == 0:
            found.status[1], found.coefficient[1] = 2, 0.0
        return found

    monkeypatch.setattr(type(lab.setting.network), "deliver", lose)
    lab.play()
    assert lab.records[0].status == {"delivered": 1, "outage": 1}
    c0 = 32.0 * PER_RANK * lab.setting.population.rank[0]
    assert lab.turns[1].work.down_bits.tolist() == [64 + c0, 64 + c0]
    module = next(iter(lab.spec.bases))
    a, _ = lab.method.model(lab.state)[1][0][module]
    assert a.shape[0] == lab.setting.population.rank[0]


def test_flora_charges_the_stack_that_there_is(files, monkeypatch):
    """Client 1's factors of round 0 are NaN and left out: round 1's broadcast carries client 0's alone."""
    lab = Lab(files, "flora", monkeypatch, [[0, 1], [1, 2]], rank=MIXED)
    reply = type(lab.method).reply

    def spoilt(method, clients):
        parts, kept = reply(method, clients)
        if clients.round == 0:
            for value in parts["factors"].values():
                with torch.no_grad():
                    value[clients.ids == 1] = torch.nan
        return parts, kept

    monkeypatch.setattr(type(lab.method), "reply", spoilt)
    lab.play()
    assert lab.records[0].lost == {"not_finite": [1]}
    c0 = 32.0 * PER_RANK * lab.setting.population.rank[0]
    assert lab.turns[1].work.down_bits.tolist() == [64 + c0, 64 + c0]


@pytest.mark.filterwarnings("ignore:`is_gradient_checkpointing` is deprecated:FutureWarning")  # peft reads it
@pytest.mark.parametrize("method", ["fedavg", "ffa_lora", "flora"])
def test_the_exported_adapter_is_the_resident_model(files, monkeypatch, tmp_path, method):
    """Plain PEFT loads the export (base changes are extra rank) and gives the resident model's logits."""
    from peft import PeftModel
    from transformers import AutoModelForCausalLM

    lab = Lab(files, method, monkeypatch, [[0, 1], [1, 2]], rank=MIXED if method == "flora" else 4).play()
    params, base = lab.method.model(lab.state)
    lab.session.evaluate(params, base)
    ids = torch.arange(5, 25)[None]
    with torch.no_grad():
        ours = lab.session.learner.model(input_ids=ids).logits
        lab.session.learner.export(tmp_path, params, base)
        plain = AutoModelForCausalLM.from_pretrained(files[0])
        before = plain(input_ids=ids).logits
        theirs = PeftModel.from_pretrained(plain, tmp_path)(input_ids=ids).logits
    torch.testing.assert_close(theirs, ours, atol=2e-5, rtol=1e-5)
    assert not torch.allclose(before, ours, atol=1e-2)


def test_flora_on_square_transposed_weights(files, tmp_path, monkeypatch):
    """GPT-2 stores [d_in, d_out]; its attention output is square, so only the layer's kind tells how to add B A."""
    from transformers import GPT2Config, GPT2LMHeadModel

    folder = tiny_llama(tmp_path / "gpt2")
    with torch.random.fork_rng():
        torch.manual_seed(0)
        GPT2LMHeadModel(
            GPT2Config(vocab_size=260, n_positions=64, n_embd=32, n_layer=1, n_head=4, initializer_range=0.2)
        ).save_pretrained(folder)
    table = {"name": "causal-lm", "model": str(folder), "data": str(files[1]), "max_tokens": 32,
             "partition": {"name": "iid", "clients": 2},
             "adapter": {"name": "lora", "rank": 2, "targets": ["attn.c_proj"]}}  # fmt: skip
    experiment = Experiment.parse({"task": table, "method": "flora", "network": "ideal"})
    session = simulation.build_session(experiment, experiment.setting())
    ((module, (out, into)),) = session.spec.bases.items()
    assert (out, into) == (32, 32)
    weight = session.learner.model.get_parameter(session.learner.base_paths[module])
    before, (a, b) = weight.clone(), (torch.randn(3, 32), torch.randn(32, 3))
    session.apply_base([{module: (a, b)}])
    torch.testing.assert_close(weight - before, session.spec.lora_scale * (b @ a).T, atol=1e-5, rtol=0)


@pytest.mark.filterwarnings("ignore:Model has `tie_word_embeddings:UserWarning")  # PEFT's, on merging
@pytest.mark.parametrize("clients", [1, 3])
def test_flora_on_a_tied_head_leaves_the_embedding(files, tmp_path, clients):
    """The adapter acts on what the head makes, not on what the embedding looks up, though both have one weight."""
    folder = tiny_llama(tmp_path / "llama", tie_word_embeddings=True)
    table = {"name": "causal-lm", "model": str(folder), "data": str(files[1]), "max_tokens": 32,
             "partition": {"name": "iid", "clients": 3},
             "adapter": {"name": "lora", "rank": 2, "targets": ["lm_head"]}}  # fmt: skip
    experiment = Experiment.parse(
        {"task": table, "method": "flora", "network": "ideal", "engine": {"name": "cohort", "max_clients": clients}}
    )
    session = simulation.build_session(experiment, experiment.setting())
    model, ((module, (out, into)),) = session.learner.model, session.spec.bases.items()
    embedding = model.get_input_embeddings().weight
    head = model.get_parameter(session.learner.base_paths[module])
    assert head is embedding
    before, change, moved = embedding.clone(), {module: (torch.randn(2, into), torch.randn(out, 2))}, 0.0
    for times in (1, 2):
        session.apply_base([change] * times)
        moved = model.get_parameter(session.learner.base_paths[module]) - before
        torch.testing.assert_close(
            moved, times * session.spec.lora_scale * (change[module][1] @ change[module][0]), atol=1e-5, rtol=1e-4
        )
    torch.testing.assert_close(embedding, before, atol=0, rtol=0)


def test_payloads_of_tinyllama():
    """q, v, r = 16, fp32: FedIT 4 r (S_in + S_out) = 9,011,200 bytes, FFA-LoRA 4 r S_out = 3,244,032.

    22 layers: q 2048 -> 2048 and v 2048 -> 256, so S_in = 22 x 4096 = 90,112 and S_out = 22 x 2304 = 50,688.
    """
    adapter = {"name": "lora", "rank": 16, "targets": ["q_proj", "v_proj"]}
    spec = config.build("task", {"name": "causal-lm", "model": "tinyllama-1.1b-chat-v1.0", "adapter": adapter}).spec()
    for name, size in (("fedavg", 9_011_200), ("ffa_lora", 3_244_032)):
        method = config.build("method", name)
        for schema in (method.uplink(spec), method.downlink(spec)):
            assert sum(leaf.bits for part in schema.values() for leaf in part.leaves.values()) == 8 * size
    assert pytest.approx(50_688 / (90_112 + 50_688)) == 3_244_032 / 9_011_200
    flora = config.build("method", "flora")
    assert (
        flora.base_bits(spec, type("C", (), {"rank": np.array([16, 8, 4])}), np.array([True, False, True]))
        == 8 * 9_011_200 * 20 / 16
    )


def test_ffa_trains_and_keeps_less():
    """Its gradients and optimiser slots are of B alone: (1 + 2) x 4 r S_in bytes less with AdamW."""
    adapter = {"name": "lora", "rank": 16, "targets": ["q_proj", "v_proj"]}
    spec = config.build("task", {"name": "causal-lm", "model": "tinyllama-1.1b-chat-v1.0", "adapter": adapter}).spec()
    need = [
        config.build("method", {"name": n, "local_optimizer": "adamw"}).memory_bytes(spec, 4)
        for n in ("fedavg", "ffa_lora")
    ]
    assert sum(need[0].values()) - sum(need[1].values()) == 3 * 4 * 16 * 90_112


def test_refusals():
    for name in ("flora", "ffa_lora"):
        with pytest.raises(Refused, match="lora"):
            config.build("method", name).check(Toy().spec())
    spec = dataclasses.replace(Toy().spec(), max_rank=4)
    with pytest.raises(Refused, match="server_optimizer"):
        config.build("method", {"name": "flora", "server_optimizer": "adam"}).check(spec)


def test_mixed_ranks_are_for_flora(files):
    model, rows = files
    table = {"task": {"name": "causal-lm", "model": str(model), "data": str(rows),
                      "partition": {"name": "iid", "clients": 8}, "adapter": {"name": "lora", "rank": MIXED}},
             "fleet": {"mix": {"phone": 0.5, "jetson-orin-nano": 0.5}}, "method": "fedavg"}  # fmt: skip
    with pytest.raises(Refused, match="mixed ranks"):
        Experiment.parse(table).setting()
    setting = Experiment.parse({**table, "method": "flora"}).setting()
    assert set(prepare(setting, setting.world()).cohort.rank) == {2, 4}
