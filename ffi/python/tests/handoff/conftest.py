"""The threads of a `LocalWorld` in place of real engines."""

import local_engine
import pytest


@pytest.fixture
def local(monkeypatch: pytest.MonkeyPatch) -> None:
    """Makes `xfer.torch` lend memory to, and offer items of, the local world."""
    monkeypatch.setattr("xfer.torch.memory.Memory", local_engine.Memory)
    monkeypatch.setattr("xfer.torch.handoff.Item", local_engine.Item)
