from __future__ import annotations

import pickle

import pytest
import torch

from rsn2.data import TensorBatches, flat_pixels, unit_pixels

SHAPES = {  # rows, size
    "one_row": (1, 1),
    "exact": (12, 4),
    "last_is_smaller": (13, 4),
    "one_batch": (3, 10),
}


def batches(num_rows: int, size: int, **options) -> TensorBatches:
    x = torch.arange(num_rows)
    return TensorBatches(x, 10 * x, size, **options)


def seen(passed: TensorBatches) -> list[list[int]]:
    return [x.tolist() for x, _ in passed]


@pytest.mark.parametrize("num_rows, size", SHAPES.values(), ids=SHAPES)
@pytest.mark.parametrize("shuffle", [False, True])
def test_every_row_once_with_its_target(num_rows, size, shuffle):
    loader = batches(num_rows, size, shuffle=shuffle)
    for _ in range(3):
        pairs = [(x, y) for x, y in loader]
        assert len(pairs) == len(loader)
        assert all(len(x) == size for x, _ in pairs[:-1])
        assert sorted(torch.cat([x for x, _ in pairs]).tolist()) == list(range(num_rows))
        assert all(torch.equal(y, 10 * x) for x, y in pairs)


def test_unshuffled_is_the_given_order():
    assert seen(batches(5, 2)) == [[0, 1], [2, 3], [4]] and seen(batches(5, 2, drop_last=True)) == [[0, 1], [2, 3]]


def test_order_depends_on_seed_and_epoch_alone():
    loader = batches(100, 100, shuffle=True, seed=1)
    first, second = seen(loader), seen(loader)
    torch.manual_seed(5)
    again = batches(100, 100, shuffle=True, seed=1)
    assert first != second
    assert [seen(again), seen(again)] == [first, second]
    assert torch.equal(again.order(1), torch.tensor(second[0]))
    assert seen(batches(100, 100, shuffle=True, seed=2)) != first
    # Neighbouring seeds and epochs do not share streams, nor do seeds that differ in high bits only.
    orders = {
        tuple(batches(100, 1, shuffle=True, seed=s).order(e).tolist()) for s in (0, 1, 2, 2**31) for e in range(4)
    }
    assert len(orders) == 16


def test_the_stream_is_the_same_on_every_machine():
    assert batches(10, 10, shuffle=True, seed=7).order(3).tolist() == GOLDEN


GOLDEN = [7, 4, 1, 6, 8, 3, 5, 2, 9, 0]


@pytest.mark.parametrize("stop_after", range(1, 13))
def test_a_killed_run_resumes_at_the_exact_batch(stop_after):
    options = {"shuffle": True, "seed": 3}
    whole = batches(13, 3, **options)
    expected = [x.tolist() for _ in range(3) for x, _ in whole]  # 5 batches an epoch

    first, done, state = batches(13, 3, **options), [], None
    while len(done) < stop_after:
        for x, _ in first:
            done.append(x.tolist())
            if len(done) == stop_after:
                state = pickle.loads(pickle.dumps(first.state_dict()))
                break
    resumed = batches(13, 3, **options)
    resumed.load_state_dict(state)
    while len(done) < len(expected):
        done += seen(resumed)
    assert done == expected


def test_a_pass_left_early_is_followed_by_the_next_epoch():
    loader, whole = batches(6, 2, shuffle=True), batches(6, 2, shuffle=True)
    next(iter(loader))
    seen(whole)
    assert seen(loader) == seen(whole)


def test_foreign_states_are_refused_and_change_nothing():
    loader = batches(13, 3, shuffle=True, seed=3)
    next(iter(loader))
    state = loader.state_dict()
    for change, message in (
        ({"seed": 4}, "seed 4 instead of 3"),
        ({"size": 4, "num_rows": 9}, "num_rows 9 instead of 13, size 4 instead of 3"),
        ({"shuffle": False}, "shuffle False instead of True"),
        ({"batch": 5}, r"batch in 0\.\.4, got 0 and 5"),
        ({"epoch": -1}, "epoch must be at least 0"),
        ({"more": 1}, "expected the keys"),
    ):
        with pytest.raises(ValueError, match=message):
            loader.load_state_dict({**state, **change})
    assert loader.state_dict() == state


def test_transform_and_pixels():
    images = torch.tensor([0, 51, 255, 102], dtype=torch.uint8).reshape(1, 1, 2, 2).repeat(3, 1, 1, 1)
    assert unit_pixels(images).dtype == torch.float32
    torch.testing.assert_close(flat_pixels(images)[0], torch.tensor([0, 0.2, 1, 0.4]))
    (x, _), *_ = TensorBatches(images, torch.zeros(3), 2, transform=flat_pixels)
    assert list(x.shape) == [2, 4] and images[0, 0, 0, 1] == 51


def test_anything_with_len_and_indexing():
    class Lazy:
        def __len__(self):
            return 5

        def __getitem__(self, rows):
            return torch.arange(5)[rows] + 100

    y = torch.arange(5)
    for shuffle in (False, True):
        for x, target in TensorBatches(Lazy(), y, 2, shuffle=shuffle):
            assert torch.equal(x, target + 100)


def test_bad_arguments():
    x = torch.zeros(4, 2)
    with pytest.raises(ValueError, match="one length, got 4 and 3"):
        TensorBatches(x, torch.zeros(3), 2)
    with pytest.raises(ValueError, match="there is no row"):
        TensorBatches(x[:0], torch.zeros(0), 2)
    for size in (0, -1, 2.0, True):
        with pytest.raises(ValueError, match="size must be an int of at least 1"):
            TensorBatches(x, torch.zeros(4), size)
    with pytest.raises(ValueError, match="there is no batch: 4 rows, size 5"):
        TensorBatches(x, torch.zeros(4), 5, drop_last=True)
    for seed in (-1, 2**32, 1.5):
        with pytest.raises(ValueError, match="seed must be an int in"):
            TensorBatches(x, torch.zeros(4), 2, seed=seed)
