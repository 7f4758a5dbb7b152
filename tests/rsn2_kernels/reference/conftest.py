"""References are tested on one thread."""

from __future__ import annotations

from collections.abc import Callable

import pytest


@pytest.fixture(autouse=True)
def _one_thread(set_num_threads: Callable[[int], None]) -> None:
    """Many small products, for which threads would mostly wait."""
    set_num_threads(1)
