"""The threads of a `LocalWorld` in place of real engines."""

import importlib.util

import pytest

import local_engine

if importlib.util.find_spec("xfer") is None or importlib.util.find_spec("xfer._xfer") is None:
    local_engine.stand_in()


@pytest.fixture
def local(monkeypatch: pytest.MonkeyPatch) -> None:
    """Makes `xfer.torch` lend memory to, and offer items of, the local world."""
    monkeypatch.setattr("xfer.torch.memory.Memory", local_engine.Memory)
    monkeypatch.setattr("xfer.torch.handoff.Item", local_engine.Item)
