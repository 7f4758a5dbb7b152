"""The code in the README runs, and says what the README says."""

from __future__ import annotations

import re
from pathlib import Path

import pytest
import torch

import rsn2

README = Path(__file__).parent.parent / "README.md"
BLOCKS = re.findall(r"```python\n(.*?)```", README.read_text(encoding="utf-8"), re.DOTALL)


@pytest.mark.parametrize("number", range(len(BLOCKS)))
def test_example_runs(number, capsys, tmp_path):
    if "rsn2.data" in BLOCKS[number]:
        pytest.importorskip("sklearn", reason="the example's data sets come with scikit-learn")
    namespace: dict[str, object] = {}
    exec(compile(BLOCKS[number], f"README.md, example {number}", "exec"), namespace)
    printed = capsys.readouterr().out
    if number == 0:
        scores = dict(re.findall(r"'(\w+)': ([\d.]+)", printed.splitlines()[-1]))
        assert float(scores["digits"]) > 0.9 and float(scores["wine"]) > 0.9
        namespace["net"].save(tmp_path / "net.safetensors")
        wine = rsn2.load(tmp_path / "net.safetensors", tasks=["wine"])
        assert torch.equal(wine(namespace["wine"].test.x, task="wine"), namespace["y"]["wine"])
    else:
        assert tuple(namespace["y"].shape) == (8, 5, 64)


def test_there_are_two_examples():
    assert len(BLOCKS) == 2
