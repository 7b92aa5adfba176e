from __future__ import annotations

import struct
from dataclasses import replace

import numpy as np
import pytest
import torch

from experts import InputError, collect, open_table
from experts.sources.conditions import conditions
from experts.sources.fashion_mnist import FashionMnist

pytestmark = pytest.mark.slow

NAMES = list(conditions(noise=0, patch=1))


def write_idx(path, array):
    header = struct.pack(f">BBBB{array.ndim}I", 0, 0, 8, array.ndim, *array.shape)
    path.write_bytes(header + array.astype(np.uint8).tobytes())


@pytest.fixture
def folder(tmp_path):
    """A torchvision root with too few pictures."""
    raw = tmp_path / "FashionMNIST" / "raw"
    raw.mkdir(parents=True)
    for part in ("train", "t10k"):
        write_idx(raw / f"{part}-images-idx3-ubyte", np.zeros((3, 28, 28)))
        write_idx(raw / f"{part}-labels-idx1-ubyte", np.zeros(3))
    return tmp_path


class Short(FashionMnist):
    """The source with experts of two epochs in place of eight, which take a third of the time."""

    plans = tuple(replace(plan, recipe=replace(plan.recipe, epochs=2)) for plan in FashionMnist.plans)


@pytest.fixture(scope="module")
def fashion(tmp_path_factory):
    try:
        source = Short()
    except InputError:
        pytest.skip("the Fashion-MNIST files are absent")
    return collect(source, tmp_path_factory.mktemp("fashion") / "table.parquet", progress=False)


def test_absent_files_say_how_to_get_them(tmp_path):
    with pytest.raises(
        InputError, match=r"apt install dataset-fashion-mnist.*torchvision.*ROUTER_RL_FASHION"
    ):
        open_table(f"fashion-mnist:{tmp_path}")


def test_the_variable_names_the_folder(folder, monkeypatch):
    monkeypatch.setenv("ROUTER_RL_FASHION_MNIST", str(folder))
    assert FashionMnist().folder == folder / "FashionMNIST" / "raw"
    assert FashionMnist(str(folder / "FashionMNIST")).folder == folder / "FashionMNIST" / "raw"


def test_too_few_pictures_are_an_error(folder):
    with pytest.raises(InputError, match="holds 3 images; give 10000 or more"):
        FashionMnist(str(folder)).images(0)


def test_pictures_and_labels_must_match(folder):
    write_idx(folder / "FashionMNIST" / "raw" / "train-labels-idx1-ubyte", np.zeros(2))
    with pytest.raises(InputError, match="for 2 labels; get both files again"):
        FashionMnist(str(folder)).images(0)


def test_a_missing_file_is_named(folder):
    (folder / "FashionMNIST" / "raw" / "t10k-labels-idx1-ubyte").unlink()
    with pytest.raises(InputError, match=r"t10k-labels-idx1-ubyte\(.gz\) is missing"):
        FashionMnist(str(folder)).digest(0)


def test_features_by_hand(folder):
    image = torch.zeros(1, 28, 28)
    image[0, :14] = 1.0
    features = FashionMnist(str(folder)).features(image)
    assert features.shape == (1, 53)
    assert features[0, :21].eq(1).all()  # three of seven rows of cells
    assert features[0, 21:28].eq(0.5).all()  # the fourth row is half covered
    mean, deviation, down, across = features[0, 49:].tolist()
    assert mean == 0.5
    assert deviation == pytest.approx(0.5, abs=1e-3)
    assert down == pytest.approx(1 / 27)
    assert across == 0.0


@pytest.mark.fashion_mnist
def test_its_shape(fashion):
    assert len(fashion) == 10_000
    assert fashion.features.shape == (10_000, 53)
    assert fashion.probabilities.shape == (10_000, 7, 10)
    base = np.array(fashion.extra["base"])
    parts = [set(base[fashion.split == name]) for name in ("train", "validation", "test")]
    assert sum(map(len, parts)) == len(set.union(*parts))


@pytest.mark.fashion_mnist
def test_it_is_worth_routing(fashion):
    test = fashion.part("test")
    accuracy = test.quality.mean(axis=0)
    assert test.quality.max(axis=1).mean() >= accuracy.max() + 0.05
    assert accuracy.max() >= 0.6  # more after eight epochs
    home = [
        test.quality[test.group == name, test.experts.index(f"{name}-specialist")].mean() for name in NAMES
    ]
    assert np.mean(home) >= accuracy.max() + 0.01
    cost = dict(zip(test.experts, test.cost[0], strict=True))
    assert cost["expensive-generalist"] > 10 * cost["clean-specialist"] > 20 * cost["cheap-generalist"]
