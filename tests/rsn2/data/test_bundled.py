from __future__ import annotations

import builtins
import importlib
import sys

import pytest
import torch

from rsn2.data import bundled
from rsn2.data.errors import require

SETS = {  # features, classes (0: a number), rows of train, validation, test
    "digits": (64, 10, (1077, 360, 360)),
    "breast_cancer": (30, 2, (341, 114, 114)),
    "wine": (13, 3, (106, 36, 36)),
    "diabetes": (10, 0, (264, 89, 89)),
}


@pytest.fixture(params=SETS)
def named(request):
    pytest.importorskip("sklearn", reason="scikit-learn brings these data sets")
    return request.param, getattr(bundled, f"load_{request.param}")()


def test_shapes_and_types(named):
    name, dataset = named
    features, classes, sizes = SETS[name]
    assert dataset.name == name and dataset.num_classes == classes
    assert tuple(len(split) for split in dataset.splits().values()) == sizes
    for split in dataset.splits().values():
        assert split.x.dtype == torch.float32 and split.x.shape[1] == features
        if classes:
            assert split.y.dtype == torch.int64 and split.y.unique().tolist() == list(range(classes))
        else:
            assert split.y.dtype == torch.float32 and list(split.y.shape) == [len(split), 1]


def test_every_row_is_in_one_part(named):
    name, dataset = named
    original, _, _ = bundled._read(name)
    unsplit = torch.cat([split.x for split in dataset.splits().values()])
    assert len(unsplit) == len(original)
    assert len(unsplit.unique(dim=0)) == len(torch.from_numpy(original).unique(dim=0))


def test_scaled_on_the_training_part(named):
    name, dataset = named
    x = dataset.train.x.double()
    if name == "digits":
        assert x.min() == 0 and x.max() == 1
        return
    torch.testing.assert_close(x.mean(dim=0), torch.zeros(x.shape[1], dtype=torch.float64), atol=1e-6, rtol=0)
    torch.testing.assert_close(
        x.std(dim=0, correction=0), torch.ones(x.shape[1], dtype=torch.float64), atol=1e-6, rtol=0
    )
    assert (dataset.test.x.double().mean(dim=0).abs() > 1e-4).any()  # other rows, the same numbers


def test_diabetes_target_leads_back():
    pytest.importorskip("sklearn", reason="scikit-learn brings these data sets")
    dataset = bundled.load_diabetes()
    values = torch.cat([s.y for s in dataset.splits().values()]) * dataset.target_scale + dataset.target_offset
    torch.testing.assert_close(
        values.flatten().sort().values, torch.from_numpy(bundled._read("diabetes")[1]).float().sort().values
    )


def test_the_seed_decides(named):
    name, dataset = named
    load = getattr(bundled, f"load_{name}")
    assert torch.equal(load().train.x, dataset.train.x)
    assert not torch.equal(load(seed=1).train.x, dataset.train.x)


def test_a_missing_extra_is_named(monkeypatch):
    real = builtins.__import__

    def without_sklearn(name, *args, **kwargs):
        if name.split(".")[0] == "sklearn":
            raise ModuleNotFoundError(f"No module named {name!r}", name="sklearn")
        return real(name, *args, **kwargs)

    for module in [m for m in sys.modules if m.split(".")[0] == "sklearn"]:
        monkeypatch.delitem(sys.modules, module)
    monkeypatch.setattr(importlib, "import_module", lambda name: without_sklearn(name))
    with pytest.raises(
        ImportError, match=r"the data set wine needs the module sklearn.*pip install 'rsn2-kernels\[experiments\]'"
    ):
        bundled.load_wine()


def test_a_broken_module_is_not_called_missing(monkeypatch):
    def broken(name):
        raise ModuleNotFoundError("No module named 'inner'", name="inner")

    monkeypatch.setattr(importlib, "import_module", broken)
    with pytest.raises(ModuleNotFoundError, match="No module named 'inner'"):
        require("sklearn.datasets", "a test")
