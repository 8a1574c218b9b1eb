"""The toy regression and the image task."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch

from fedwave.core import config
from fedwave.core.errors import BadInput
from fedwave.tasks.images import ImageClassification, stratified
from fedwave.tasks.toy import Toy


def test_at_the_optimum_the_pooled_gradient_is_zero() -> None:
    task = Toy(clients=5, dimension=4, ragged=True)
    learner, optimum = task.build(7), task.optimum(7)
    with torch.no_grad():
        learner.model.weight.copy_(torch.as_tensor(optimum)[None])
    loss, _ = learner.row_losses(learner.batch(learner.order))
    loss.mean().backward()
    assert learner.model.weight.grad.abs().max() < 1e-5
    assert learner.evaluate()["distance"] < 1e-6


def test_without_noise_and_heterogeneity_the_optimum_fits_exactly() -> None:
    task = Toy(clients=3, heterogeneity=0, noise=0)
    x, y, _ = task.data(0)
    assert np.allclose(x @ task.optimum(0), y)


def test_heterogeneity_spreads_the_clients_optima() -> None:
    # Own optima are w* + h u_c with u_c standard normal: their variance over clients is h^2 a coordinate.
    task = Toy(clients=400, dimension=5, heterogeneity=2.0, noise=0.0)
    x, y, offsets = task.data(1)
    own = [np.linalg.lstsq(x[a:b], y[a:b], rcond=None)[0] for a, b in zip(offsets, offsets[1:], strict=False)]
    assert np.var(own, axis=0).mean() == pytest.approx(4.0, rel=0.1)


def test_ragged_clients_keep_the_mean_size() -> None:
    sizes = Toy(clients=4000, samples_per_client=8, ragged=True).samples(0)
    assert sizes.min() == 1 and sizes.max() == 15 and sizes.mean() == pytest.approx(8, rel=0.03)


def test_clients_data_do_not_depend_on_the_public_set() -> None:
    task = Toy(clients=3)
    plain, more = task.data(0), task.data(0, public=9)
    assert np.array_equal(plain.x, more.x[:-9]) and np.array_equal(plain.y, more.y[:-9])


def test_digits_are_split_as_documented() -> None:
    task = ImageClassification()
    images = task.images()
    assert len(images.train) == 1437 and len(images.held) == 360 and images.classes == list("0123456789")
    x = task.build(0).batch(np.arange(1437 + 360))["x"]
    assert x.shape == (1797, 64) and x.max() == 1.0 and x.min() == 0.0
    # 360 of 1,797 is one in five of each class, to one image.
    everyone, held = np.bincount(np.concatenate([images.y, images.eval_y])), np.bincount(images.eval_y)
    assert np.abs(held - everyone * 360 / 1797).max() < 1
    assert len(ImageClassification(eval_samples=50).images().eval_y) == 50


def test_mlp_counts() -> None:
    # 64 x 128 + 128 + 128 x 10 + 10 parameters; 2 FLOPs a weight forward, twice that backward.
    spec = ImageClassification().spec()
    assert spec.trainable_parameters == spec.model_parameters == 9610 and spec.base_bytes == 0
    assert spec.forward_flops == 2 * (64 * 128 + 128 * 10) and spec.backward_flops == 2 * spec.forward_flops
    head = config.build("task", {"name": "images", "adapter": "head"}).spec()
    assert list(head.trainable) == ["2.weight", "2.bias"] and head.base_bytes == 4 * (64 * 128 + 128)
    assert head.backward_flops == 2 * 128 * 10


def test_quotas_are_exact() -> None:
    labels = np.repeat([0, 1, 2], [5, 5, 10])
    assert np.bincount(labels[stratified(labels, 0.3)]).tolist() == [2, 1, 3]  # 1.5, 1.5, 3 of 6: the first 1.5 goes up


def test_images_from_a_file(tmp_path: Path) -> None:
    x = np.arange(40 * 4, dtype=np.uint8).reshape(40, 2, 2)
    np.savez(tmp_path / "rows.npz", x=x, y=np.arange(40) % 2)
    table = {"name": "images", "data": str(tmp_path / "rows.npz"), "partition": {"name": "iid", "clients": 4}}
    whole = config.build("task", table | {"eval_data": str(tmp_path / "rows.npz")}).build(0)
    assert whole.batch(np.array([1]))["x"][0].tolist() == pytest.approx([4 / 255, 5 / 255, 6 / 255, 7 / 255])
    assert config.build("task", table).samples(0).sum() == 32


@pytest.mark.parametrize(
    ("arrays", "message"),
    [
        ({"x": np.zeros((3, 2))}, "must hold the arrays x and y, it has: x"),
        ({"x": np.zeros((3, 2)), "y": np.zeros(3)}, "one integer class >= 0 for each of the 3 images, got float64"),
        ({"x": np.zeros((3, 2)), "y": np.array([0, 1, -1])}, "one integer class >= 0"),
        ({"x": np.full((3, 2), np.nan), "y": np.array([0, 1, 1])}, "not finite"),
    ],
)
def test_bad_image_files(tmp_path: Path, arrays: dict[str, np.ndarray], message: str) -> None:
    np.savez(tmp_path / "bad.npz", **arrays)
    with pytest.raises(BadInput, match=message):
        ImageClassification(data=str(tmp_path / "bad.npz")).images()


def test_image_refusals(tmp_path: Path) -> None:
    with pytest.raises(BadInput, match="adapter must be full or head, got 'lora'"):
        config.build("task", {"name": "images", "adapter": "lora"})
    with pytest.raises(BadInput, match=r"must be 'digits', an existing \.npz file"):
        ImageClassification(data="didgits").images()
    (tmp_path / "text.npz").write_text("no archive")
    with pytest.raises(BadInput, match=r"is not an \.npz file"):
        ImageClassification(data=str(tmp_path / "text.npz")).images()
