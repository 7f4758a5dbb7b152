from __future__ import annotations

import copy
import re
from collections import OrderedDict

import pytest
import torch
from torch import nn

from rsn2_kernels.nn import (
    ConversionError,
    TaskBatchNorm1d,
    TaskEmbedding,
    TaskLayer,
    TaskLinear,
    active,
    convert_,
    slot_modules,
)


def test_a_converted_model_that_owns_everything_is_the_model(example):
    model, batch = example
    dense, x = copy.deepcopy(model).eval(), batch(4)
    kind, forward = type(model), model.forward.__func__
    assert convert_(model.eval(), 2).num_parameters == sum(parameter.numel() for parameter in dense.parameters())
    assert type(model) is kind and model.forward.__func__ is forward and "forward" not in vars(model)
    for layer in slot_modules(model).values():
        if isinstance(layer, TaskLayer):
            layer.claim(1, layer.free())
    with active(1):
        torch.testing.assert_close(model(x), dense(x), rtol=1e-4, atol=1e-5)
    with pytest.raises(RuntimeError, match="no slot given and none active"):
        model(x)


def test_the_report_accounts_for_every_parameter_and_buffer(models):
    model = models.TransformerClassifier()
    sizes = sum(p.numel() for p in model.parameters()), sum(b.numel() for b in model.buffers())
    report = convert_(model, 2, where=lambda name, module: name != "fc")
    assert (report.num_parameters, report.num_buffer_values) == sizes
    kinds = {entry.name: (entry.was, entry.became, entry.kind) for entry in report}
    assert kinds["encoder.layers.0.self_attn"] == ("MultiheadAttention", "TaskMultiheadAttention", "claimed")
    assert kinds["encoder.layers.1.norm2"] == ("LayerNorm", "TaskLayerNorm", "per slot")
    assert kinds["embedding"] == ("Embedding", "Embedding", "frozen") and not model.embedding.weight.requires_grad
    assert kinds["positions"] == ("PositionalEncoding", "PositionalEncoding", "shared")
    assert kinds["fc"] == ("Linear", "Linear", "shared") and type(model.fc) is nn.Linear
    text = str(report)
    for words in ("encoder.layers.0.self_attn", "TaskMultiheadAttention", "SHARED BY ALL TASKS", "4,868 parameters"):
        assert words in text
    assert [entry.name for entry in report.of_kind("shared")] == ["positions", "fc"]


def test_embeddings_with_a_table_per_slot(models):
    model = models.TransformerClassifier()
    table = model.embedding.weight.detach().clone()
    convert_(model, 2, embedding="per_slot")
    assert isinstance(model.embedding, TaskEmbedding) and torch.equal(model.embedding.weight[1], table)
    assert model.embedding.padding_idx == 0


def test_norms_without_parameters_or_statistics():
    model = nn.Sequential(OrderedDict(
        bn=nn.BatchNorm1d(4, affine=False, track_running_stats=False), ln=nn.LayerNorm(4, elementwise_affine=False),
        gn=nn.GroupNorm(2, 4, affine=False), tracked=nn.BatchNorm1d(4, affine=False),
    ))  # fmt: skip
    report = convert_(model, 2)
    # Statistics of a batch belong to the rows of a slot; what is computed row by row needs no task version.
    assert [entry.name for entry in report] == ["bn", "tracked"]
    assert isinstance(model.bn, TaskBatchNorm1d) and type(model.ln) is nn.LayerNorm
    x, slots = torch.randn(8, 4), torch.tensor([0, 1] * 4)
    dense = nn.Sequential(nn.BatchNorm1d(4, affine=False), nn.LayerNorm(4), nn.GroupNorm(2, 4), nn.BatchNorm1d(4))
    with active(slots):
        y = model(x)
    torch.testing.assert_close(y[slots == 1], dense(x[slots == 1]))


def test_names_num_slots_zero_and_slots_added_later(example):
    model, batch = example
    convert_(model, 0)
    x = batch(3)
    for layer in slot_modules(model).values():
        layer.add_slot("a")
        assert layer.add_slot("b") == layer.slot_index("b") == 1
        if isinstance(layer, TaskLayer):
            layer.claim("b", layer.free())
    with active(1):
        assert model.eval()(x).isfinite().all()


def test_hooks_training_mode_and_dtype_move_to_the_new_layer():
    model = nn.Sequential(nn.Linear(3, 4, dtype=torch.float64), nn.BatchNorm1d(4, dtype=torch.float64))
    called = []
    handle = model[0].register_forward_hook(lambda module, inputs, output: called.append(type(module)))
    model[1].eval()
    convert_(model, 1)
    assert model[0].training and not model[1].training and model[0].flat_values.dtype == torch.float64
    with active(0):
        model(torch.randn(2, 3, dtype=torch.float64))
        handle.remove()
        model(torch.randn(2, 3, dtype=torch.float64))
    assert called == [TaskLinear]


class Custom(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.scale = nn.Parameter(torch.ones(3))
        self.fc = nn.Linear(3, 3)


class MyLinear(nn.Linear):
    def forward(self, x):
        return super().forward(x) * 2


def tied() -> nn.Module:
    model = nn.Sequential(OrderedDict(embedding=nn.Embedding(5, 3), fc=nn.Linear(3, 5, bias=False)))
    model.fc.weight = model.embedding.weight
    return model


def tied_by_memory() -> nn.Module:
    model = nn.Sequential(OrderedDict(a=nn.Linear(3, 3), b=nn.Linear(3, 3)))
    model.b.weight.data = model.a.weight.data
    return model


def twice() -> nn.Module:
    layer = nn.Linear(3, 3)
    return nn.Sequential(OrderedDict(a=layer, relu=nn.ReLU(), b=layer))


def parametrized() -> nn.Module:
    model = nn.Sequential(OrderedDict(fc=nn.Linear(3, 3, bias=False), other=nn.Linear(3, 3)))
    nn.utils.parametrizations.orthogonal(model.fc)
    return model


def weight_normed() -> nn.Module:
    model = nn.Sequential(OrderedDict(fc=nn.Linear(3, 3)))
    nn.utils.spectral_norm(model.fc)
    return model


def half_converted() -> nn.Module:
    model = nn.Sequential(OrderedDict(a=nn.Linear(3, 3), b=nn.Linear(3, 3)))
    convert_(model, 1, where=lambda name, module: name == "a")
    return model


def with_integers() -> nn.Module:
    model = nn.Sequential(OrderedDict(fc=nn.Linear(3, 3)))
    model.fc.weight = nn.Parameter(torch.zeros(3, 3, dtype=torch.int8), requires_grad=False)
    return model


def one(**modules: nn.Module) -> nn.Module:
    return nn.Sequential(OrderedDict(good=nn.Linear(3, 3), **modules))


OBSTACLES = {
    "tied": (tied, [r"embedding\.weight and fc\.weight are tied"]),
    "tied_by_memory": (tied_by_memory, [r"a\.weight and b\.weight are tied"]),
    "twice": (twice, [r"a and b \(Linear\) are one module at several places"]),
    "parametrized": (parametrized, [r"fc \(ParametrizedLinear\): it is parametrized"]),
    "spectral_norm": (weight_normed, [r"fc \(Linear\): it has more than a Linear has: weight_orig"]),
    "lazy": (lambda: one(fc=nn.LazyLinear(3)), [r"fc \(LazyLinear\): it is lazy"]),
    "quantized": (lambda: one(fc=torch.ao.nn.quantized.dynamic.Linear(3, 3)), [r"fc \(Linear\): it is quantized"]),
    "integers": (with_integers, [r"its weight must be a plain dense float tensor, got Tensor of torch\.int8"]),
    "complex": (lambda: one(fc=nn.Linear(3, 3, dtype=torch.complex64)), [r"plain dense float tensor.*complex64"]),
    "converted": (half_converted, [r"a \(TaskLinear\): it is converted already"]),
    "transposed": (
        lambda: one(up=nn.ConvTranspose2d(3, 3, 2)),
        [r"up \(ConvTranspose2d\): there is no task version.*weight, bias"],
    ),
    "recurrent": (lambda: one(rnn=nn.LSTM(3, 3)), [r"rnn \(LSTM\): there is no task version"]),
    "conv3d": (lambda: one(conv=nn.Conv3d(3, 3, 2)), [r"conv \(Conv3d\): there is no task version"]),
    "subclass": (lambda: one(fc=MyLinear(3, 3)), [r"fc \(MyLinear\): there is no task version"]),
    "custom": (lambda: one(block=Custom()), [r"block \(Custom\): there is no task version.*: scale"]),
    "statistics": (lambda: one(norm=nn.InstanceNorm2d(3, track_running_stats=True)), [r"running statistics would mix"]),
    "bias_kv": (
        lambda: one(at=nn.MultiheadAttention(4, 2, add_bias_kv=True)),
        [r"at \(MultiheadAttention\): add_bias_kv"],
    ),
    "max_norm": (
        lambda: one(table=nn.Embedding(4, 3, max_norm=1.0)),
        [r"table \(Embedding\): an Embedding with max_norm"],
    ),
    "itself": (
        lambda: nn.Linear(3, 3),
        [r"\(the model\) \(Linear\): it is itself the layer; use the task layer's from_dense"],
    ),
    "several": (
        lambda: one(up=nn.ConvTranspose1d(3, 3, 2), block=Custom(), rnn=nn.GRU(3, 3)),
        [r"up \(", r"block \(", r"rnn \("],
    ),
}


def fingerprint(model: nn.Module) -> list[tuple[str, int, bool]]:
    found = [(name, id(module), module.training) for name, module in model.named_modules(remove_duplicate=False)]
    return found + [(name, id(parameter), parameter.requires_grad) for name, parameter in model.named_parameters()]


@pytest.mark.filterwarnings("ignore:Lazy modules are")
@pytest.mark.filterwarnings("ignore:torch.quantize_per_tensor")
@pytest.mark.parametrize("name", OBSTACLES)
def test_what_cannot_be_converted_is_listed_and_nothing_changes(name):
    make, messages = OBSTACLES[name]
    model = make()
    before = fingerprint(model)
    with pytest.raises(ConversionError) as caught:
        convert_(model, 2)
    assert isinstance(caught.value, ValueError) and "nothing was changed" in str(caught.value)
    assert len(caught.value.obstacles) == len(messages), str(caught.value)
    for message in messages:
        assert any(re.search(message, obstacle) for obstacle in caught.value.obstacles), str(caught.value)
    assert fingerprint(model) == before


@pytest.mark.filterwarnings("ignore:Lazy modules are")
@pytest.mark.filterwarnings("ignore:torch.quantize_per_tensor")
@pytest.mark.parametrize("name", sorted(set(OBSTACLES) - {"itself"}))
def test_where_excludes_what_cannot_be_converted(name):
    make, _ = OBSTACLES[name]
    model = make()
    good = {"good", "other", "relu", "block.fc"}
    before = dict(model.named_modules(remove_duplicate=False))
    report = convert_(model, 2, where=lambda name, module: name in good)
    after = dict(model.named_modules(remove_duplicate=False))
    for place, module in before.items():
        if place in good and isinstance(module, nn.Linear):
            assert isinstance(after[place], TaskLinear)
        else:
            assert after[place] is module
    assert all(entry.kind in ("shared", "frozen") for entry in report if entry.name not in good)


def test_bad_arguments_change_nothing():
    model = one()
    before = fingerprint(model)
    for options, error, message in (
        ({"num_slots": -1}, ValueError, "num_slots must be a number >= 0 or different names, got -1"),
        ({"num_slots": ["a", "a"]}, ValueError, "num_slots must be"),
        ({"num_slots": 2, "embedding": "tied"}, ValueError, "embedding must be 'shared' or 'per_slot', got 'tied'"),
        ({"num_slots": 2, "where": "fc"}, TypeError, "where must be callable"),
    ):
        with pytest.raises(error, match=message):
            convert_(model, **options)
    with pytest.raises(TypeError, match="model must be a torch.nn.Module, got list"):
        convert_([model], 2)

    def fails(name, module):
        raise KeyError("the caller's own")

    with pytest.raises(KeyError, match="the caller's own"):
        convert_(model, 2, where=fails)
    assert fingerprint(model) == before
