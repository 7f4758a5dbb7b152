"""A loader goes on from where it was left, whether it knows its place or not."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch.utils.data import DataLoader, TensorDataset

from rsn2.data import TensorBatches
from rsn2.procedure.loaders import Cycle, check_loader

pytestmark = pytest.mark.cpu_only(reason="torch's own loaders draw on the CPU alone")
X, Y = torch.arange(7.0), torch.arange(7)


def own_generator() -> DataLoader:
    return DataLoader(TensorDataset(X, Y), 2, shuffle=True, generator=torch.Generator().manual_seed(4))


LOADERS: dict[str, Callable[[], Any]] = {
    "tensor_batches": lambda: TensorBatches(X, Y, 2, shuffle=True, seed=1),
    "global_random_state": lambda: DataLoader(TensorDataset(X, Y), 2, shuffle=True),
    "own_generator": own_generator,
    "list": lambda: [(X[:4], Y[:4]), (X[4:], Y[4:])],
}


@pytest.mark.parametrize("make", LOADERS.values(), ids=LOADERS)
@pytest.mark.parametrize("taken", [0, 1, 3, 4, 5, 8, 11])
def test_the_same_batches_follow(make: Callable[[], Any], taken: int) -> None:
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        cycle = Cycle("a", make())
        for _ in range(taken):
            cycle.next()
        state, random = cycle.state_dict(), torch.get_rng_state()
        expected = [cycle.next()[1].tolist() for _ in range(9)]
        torch.manual_seed(99)
        torch.set_rng_state(random)
        again = Cycle("a", make())
        again.load_state_dict(state)
        assert torch.equal(torch.get_rng_state(), random)
        assert [again.next()[1].tolist() for _ in range(9)] == expected
        assert len({tuple(batch) for batch in expected}) > 1


@pytest.mark.parametrize(
    ("loader", "error", "message"),
    [([], ValueError, "train of task 'a' is empty"), (iter([1]), TypeError, "iterated again and have a length"),
     (5, TypeError, "got int")],
)  # fmt: skip
def test_what_is_no_loader(loader: Any, error: type[Exception], message: str) -> None:
    with pytest.raises(error, match=message):
        check_loader("fit", "train", "a", loader)


def test_batches_are_pairs() -> None:
    with pytest.raises(ValueError, match=r"batches of task 'a' must be \(x, y\), got Tensor"):
        Cycle("a", [X]).next()


def test_others_may_go_through_the_same_loader_in_between() -> None:
    loader = TensorBatches(X, Y, 2, shuffle=True)
    cycle, alone = Cycle("a", loader), Cycle("a", TensorBatches(X, Y, 2, shuffle=True))
    for _ in range(13):
        assert cycle.next()[1].tolist() == alone.next()[1].tolist()
        assert len(list(loader)) == 4
        assert cycle.state_dict() == alone.state_dict()
