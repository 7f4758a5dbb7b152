"""Everything here needs a GPU, and runs as a user's program does: not in PyTorch's deterministic mode."""

import pytest
import torch


@pytest.fixture(autouse=True)
def _on_a_gpu(device: torch.device) -> None:
    """For every test of this folder."""
    if device.type != "cuda":
        pytest.skip("needs a GPU: pytest --device cuda")
    torch.use_deterministic_algorithms(False)
