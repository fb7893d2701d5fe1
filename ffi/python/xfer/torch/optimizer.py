"""An optimizer's state of some parameters, by parameter name, so that another process can continue with it.

Works for SGD, Adam and AdamW. State that is not understood is refused rather than left behind: a parameter that
moves without its momentum would train on, slightly wrong, forever.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

import torch

from . import codec
from .errors import OptimizerStateError, WireError
from .graph import plain
from .raw import DTYPES, dtype_name, extent, unsupported, view_typed

NamedParameters = Mapping[str, torch.nn.Parameter] | Iterable[tuple[str, torch.nn.Parameter]]

_KNOWN = (torch.optim.SGD, torch.optim.Adam, torch.optim.AdamW)
_STATE_KEYS = ("momentum_buffer", "step", "exp_avg", "exp_avg_sq", "max_exp_avg_sq")
_NOT_HYPER = ("params", "param_names")


def export_optimizer_state(
    optimizer: torch.optim.Optimizer, named_params: NamedParameters
) -> tuple[bytes, dict[str, torch.Tensor]]:
    """What `adopt_optimizer_state` needs for these parameters: a description, and the state tensors by name.

    The tensors are the optimizer's own, not copies: send them before the next step. Their names are
    `optimizer/<parameter>/<key>`. Raises `OptimizerStateError` for state that can't be described.
    """
    _check_class(optimizer)
    group_of = {id(parameter): group for group in optimizer.param_groups for parameter in group["params"]}
    groups: list[dict[str, Any]] = []
    index_of: dict[int, int] = {}
    described: list[list[Any]] = []
    tensors: dict[str, torch.Tensor] = {}
    for name, parameter in dict(named_params).items():
        group = group_of.get(id(parameter))
        if group is None:
            raise OptimizerStateError(f"parameter {name} is not in the optimizer")
        if id(group) not in index_of:
            index_of[id(group)] = len(groups)
            groups.append(_hyperparameters(group))
        entries = []
        for key, value in optimizer.state.get(parameter, {}).items():
            if key not in _STATE_KEYS:
                raise OptimizerStateError(f"parameter {name}: optimizer state {key!r} is not understood")
            if not isinstance(value, torch.Tensor):
                entries.append([key, "plain", _plain(value, f"parameter {name}: optimizer state {key!r}")])
                continue
            problem = unsupported(value)
            if problem is not None:
                raise OptimizerStateError(f"parameter {name}: optimizer state {key!r} {problem}")
            entries.append([key, "tensor", [list(value.shape), list(value.stride()), dtype_name(value.dtype)]])
            tensors[_tensor_name(name, key)] = value
        described.append([name, index_of[id(group)], entries])
    return codec.encode({"class": type(optimizer).__name__, "groups": groups, "parameters": described}), tensors


def adopt_optimizer_state(
    optimizer: torch.optim.Optimizer,
    named_params: NamedParameters,
    meta: bytes,
    tensors: Mapping[str, torch.Tensor],
) -> None:
    """Makes `optimizer` own `named_params` as the exporting one did: hyper-parameters, step counts, moments.

    A parameter joins the group that has exactly its hyper-parameters (so that a learning-rate schedule goes on), or
    a new one. The tensors become the state as they are, without a copy; each may also come as the 1-D uint8 bytes
    of its storage. Nothing is changed if it raises `OptimizerStateError` or `WireError`.
    """
    _check_class(optimizer)
    value = _parse(meta)
    if value["class"] != type(optimizer).__name__:
        raise OptimizerStateError(f"the state is of {value['class']}, this optimizer is {type(optimizer).__name__}")
    params = dict(named_params)
    described = {name for name, _, _ in value["parameters"]}
    if set(params) != described:
        raise OptimizerStateError(f"{min(set(params) ^ described)} is described on one side only")
    owned = {id(parameter) for group in optimizer.param_groups for parameter in group["params"]}
    for hyperparameters in value["groups"]:
        # Schedules add keys of their own (initial_lr, ...), which go along; what the optimizer reads must be there.
        missing = set(optimizer.defaults) - set(hyperparameters)
        if missing:
            raise OptimizerStateError(f"hyper-parameter {min(missing)!r} was not sent")
    states: dict[str, dict[str, Any]] = {}
    for name, _, entries in value["parameters"]:
        if id(params[name]) in owned:
            raise OptimizerStateError(f"parameter {name} is in this optimizer already")
        states[name] = {key: _state_value(params[name], name, key, kind, what, tensors) for key, kind, what in entries}
    existing = [(_hyperparameters(group), group) for group in optimizer.param_groups]
    for index, hyperparameters in enumerate(value["groups"]):
        members = [(name, params[name]) for name, group, _ in value["parameters"] if group == index]
        same = next((group for known, group in existing if known == hyperparameters), None)
        _join(optimizer, same, hyperparameters, members)
    for name, state in states.items():
        if state:
            optimizer.state[params[name]] = state


def _join(
    optimizer: torch.optim.Optimizer,
    group: dict[str, Any] | None,
    hyperparameters: dict[str, Any],
    members: list[tuple[str, torch.nn.Parameter]],
) -> None:
    with_names = any("param_names" in group for group in optimizer.param_groups)
    if group is not None:
        group["params"].extend(parameter for _, parameter in members)
        if with_names:
            group["param_names"].extend(name for name, _ in members)
        return
    restored = {key: tuple(item) if isinstance(item, list) else item for key, item in hyperparameters.items()}
    params = members if with_names else [parameter for _, parameter in members]
    optimizer.add_param_group({"params": params, **restored})


def _state_value(
    parameter: torch.nn.Parameter, name: str, key: str, kind: str, what: Any, tensors: Mapping[str, torch.Tensor]
) -> Any:
    if kind == "plain":
        return what
    shape, stride, dtype = what
    tensor = tensors.get(_tensor_name(name, key))
    if tensor is None:
        raise OptimizerStateError(f"the tensor {_tensor_name(name, key)} is missing")
    wanted = DTYPES[dtype]
    if tensor.dtype == torch.uint8 and wanted != torch.uint8:
        needed = extent(tuple(shape), tuple(stride)) * wanted.itemsize
        if tensor.dim() != 1 or tensor.numel() < needed:
            raise OptimizerStateError(f"{_tensor_name(name, key)} has {tensor.numel()} bytes, expected {needed}")
        tensor = view_typed(tensor, 0, wanted, tuple(shape), tuple(stride))
    if (list(tensor.shape), tensor.dtype) != (shape, wanted):
        found = f"{dtype_name(tensor.dtype)} {list(tensor.shape)}"
        raise OptimizerStateError(f"{_tensor_name(name, key)} is {found}, expected {dtype} {shape}")
    # The step count of a moment-based optimizer lives on the CPU unless the optimizer is capturable or fused.
    if key != "step":
        if tuple(shape) != tuple(parameter.shape):
            here = list(parameter.shape)
            raise OptimizerStateError(f"{_tensor_name(name, key)} has shape {shape}, its parameter {here}")
        if tensor.device != parameter.device:
            where = f"{tensor.device}, its parameter on {parameter.device}"
            raise OptimizerStateError(f"{_tensor_name(name, key)} is on {where}")
    return tensor


def _hyperparameters(group: dict[str, Any]) -> dict[str, Any]:
    return {
        key: _plain(value, f"hyper-parameter {key!r}") for key, value in sorted(group.items()) if key not in _NOT_HYPER
    }


def _plain(value: Any, what: str) -> Any:
    try:
        return plain(value)
    except TypeError as error:
        raise OptimizerStateError(f"{what} {error}") from error


def _tensor_name(parameter: str, key: str) -> str:
    return f"optimizer/{parameter}/{key}"


def _check_class(optimizer: torch.optim.Optimizer) -> None:
    if type(optimizer) not in _KNOWN:
        names = ", ".join(kind.__name__ for kind in _KNOWN)
        raise OptimizerStateError(f"the state of {type(optimizer).__name__} can't be carried over; known are {names}")


def _parse(meta: bytes) -> dict[str, Any]:
    value = codec.decode(meta)
    if not isinstance(value, dict) or set(value) != {"class", "groups", "parameters"}:
        raise WireError("not the description of an optimizer's state")
    groups, parameters = value["groups"], value["parameters"]
    if not isinstance(groups, list) or not isinstance(parameters, list) or not isinstance(value["class"], str):
        raise WireError("the optimizer's state is not described as expected")
    for group in groups:
        if not isinstance(group, dict) or not all(isinstance(key, str) and key not in _NOT_HYPER for key in group):
            raise WireError("a parameter group is not described as expected")
    for parameter in parameters:
        match parameter:
            case [str(), int(index), list(entries)] if index in range(len(groups)):
                for entry in entries:
                    _check_entry(entry)
            case _:
                raise WireError("a parameter's state is not described as expected")
    if len({name for name, _, _ in parameters}) < len(parameters):
        raise WireError("a parameter's state is described twice")
    return value


def _check_entry(entry: Any) -> None:
    match entry:
        case [str(key), "plain", _] if key in _STATE_KEYS:
            return
        case [str(key), "tensor", [list(shape), list(stride), str(dtype)]] if key in _STATE_KEYS and dtype in DTYPES:
            if len(shape) == len(stride) and all(type(size) is int and size >= 0 for size in (*shape, *stride)):
                return
    raise WireError("an optimizer state entry is not described as expected")
