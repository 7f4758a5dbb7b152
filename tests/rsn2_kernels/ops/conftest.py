"""Kernel tests run in memory filled with NaN."""

import pytest


@pytest.fixture(autouse=True)
def _nan_filled(nan_filled: None) -> None:
    """For every test of this folder."""
