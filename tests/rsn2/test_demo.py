"""The demo, in two epochs: what its page shows, and that its proof can fail."""

from __future__ import annotations

import dataclasses
import re
from html.parser import HTMLParser

import pytest
import torch

from rsn2.demo.measuring import Proof, speed
from rsn2.demo.page import render
from rsn2.demo.run import run_demo
from rsn2.demo.tasks import STAGES, load_tasks
from rsn2.demo.wording import difference, shortcomings
from rsn2.metrics import Timing


@pytest.fixture(scope="module", autouse=True)
def one_thread():
    """Small networks: on a busy machine a second thread only waits."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


@pytest.fixture(scope="module")
def demo(tmp_path_factory):
    path = tmp_path_factory.mktemp("demo") / "page.html"
    result = run_demo(path, quick=True)
    return result, path.read_text(encoding="utf-8")


class Reader(HTMLParser):
    """Checks that tags are closed in order, and collects addresses and words."""

    VOID = {"meta", "img", "br"}

    def __init__(self):
        super().__init__()
        self.open, self.addresses, self.words, self.tags = [], [], [], []

    def handle_starttag(self, tag, attrs):
        self.tags.append(tag)
        self.addresses += [value for name, value in attrs if name in ("src", "href", "xlink:href")]
        if tag not in self.VOID:
            self.open.append(tag)

    def handle_startendtag(self, tag, attrs):
        self.tags.append(tag)

    def handle_endtag(self, tag):
        assert self.open.pop() == tag

    def handle_data(self, data):
        self.words.append(data)


def test_the_page_is_whole_and_needs_nothing_else(demo):
    _, html = demo
    reader = Reader()
    reader.feed(html)
    assert reader.open == []
    assert all(address.startswith("data:image/png;base64,") for address in reader.addresses)
    assert not re.search(r"https?://|@import|url\(|<script|<link", html)
    assert reader.tags.count("img") == 4 and reader.tags.count("svg") == 7
    assert reader.tags.count("figure") == 11 == reader.tags.count("figcaption")
    assert "nan" not in " ".join(reader.words).lower().split()


def test_no_text_is_smaller_than_nine_pixels(demo):
    _, html = demo
    sizes = [float(size) for size in re.findall(r"font-size[:=]\s*\"?([\d.]+)", html)]
    assert sizes and min(sizes) >= 9


def test_the_page_shows_the_results(demo):
    result, html = demo
    for name in result.tasks:
        for stage in result.after_stage:
            if name in stage:
                assert f"{stage[name].loss:.6f}" in html
        assert result.proof.last[name].outputs[:12] in html and result.proof.last[name].owned[:12] in html
    assert f"{result.sizes.ours_stored / 1000:,.0f} kB" in html and f"{result.sizes.dedicated / 1000:,.0f} kB" in html
    for sentence in shortcomings(result):
        assert sentence.split(":")[0] in html


def test_finished_tasks_keep_every_bit(demo):
    result, _ = demo
    assert result.proof.first == result.proof.last and list(result.proof.first) == list(result.tasks)
    for number, stage in enumerate(result.after_stage):
        assert list(stage) == [name for names in STAGES[: number + 1] for name in names]
        for later in result.after_stage[number:]:
            assert all(later[name] == test for name, test in stage.items())


def test_an_ordinary_network_does_forget(demo):
    result, _ = demo
    first, last = result.ordinary_after_stage[0], result.ordinary_after_stage[-1]
    assert last["digits"].loss > first["digits"].loss


@pytest.mark.parametrize("what", ["value", "bias", "stem", "head"])
def test_the_proof_sees_one_changed_bit(demo, what):
    result, _ = demo
    net, tasks = result.net, {"digits": result.tasks["digits"]}
    layer, slot = net.task_layers("digits")["hidden2"]
    tensor = {
        "value": layer.values[slot],
        "bias": layer.bias[slot],
        "stem": net.stems[0][0].weight,
        "head": net.heads[0].weight,
    }[what]
    flat = tensor.data.view(-1)
    before = flat[0].item()
    proof = Proof()
    proof.check(net, tasks)
    flat[0] = torch.nextafter(flat[0], torch.tensor(torch.inf))
    try:
        with pytest.raises(AssertionError, match="of the finished task 'digits' have changed"):
            proof.check(net, tasks)
    finally:
        flat[0] = before
    proof.check(net, tasks)


def test_who_owns_what_is_counted_exactly(demo):
    result, _ = demo
    for counts in result.net.owned_weights().values():
        assert counts == dict.fromkeys(result.tasks, 26214)  # floor of a tenth of 512 * 512
    values = 4 * 4 * 26214 * 4  # tasks, layers, weights, bytes
    assert result.sizes.ours["values"] == values
    assert result.sizes.ours["dense"] == sum(
        4 * ((task.num_inputs + 1) * 512 + 513 * task.num_outputs) for task in result.tasks.values()
    )
    assert result.sizes.dedicated == result.sizes.ours["dense"] + 4 * 4 * (512 + 1) * 512 * 4
    assert result.sizes.ours_file >= result.sizes.ours_stored * 0.9


def test_a_wrong_mixed_batch_is_not_timed(demo, monkeypatch):
    result, _ = demo
    right = result.net.forward
    monkeypatch.setattr(
        result.net,
        "forward",
        lambda x, task=None: {k: v + 1e-3 for k, v in right(x).items()} if task is None else right(x, task),
    )
    with pytest.raises(AssertionError, match="error .* exceeds"):
        speed(result.net, result.networks, result.tasks, 3, repeats=1)


def test_dedicated_networks_may_use_one_thread_or_all(demo, set_num_threads):
    result, _ = demo
    set_num_threads(2)
    measured = speed(result.net, result.networks, result.tasks, 2, repeats=1)
    assert measured.dedicated_threads in (1, 2) and torch.get_num_threads() == 2
    assert len(measured.ours.samples_ms) == len(measured.dedicated.samples_ms) == 1


def test_what_is_worse_is_said(demo):
    result, _ = demo
    slow = dataclasses.replace(result.speeds[0], ours=Timing((2.0,)), dedicated=Timing((1.0,)),
                               is_identical=False, is_disturbed=False)  # fmt: skip
    worse = dataclasses.replace(result, speeds=[slow])
    worse.after_stage = [
        *result.after_stage[:-1],
        {n: dataclasses.replace(t, score=-1.0) for n, t in result.final.items()},
    ]
    html = render(worse)
    assert "2.0 × slower" in html and "takes 2.00 times as long" in html and "only up to rounding" in html
    for name in result.tasks:
        assert f"{name}: " in " ".join(shortcomings(worse))
    wide = dataclasses.replace(slow, ours=Timing((1.0, 1.0, 5.0, 5.0, 5.0)))
    for noisy in (wide, dataclasses.replace(slow, is_disturbed=True)):
        told = dataclasses.replace(worse, speeds=[noisy])
        assert "idle machine" in " ".join(shortcomings(told)) and "takes 2.00 times" not in " ".join(shortcomings(told))
        assert "not measured well" in render(told)


def test_differences_count_rows():
    tasks = load_tasks()
    assert difference(tasks["wine"], 35 / 36, 1.0) == "-2.8 points (-1 row)"
    assert difference(tasks["diabetes"], 0.5, 0.25) == "+0.250"


def test_a_folder_that_is_not_there_is_said_before_training(tmp_path):
    with pytest.raises(FileNotFoundError, match="--out must be in a folder that exists"):
        run_demo(tmp_path / "missing" / "page.html")
