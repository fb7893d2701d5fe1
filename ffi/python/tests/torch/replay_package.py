"""Imports `xfer.torch` with or without the native module: replaying a backward needs none of it."""

from __future__ import annotations

import importlib
import sys
from importlib.machinery import ModuleSpec
from pathlib import Path
from types import ModuleType

_SOURCES = Path(__file__).resolve().parents[2] / "xfer"


def make_importable() -> None:
    """Leaves an installed xfer as it is; otherwise makes the source tree a package without its front door."""
    try:
        importlib.import_module("xfer")
    except ModuleNotFoundError:
        package = ModuleType("xfer")
        package.__path__ = [str(_SOURCES)]
        package.__spec__ = ModuleSpec("xfer", None, is_package=True)
        sys.modules["xfer"] = package
