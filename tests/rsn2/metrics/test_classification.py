from __future__ import annotations

import pytest
import torch

from rsn2.metrics import accuracy, f1_per_class, mean_squared_error, predicted_labels


def test_predicted_labels():
    assert predicted_labels(torch.tensor([[0.1, 0.9], [2.0, -1.0]])).tolist() == [1, 0]
    assert predicted_labels(torch.tensor([[0.1], [-0.1], [0.0]])).tolist() == [1, 0, 0]
    assert predicted_labels(torch.tensor([3.0, -3.0])).tolist() == [1, 0]
    assert predicted_labels(torch.tensor([4, 2])).tolist() == [4, 2]
    for outputs in (torch.zeros(2, 3, 4), torch.zeros(2, 2, dtype=torch.long), torch.zeros(2, dtype=torch.bool)):
        with pytest.raises(ValueError, match="predicted_labels: "):
            predicted_labels(outputs)


def test_accuracy():
    logits = torch.tensor([[1.0, 0], [0, 1], [0, 1]])
    assert accuracy(logits, torch.tensor([0, 1, 0])) == pytest.approx(2 / 3)
    assert accuracy(torch.tensor([[2.0], [-2.0]]), torch.tensor([[1.0], [1.0]])) == 0.5
    with pytest.raises(ValueError, match="accuracy: outputs and target must have one length, got 3 and 2"):
        accuracy(logits, torch.tensor([0, 1]))
    with pytest.raises(ValueError, match="there is no row"):
        accuracy(logits[:0], torch.tensor([]))


def test_f1_agrees_with_scikit_learn():
    metrics = pytest.importorskip("sklearn.metrics", reason="scikit-learn gives the expected values")
    generator = torch.Generator().manual_seed(0)
    target = torch.randint(0, 5, (200,), generator=generator)
    predicted = torch.randint(1, 6, (200,), generator=generator)  # class 0 is never predicted, class 5 never true
    expected = metrics.f1_score(target, predicted, average=None, labels=range(7), zero_division=0)
    assert f1_per_class(predicted, target, 7) == pytest.approx(expected.tolist(), abs=1e-12)
    assert f1_per_class(predicted, target, 7)[6] == 0


def test_f1_refuses_labels_outside():
    with pytest.raises(ValueError, match=r"labels of target must be in 0\.\.1, got 0\.\.2"):
        f1_per_class(torch.tensor([0, 1]), torch.tensor([0, 2]), 2)
    with pytest.raises(ValueError, match=r"labels of outputs must be in 0\.\.1, got -1\.\.1"):
        f1_per_class(torch.tensor([-1, 1]), torch.tensor([0, 1]), 2)


def test_mean_squared_error():
    assert mean_squared_error(torch.tensor([[1.0], [4.0]]), torch.tensor([[0.0], [2.0]])) == 2.5
    with pytest.raises(ValueError, match=r"one shape, got \[2, 1\] and \[2\]"):
        mean_squared_error(torch.zeros(2, 1), torch.zeros(2))
    with pytest.raises(ValueError, match="there is no row"):
        mean_squared_error(torch.zeros(0, 1), torch.zeros(0, 1))
