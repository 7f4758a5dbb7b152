from __future__ import annotations

import copy

import pytest
import torch
from torch import nn

from rsn2_kernels.nn import SlotModule, TaskLayer, TaskMultiheadAttention, active, convert_

LENGTH, ROWS, WIDTH = 5, 4, 8
SLOTS = torch.tensor([1, 0, 1, 1])


def own_everything(model: nn.Module, slot: int) -> None:
    for layer in model.modules():
        if isinstance(layer, TaskLayer):
            layer.claim(slot, layer.free())


def halve(model: nn.Module) -> None:
    """Two slots own half of every layer each."""
    for layer in model.modules():
        if isinstance(layer, TaskLayer):
            half = torch.rand(layer.weight_shape) < 0.5
            layer.claim(0, half)
            layer.claim(1, ~half)


def masks(kind: str, dtype: torch.dtype) -> dict[str, torch.Tensor]:
    causal = torch.ones(LENGTH, LENGTH, dtype=torch.bool).triu(1)
    padding = torch.zeros(ROWS, LENGTH, dtype=torch.bool)
    padding[1, 3:] = padding[2, 4:] = True
    per_head = torch.rand(ROWS * 2, LENGTH, LENGTH) < 0.3
    per_head[..., 0] = False
    if dtype.is_floating_point:
        causal, padding, per_head = (
            torch.zeros_like(mask, dtype=dtype).masked_fill(mask, -torch.inf) for mask in (causal, padding, per_head)
        )
    return {
        "none": {},
        "attention": {"attn_mask": causal},
        "per_head": {"attn_mask": per_head},
        "padding": {"key_padding_mask": padding},
        "both": {"attn_mask": causal, "key_padding_mask": padding},
        "causal_hint": {"attn_mask": causal, "is_causal": True},
        "causal_hint_and_padding": {"attn_mask": causal, "is_causal": True, "key_padding_mask": padding},
    }[kind]


KINDS = ["none", "attention", "per_head", "padding", "both", "causal_hint", "causal_hint_and_padding"]


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("need_weights", [False, True])
@pytest.mark.parametrize("batch_first", [False, True])
@pytest.mark.parametrize("mask_dtype", [torch.bool, torch.float32])
def test_it_attends_as_the_dense_module(kind, need_weights, batch_first, mask_dtype):
    dense = nn.MultiheadAttention(WIDTH, 2, batch_first=batch_first)
    nn.init.normal_(dense.in_proj_bias), nn.init.normal_(dense.out_proj.bias)
    layer = TaskMultiheadAttention.from_dense(dense, num_slots=2)
    own_everything(layer, 1)
    x = torch.randn(ROWS, LENGTH, WIDTH)
    x = (x if batch_first else x.transpose(0, 1)).clone().requires_grad_()
    other = x.detach().clone().requires_grad_()
    options = masks(kind, mask_dtype)
    y, weights = layer(x, x, x, need_weights=need_weights, slots=1, **options)
    expected, expected_weights = dense(other, other, other, need_weights=need_weights, **options)
    torch.testing.assert_close(y, expected)
    assert (weights is None) == (expected_weights is None)
    if weights is not None:
        torch.testing.assert_close(weights, expected_weights)
    y.square().sum().backward(), expected.square().sum().backward()
    torch.testing.assert_close(x.grad, other.grad, rtol=1e-4, atol=1e-5)
    again = layer.to_dense(1)(other, other, other, need_weights=need_weights, **options)[0]
    assert torch.equal(again, expected)


OPTIONS = {
    "cross": {"kdim": 6, "vdim": 10},
    "zero_attention": {"add_zero_attn": True},
    "no_bias": {"bias": False},
}


@pytest.mark.parametrize("name", OPTIONS)
@pytest.mark.parametrize("average", [False, True])
@pytest.mark.parametrize("batched", [False, True])
def test_other_forms(name, average, batched):
    dense = nn.MultiheadAttention(WIDTH, 2, batch_first=True, **OPTIONS[name])
    layer = TaskMultiheadAttention.from_dense(dense, num_slots=2)
    own_everything(layer, 0)
    leading = (ROWS,) if batched else ()
    query = torch.randn(*leading, 3, WIDTH)
    key, value = torch.randn(*leading, LENGTH, dense.kdim), torch.randn(*leading, LENGTH, dense.vdim)
    padding = torch.rand(*leading, LENGTH) < 0.3
    padding[..., 0] = False
    for need_weights in (False, True):
        given = {"key_padding_mask": padding, "average_attn_weights": average, "need_weights": need_weights}
        y, weights = layer(query, key, value, slots=0, **given)
        expected, expected_weights = dense(query, key, value, **given)
        torch.testing.assert_close(y, expected)
        if need_weights:
            torch.testing.assert_close(weights, expected_weights)
    assert torch.equal(layer.to_dense(0)(query, key, value)[0], dense(query, key, value)[0])


@pytest.mark.parametrize("batch_first", [False, True])
@pytest.mark.parametrize("need_weights", [False, True])
@pytest.mark.parametrize("kind", KINDS)
def test_mixed_batch_is_the_slots_one_by_one(batch_first, need_weights, kind, same_rows):
    layer = TaskMultiheadAttention.from_dense(nn.MultiheadAttention(WIDTH, 2, batch_first=batch_first), num_slots=2)
    halve(layer)
    x, options = torch.randn(ROWS, LENGTH, WIDTH), masks(kind, torch.bool)

    def call(rows, slots, **given):
        part = x[rows] if batch_first else x[rows].transpose(0, 1)
        y, weights = layer(part, part, part, need_weights=need_weights, slots=slots, **given)
        return y if batch_first else y.transpose(0, 1), weights

    y, weights = call(torch.ones(ROWS, dtype=torch.bool), SLOTS, **options)
    for slot in range(2):
        rows = SLOTS == slot
        given = dict(options)
        if "key_padding_mask" in given:
            given["key_padding_mask"] = given["key_padding_mask"][rows]
        if given.get("attn_mask") is not None and given["attn_mask"].dim() == 3:
            given["attn_mask"] = given["attn_mask"].reshape(ROWS, 2, LENGTH, LENGTH)[rows].flatten(0, 1)
        alone, alone_weights = call(rows, slot, **given)
        same_rows(y[rows], alone)
        if weights is not None:
            same_rows(weights[rows], alone_weights)


@pytest.mark.filterwarnings("ignore:The PyTorch API of nested tensors")
@pytest.mark.parametrize("batch_first", [False, True])
@pytest.mark.parametrize("norm_first", [False, True])
@pytest.mark.parametrize("training", [False, True])
@pytest.mark.parametrize("activation", ["relu", "gelu"])
def test_an_encoder_uses_the_task_layers(batch_first, norm_first, training, activation, same_rows):
    dense = nn.TransformerEncoder(
        nn.TransformerEncoderLayer(WIDTH, 2, 16, 0.0, activation, batch_first=batch_first, norm_first=norm_first),
        2, norm=nn.LayerNorm(WIDTH), enable_nested_tensor=batch_first and not norm_first,
    )  # fmt: skip
    model = copy.deepcopy(dense)
    convert_(model, 2)
    halve(model)
    whole = copy.deepcopy(dense)
    convert_(whole, 1)
    own_everything(whole, 0)
    dense.train(training), model.train(training), whole.train(training)
    x = torch.randn(ROWS, LENGTH, WIDTH)
    given = {"src_key_padding_mask": masks("padding", torch.bool)["key_padding_mask"]}
    visible = ~given["src_key_padding_mask"]

    def run(network, rows, **options):
        part = x[rows] if batch_first else x[rows].transpose(0, 1)
        with torch.no_grad():  # without gradients, torch would take its fused way
            y = network(part, **options)
        return y if batch_first else y.transpose(0, 1)

    everyone = torch.ones(ROWS, dtype=torch.bool)
    for options in ({}, given, {"mask": masks("attention", torch.float32)["attn_mask"], "is_causal": True}):
        with active(0):
            y = run(whole, everyone, **options)
        expected = run(dense, everyone, **options)
        torch.testing.assert_close(y[visible], expected[visible], rtol=1e-4, atol=1e-5)
        with active(SLOTS):
            mixed = run(model, everyone, **options)
        for slot in range(2):
            rows, own = slot == SLOTS, dict(options)
            if "src_key_padding_mask" in own:
                own["src_key_padding_mask"] = own["src_key_padding_mask"][rows]
            with active(slot):
                alone = run(model, rows, **own)
            # The bits of torch's own gelu depend on where in memory a number stands.
            if activation == "relu":
                same_rows(mixed[rows], alone)
            else:
                torch.testing.assert_close(mixed[rows], alone, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("keep_attention", [False, True])
def test_an_encoder_of_which_a_part_stays_dense_still_calls_its_children(keep_attention):
    layer = nn.TransformerEncoderLayer(WIDTH, 2, 16, 0.0, batch_first=True).eval()
    dense = copy.deepcopy(layer)
    convert_(layer, 1, where=lambda name, module: isinstance(module, nn.MultiheadAttention) != keep_attention)
    own_everything(layer, 0)
    x = torch.randn(ROWS, LENGTH, WIDTH)
    with torch.no_grad(), active(0):
        torch.testing.assert_close(layer(x), dense(x), rtol=1e-4, atol=1e-5)
    called = []
    for child in layer.modules():
        if isinstance(child, SlotModule):
            child.register_forward_hook(lambda module, *_: called.append(module))
    with torch.no_grad(), active(0):
        layer(x)
    assert len(called) == 4  # two products and two norms, or four projections


@pytest.mark.filterwarnings("ignore:enable_nested_tensor is True")
@pytest.mark.parametrize("batch_first", [False, True])
def test_a_whole_transformer(batch_first, same_rows):
    dense = nn.Transformer(WIDTH, 2, 1, 1, 16, 0.0, batch_first=batch_first).eval()
    model, mixed = copy.deepcopy(dense), copy.deepcopy(dense)
    convert_(model, 1)
    own_everything(model, 0)
    source, target = (
        torch.randn(4, 4, WIDTH),
        torch.randn(4, 4, WIDTH),
    )  # as many rows as steps: nothing may be confused
    with active(0):
        torch.testing.assert_close(model(source, target), dense(source, target), rtol=1e-4, atol=1e-5)
    convert_(mixed, 2)
    halve(mixed)
    with active(SLOTS):
        y = mixed(source, target)
    for slot in range(2):
        rows = slot == SLOTS
        with active(slot):
            if batch_first:
                same_rows(y[rows], mixed(source[rows], target[rows]))
            else:
                same_rows(y[:, rows], mixed(source[:, rows], target[:, rows]))


@pytest.mark.parametrize(
    ("options", "error", "message"),
    [
        (
            {"attn_mask": torch.zeros(3, 3)},
            ValueError,
            r"attn_mask must be bool or float \[5, 5\] or \[8, 5, 5\], got .* \[3, 3\]",
        ),
        ({"attn_mask": torch.zeros(5, 5, dtype=torch.int64)}, ValueError, "attn_mask must be bool or float"),
        ({"key_padding_mask": torch.zeros(5, 4)}, ValueError, r"key_padding_mask must be bool or float \[4, 5\], got"),
        ({"is_causal": True}, RuntimeError, "is_causal is a hint about attn_mask, which is missing"),
        ({"slots": torch.tensor([0, 1])}, ValueError, r"slots must have shape \[\] or \[4\]"),
        ({"slots": 2}, IndexError, r"slot must be in 0\.\.1, got 2"),
    ],
)
def test_bad_input(options, error, message):
    layer = TaskMultiheadAttention(WIDTH, 2, num_slots=2, batch_first=True)
    x = torch.randn(ROWS, LENGTH, WIDTH)
    with pytest.raises(error, match=message):
        layer(x, x, x, **{"slots": 0, **options})
    with pytest.raises(ValueError, match="key must have 3 dimensions, or 2 without a batch, as query"):
        layer(x, x[0], x, slots=0)
    with pytest.raises(ValueError, match="num_heads must divide embed_dim 8, got 3"):
        TaskMultiheadAttention(WIDTH, 3, num_slots=2)
    with pytest.raises(ValueError, match="add_bias_kv=True is not supported"):
        TaskMultiheadAttention.from_dense(nn.MultiheadAttention(WIDTH, 2, add_bias_kv=True), num_slots=2)
