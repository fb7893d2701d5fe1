"""What a layer returned, as a flat list of tensors and the shape of the containers around them.

Only tuples, lists and dicts of tensors, None and plain numbers are understood: anything else could hide a tensor
whose gradient would then be lost.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import torch

_PLAIN = (bool, int, float, str, type(None))
_TENSOR = "tensor"


def flatten(value: Any) -> tuple[list[torch.Tensor], Any]:
    """The tensors in `value` in order, and plain values that say how they were arranged."""
    leaves: list[torch.Tensor] = []
    return leaves, _flatten(value, leaves)


def map_tensors(value: Any, change: Callable[[torch.Tensor], Any]) -> Any:
    """`value` with each tensor replaced by `change(tensor)` and the containers kept."""
    if isinstance(value, torch.Tensor):
        return change(value)
    if isinstance(value, Mapping):
        items = {key: map_tensors(item, change) for key, item in value.items()}
        return items if type(value) is dict else type(value)(**items)
    if isinstance(value, (tuple, list)):
        items_list = [map_tensors(item, change) for item in value]
        if hasattr(value, "_fields"):
            return type(value)(*items_list)
        return type(value)(items_list)
    return value


def _flatten(value: Any, leaves: list[torch.Tensor]) -> Any:
    if isinstance(value, torch.Tensor):
        leaves.append(value)
        return _TENSOR
    if isinstance(value, Mapping):
        if not all(isinstance(key, str) for key in value):
            raise TypeError("a layer must return its tensors under names or positions: a dict key is not a string")
        return ["dict", [[key, _flatten(item, leaves)] for key, item in value.items()]]
    if isinstance(value, (tuple, list)):
        return ["list" if isinstance(value, list) else "tuple", [_flatten(item, leaves) for item in value]]
    if type(value) in _PLAIN:
        return ["plain", value]
    raise TypeError(
        f"a layer must return tensors, or tuples, lists and dicts of tensors; found a {type(value).__qualname__}"
    )
