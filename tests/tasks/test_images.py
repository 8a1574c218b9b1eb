"""Image tasks beside the digits: vision transformers, convolutions, folders of files, hub sets."""

from __future__ import annotations

import sys
from pathlib import Path
from types import ModuleType, SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch

from fedwave.core import config
from fedwave.core.errors import BadInput, Refused
from fedwave.testing import tiny_vit


def images(**more: Any) -> Any:
    return config.build("task", {"name": "images", "partition": {"name": "iid", "clients": 4}} | more)


def squares(folder: Path, *, count: int = 6) -> Path:
    """Two classes of coloured squares of different sizes, ``count`` each; class a is red, class b blue."""
    import PIL.Image

    for name, colour in (("a", (255, 0, 0)), ("b", (0, 0, 255))):
        (folder / name).mkdir(parents=True)
        for number in range(count):
            PIL.Image.new("RGB", (8 + number, 8), colour).save(folder / name / f"{number}.png")
    return folder


def test_vision_transformer_spec_by_hand(vit: Path) -> None:
    # Width 32, feed-forward 64, 2 layers, grey 8 x 8 images in patches of 4 x 4: 4 patches and the class token.
    spec = images(model=str(vit), adapter={"name": "lora", "rank": 4}).spec()
    embeddings = 32 + 5 * 32 + 32 * 16 + 32
    layer = 4 * (32 * 32 + 32) + 2 * 64 + (64 * 32 + 64) + (32 * 64 + 32)
    body, head, lora = embeddings + 2 * layer + 64, 10 * 32 + 10, 2 * 2 * (4 * 32 + 32 * 4)
    assert spec.model_parameters == body + head + lora and spec.base_bytes == 4 * body
    assert spec.trainable_parameters == lora + head and spec.max_rank == 4
    # 2 N s + 4 L s^2 w, the products of LoRA, the head.
    matmul = 32 * 16 + 2 * (4 * 32 * 32 + 2 * 32 * 64)
    assert spec.forward_flops == 2 * matmul * 5 + 4 * 2 * 25 * 32 + 2 * 5 * lora + 2 * 32 * 10
    only = images(model=str(vit), adapter="head").spec()
    assert only.trainable_parameters == head and only.base_bytes == 4 * body and only.forward_flops == 2 * 32 * 10


def test_images_are_scaled_and_normalised_for_the_model(vit: Path) -> None:
    task = images(model=str(vit), adapter={"name": "lora", "rank": 2})
    learner = task.build(0)
    x = learner._store.gather(np.array([0, -1]), torch.device("cpu"))
    pixels = x["pixel_values"]
    assert pixels.shape == (2, 1, 8, 8) and not pixels[1].any()
    digit = np.asarray(task.images().train.pixels(np.array([0])))[0]
    assert torch.allclose(pixels[0, 0], torch.as_tensor(2 * digit - 1))  # (x - 0.5) / 0.5
    doubled = images(model=str(vit), image_size=16).build(0)._store.gather(np.array([0]), torch.device("cpu"))
    assert doubled["pixel_values"].shape == (1, 1, 16, 16)
    assert doubled["pixel_values"].mean() == pytest.approx(float(2 * digit.mean() - 1), abs=0.02)


def test_kept_features_give_the_head_that_the_whole_model_has(vit: Path) -> None:
    told: list[tuple[int, int]] = []
    head = images(model=str(vit), adapter="head", pooling="mean").build(0, progress=lambda *at: told.append(at))
    whole = images(model=str(vit), adapter="lora", pooling="mean").build(0)
    weight = torch.randn(10, 32, generator=torch.Generator().manual_seed(0))
    with torch.no_grad():
        head.model.get_parameter("weight").copy_(weight)
        whole.model.get_parameter("head.weight").copy_(weight)
    rows = np.array([3, 1, 1500])
    torch.testing.assert_close(head.predict(head.batch(rows)), whole.predict(whole.batch(rows)), rtol=1e-4, atol=1e-5)
    assert told[-1] == (1797, 1797)


def test_colour_models_take_grey_images_and_grey_models_colours(tmp_path: Path) -> None:
    colour = tiny_vit(tmp_path / "colour", num_channels=3)
    x = images(model=str(colour), adapter="lora").build(0)._store.gather(np.array([5]), torch.device("cpu"))
    assert x["pixel_values"].shape == (1, 3, 8, 8) and torch.equal(x["pixel_values"][:, 0], x["pixel_values"][:, 2])
    grey = tiny_vit(tmp_path / "grey")
    folder = squares(tmp_path / "data")
    task = images(model=str(grey), adapter="lora", data=str(folder), partition={"name": "iid", "clients": 2})
    learner = task.build(0)
    pixels = learner._store.gather(np.arange(12), torch.device("cpu"))["pixel_values"].mean((1, 2, 3))
    names = [task.images().classes[c] for c in learner._labels[:12]]
    # The luma of red is 0.299, of blue 0.114; normalised to 2 x - 1.
    wanted = [2 * {"a": 0.299, "b": 0.114}[name] - 1 for name in names]
    assert pixels.tolist() == pytest.approx(wanted, abs=1e-5)


def test_an_exported_vision_adapter_loads_with_peft(vit: Path, tmp_path: Path) -> None:
    from peft import PeftModel
    from transformers import AutoModel

    learner = images(model=str(vit), adapter={"name": "lora", "rank": 4}).build(0)
    params = {name: torch.randn(value.shape) * 0.1 for name, value in learner.initial.items()}
    with torch.no_grad():
        for name, path in learner.leaf_paths.items():
            learner.model.get_parameter(path).copy_(params[name])
    learner.export(tmp_path / "out", params)
    theirs = PeftModel.from_pretrained(AutoModel.from_pretrained(vit), tmp_path / "out").eval()
    x = learner._store.gather(np.arange(3), torch.device("cpu"))["pixel_values"]
    hidden = theirs(pixel_values=x).last_hidden_state[:, 0]
    logits = hidden @ params["head.weight"].T + params["head.bias"]
    torch.testing.assert_close(learner.predict(learner.batch(np.arange(3))), logits, rtol=1e-4, atol=1e-5)


def test_convolution_counts_by_hand() -> None:
    # 8 x 8 grey: 9 x 1 x 4 + 4, norm 8, then 4 x 4: 9 x 4 x 6 + 6, norm 12, then 2 x 2 x 6 = 24 inputs to 10 classes.
    spec = images(model="cnn", hidden=[4, 6]).spec()
    assert spec.model_parameters == 40 + 8 + 222 + 12 + 250
    assert (
        spec.forward_flops == 2 * (9 * 4 * 64 + 9 * 4 * 6 * 16 + 240) and spec.backward_flops == 2 * spec.forward_flops
    )
    # Input, convolution, norm and pool of both blocks, logits; 4 bytes each.
    assert spec.activation_bytes == 4 * (64 + 2 * 4 * 64 + 4 * 16 + 2 * 6 * 16 + 6 * 4 + 10)
    with pytest.raises(BadInput, match="hidden: 4 blocks halve an image of 8 x 8 pixels to nothing"):
        images(model="cnn", hidden=[4] * 4).spec()


def test_folders_of_classes(tmp_path: Path) -> None:
    folder = squares(tmp_path / "data")
    task = images(data=str(folder), model="cnn", hidden=[4], partition={"name": "dirichlet", "clients": 2})
    found = task.images()
    assert (
        found.classes == ["a", "b"] and found.train.shape == (8, 8, 3) and (len(found.train), len(found.held)) == (9, 3)
    )
    told: list[tuple[int, int]] = []
    x = task.build(0, progress=lambda *at: told.append(at)).batch(np.arange(9))
    assert x["x"].shape == (9, 3, 8, 8) and told == [(9, 9), (3, 3)]
    red = x["label"] == 0
    for mine, colour in ((red, (1.0, 0.0, 0.0)), (~red, (0.0, 0.0, 1.0))):
        assert torch.allclose(x["x"][mine], torch.tensor(colour).view(1, 3, 1, 1), atol=1e-5)
    (tmp_path / "split").mkdir()
    squares(tmp_path / "split" / "train")
    squares(tmp_path / "split" / "val", count=2)
    both = images(data=str(tmp_path / "split")).images()
    assert (len(both.train), len(both.held)) == (12, 4)


def test_columns_of_an_array_file_make_clients(tmp_path: Path) -> None:
    x, writer = np.zeros((20, 2, 2), np.uint8), np.arange(20) % 3
    np.savez(tmp_path / "rows.npz", x=x, y=np.arange(20) % 2, writer=writer)
    table = {"data": str(tmp_path / "rows.npz"), "eval_data": str(tmp_path / "rows.npz")}
    assert images(**table, partition={"name": "column", "column": "writer"}).samples(0).tolist() == [7, 7, 6]
    assert len(images(**table, partition={"name": "feature", "column": "writer", "clients": 5}).samples(0)) == 5


def test_hub_image_sets(monkeypatch: pytest.MonkeyPatch) -> None:
    import PIL.Image

    rows = [
        {"img": PIL.Image.new("L", (6, 6), 10 * i), "kind": i % 2, "site": f"s{i % 3}", "mask": None} for i in range(12)
    ]
    features = {"img": object(), "kind": SimpleNamespace(names=["cat", "dog"]), "site": object(), "mask": object()}

    class Split(list):
        def __init__(self) -> None:
            super().__init__(rows)
            self.features = features

    fake = ModuleType("datasets")
    fake.load_dataset = lambda *names, **options: {"train": Split(), "test": Split()}  # type: ignore[attr-defined]
    monkeypatch.setitem(sys.modules, "datasets", fake)
    table = {"data": "org/pets", "image_field": "img", "label_field": "kind", "stream_rows": 9}
    task = images(**table, partition={"name": "column", "column": "site"})
    assert task.images().classes == ["cat", "dog"] and task.samples(0).tolist() == [3, 3, 3]
    assert task.build(0).batch(np.array([2]))["x"][0].tolist() == pytest.approx([20 / 255] * 36)
    with pytest.raises(BadInput, match=r"org/pets \(train\): unknown field 'image'.*known: img, kind, mask, site"):
        images(data="org/pets", stream_rows=9).images()


@pytest.mark.parametrize(
    ("table", "message"),
    [
        ({"adapter": "lora"}, "adapter must be full or head, got 'lora' .a pretrained model takes lora"),
        ({"model": "vit-base", "hidden": [4]}, "hidden: the layers of the pretrained model 'vit-base' are given"),
    ],
)
def test_refused_combinations(table: dict[str, Any], message: str) -> None:
    with pytest.raises(Refused, match=message):
        images(**table)


def test_refusals(vit: Path, bert: Path, tmp_path: Path) -> None:
    with pytest.raises(Refused, match=r"needs an image encoder .a vision transformer.; .* is a encoder model"):
        images(model=str(bert)).spec()
    with pytest.raises(Refused, match="image_size 10 is no multiple of the model's patches of 4 pixels"):
        images(model=str(vit), image_size=10).spec()
    with pytest.raises(BadInput, match=r"adapter target 'query' matches no linear layer .* .it has: .*q_proj"):
        images(model=str(vit), adapter={"name": "lora", "targets": ["query"]}).spec()
    (tmp_path / "flat").mkdir()
    with pytest.raises(BadInput, match="flat has no sub-folders of images, one per class"):
        images(data=str(tmp_path / "flat")).images()
    (tmp_path / "flat" / "a").mkdir()
    with pytest.raises(BadInput, match="a, the folder of a class, holds no images"):
        images(data=str(tmp_path / "flat")).images()
    (tmp_path / "flat" / "a" / "x.png").write_text("no image")
    with pytest.raises(BadInput, match=r"x\.png cannot be read as an image"):
        images(data=str(tmp_path / "flat")).images()
    np.savez(tmp_path / "odd.npz", x=np.zeros((10, 5)), y=np.arange(10) % 2)
    with pytest.raises(BadInput, match=r"images of shape \(5,\) are no pictures"):
        images(data=str(tmp_path / "odd.npz"), model=str(vit)).build(0)
    with pytest.raises(BadInput, match="all 'a'"):
        images(data=str(one_class(tmp_path / "one"))).images()


def one_class(folder: Path) -> Path:
    import shutil

    squares(folder)
    shutil.rmtree(folder / "b")
    return folder


def test_a_vision_transformer_is_planned_from_the_catalogue() -> None:
    # ViT-B/16 at 224: 196 patches and the class token; LoRA of rank 8 on query and value of 12 layers of width 768.
    task = images(model="vit-base", adapter={"name": "lora", "rank": 8})
    assert task.tokens() == 197
    assert task.spec().trainable_parameters == 12 * 2 * 2 * 8 * 768 + 10 * 768 + 10
    assert images(model="dinov2-base", image_size=224, adapter="lora").tokens() == 257
