"""What could make a replay silently wrong is noticed, and what is noticed leaves everything as it was."""

from __future__ import annotations

import copy
import importlib
import random
import weakref
from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor, nn
import xfer.torch as xt
from xfer.torch.capture import Route

D = 8
ROUTES: tuple[Route, Route] = ("hooks", "walk")


def mlp(seed: int = 0, p: float = 0.25) -> nn.Sequential:
    torch.manual_seed(seed)
    return nn.Sequential(nn.Linear(D, 16), nn.GELU(), nn.Dropout(p), nn.Linear(16, D), nn.BatchNorm1d(D))


def handed_over(layer: nn.Module, x: Tensor, route: Route = "hooks") -> tuple[xt.LayerForward, xt.Exported, nn.Module]:
    """A forward, its export, and the layer of the process that takes over, with the state it would have."""
    ran = xt.forward(layer, x, route=route, name="block.3")
    sent = ran.export()
    return ran, sent, copy.deepcopy(layer)


def received(sent: xt.Exported) -> list[Tensor | None]:
    return [tensor.clone() for tensor in sent.tensors]


def refusal(why: xt.Why) -> Any:
    return pytest.raises(xt.Refused, match=f"layer block.3 can't be replayed.*\\({why}\\).*recompute")


@pytest.fixture
def x() -> Tensor:
    return torch.randn(4, D, generator=torch.Generator().manual_seed(5))


def test_a_graph_is_used_once(x: Tensor) -> None:
    ran, sent, other = handed_over(mlp(), x)
    waiting = xt.skeleton(other, sent.meta)
    replayed = waiting.bind(received(sent))
    with pytest.raises(xt.Spent):
        waiting.bind(received(sent))
    for forward in (ran, replayed):
        forward.backward(torch.ones(4, D))
        with pytest.raises(xt.Spent):
            forward.backward(torch.ones(4, D))
    for use in (ran.export, lambda: ran.outputs, lambda: ran.entry_state):
        with pytest.raises(xt.Spent):
            use()


def test_gradients_that_do_not_fit_leave_the_graph_usable(x: Tensor) -> None:
    ran, sent, other = handed_over(mlp(), x)
    replayed = xt.replay(other, sent.meta, received(sent))
    for forward in (ran, replayed):
        for bad in ((), (torch.ones(4, D),) * 2, (torch.ones(D, 4),), (torch.ones(4, D).double(),)):
            with pytest.raises(ValueError):
                forward.backward(*bad)
    (ours,), (theirs,) = ran.backward(torch.ones(4, D)), replayed.backward(torch.ones(4, D))
    assert ours is not None and theirs is not None and torch.equal(ours, theirs)


@pytest.mark.parametrize("route", ROUTES)
def test_a_parameter_that_stepped_since_the_forward_is_noticed(x: Tensor, route: Route) -> None:
    layer = mlp()
    ran = xt.forward(layer, x, route=route, name="block.3")
    layer[0].weight.data.add_(0)  # `.data` hides the change; the optimizer's does not
    ran.export()
    with torch.no_grad():
        layer[3].weight.add_(0)
    with refusal(xt.Why.CHANGED_IN_PLACE):
        ran.export()


@pytest.mark.parametrize("route", ROUTES)
def test_an_input_that_was_overwritten_is_noticed(x: Tensor, route: Route) -> None:
    ran = xt.forward(mlp(), x, route=route, name="block.3")
    x.zero_()
    with refusal(xt.Why.CHANGED_IN_PLACE):
        ran.export()


def test_a_change_while_bytes_are_sent_is_noticed(x: Tensor) -> None:
    _, sent, _ = handed_over(mlp(), x)
    sent.check_unchanged()
    x.add_(1)
    with refusal(xt.Why.CHANGED_IN_PLACE):
        sent.check_unchanged()


def test_stale_parameters_are_noticed(x: Tensor) -> None:
    _, sent, _ = handed_over(mlp(), x)
    with refusal(xt.Why.PARAMETERS):
        xt.skeleton(mlp(seed=1), sent.meta).bind(received(sent))


def test_parameters_that_change_before_the_backward_are_noticed(x: Tensor) -> None:
    _, sent, other = handed_over(mlp(), x)
    replayed = xt.skeleton(other, sent.meta).bind(received(sent))
    with torch.no_grad():
        other[0].weight.add_(1)
    other[4].weight.grad = kept = torch.ones(D)
    with refusal(xt.Why.PARAMETERS):
        replayed.backward(torch.ones(4, D))
    assert other[4].weight.grad is kept and torch.equal(kept, torch.ones(D))
    assert other[0].weight.grad is None


def _other_probability(layer: Any) -> None:
    layer[2].p = 0.3


def _evaluation(layer: Any) -> None:
    layer.eval()


def _other_class(layer: Any) -> None:
    layer[1] = nn.ReLU()


def _one_more(layer: Any) -> None:
    layer.append(nn.Identity())


def _other_geometry(layer: Any) -> None:
    layer[0].weight = nn.Parameter(layer[0].weight.detach().t().contiguous().t())


def _frozen(layer: Any) -> None:
    layer[3].weight.requires_grad_(False)


def _other_code(layer: Any) -> None:
    class GELU(nn.GELU):
        def forward(self, input: Tensor) -> Tensor:
            return super().forward(input) * 1.0

    GELU.__module__, GELU.__qualname__ = nn.GELU.__module__, nn.GELU.__qualname__
    layer[1] = GELU()


@pytest.mark.parametrize(
    ("change", "why"),
    [
        (_other_probability, xt.Why.PYTHON_STATE),
        (_evaluation, xt.Why.PYTHON_STATE),
        (_other_class, xt.Why.PYTHON_STATE),
        (_one_more, xt.Why.PYTHON_STATE),
        (_other_code, xt.Why.PYTHON_STATE),
        (_other_geometry, xt.Why.PARAMETERS),
        (_frozen, xt.Why.PARAMETERS),
    ],
)
def test_another_layer_is_noticed(change: Callable[[Any], None], why: xt.Why, x: Tensor) -> None:
    _, sent, other = handed_over(mlp(), x)
    change(other)
    with refusal(why):
        xt.skeleton(other, sent.meta)


def test_another_numeric_mode_is_noticed(x: Tensor) -> None:
    _, sent, other = handed_over(mlp(), x)
    torch.set_float32_matmul_precision("medium")
    try:
        with refusal(xt.Why.ENVIRONMENT):
            xt.skeleton(other, sent.meta)
    finally:
        torch.set_float32_matmul_precision("highest")


class Branching(nn.Module):
    """Does something else in the second process, and nothing about its modules shows it."""

    def __init__(self) -> None:
        super().__init__()
        self.linear = nn.Linear(D, D)
        self.choice = ["tanh"]

    def forward(self, x: Tensor) -> Tensor:
        return getattr(torch, self.choice[0])(self.linear(x))


def test_another_graph_is_noticed(x: Tensor) -> None:
    _, sent, other = handed_over(Branching(), x)
    assert isinstance(other, Branching)
    other.choice = ["sigmoid"]
    with pytest.raises(xt.Refused, match="at SigmoidBackward0 #0 .signature.: it was TanhBackward0 in the forward"):
        xt.skeleton(other, sent.meta)


def test_other_hooks_stay_in_charge_and_are_noticed(x: Tensor) -> None:
    packed = []
    with torch.autograd.graph.saved_tensors_hooks(lambda t: packed.append(t) or t, lambda t: t):
        ran = xt.forward(mlp(), x, name="block.3")
    assert packed
    with refusal(xt.Why.FOREIGN_HOOK):
        ran.export()


class Tagged(torch.Tensor):
    """Some tensor subclass."""


class Scaled(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.linear = nn.Linear(D, D)
        self.scale = torch.ones(D).as_subclass(Tagged)

    def forward(self, x: Tensor) -> Tensor:
        return self.linear(x) * self.scale


def test_tensor_subclasses_are_refused(x: Tensor) -> None:
    with refusal(xt.Why.UNSUPPORTED_TENSOR):
        xt.forward(Scaled(), x, route="walk", name="block.3").export()


@pytest.mark.parametrize("route", ROUTES)
def test_lazily_conjugated_tensors_are_refused(route: Route) -> None:
    class Conjugated(nn.Module):
        def forward(self, x: Tensor) -> Tensor:
            z = torch.complex(x, x.tanh())
            return (z * z.conj()).real

    with refusal(xt.Why.UNSUPPORTED_TENSOR):
        xt.forward(Conjugated(), torch.randn(4, D), route=route, name="block.3").export()


def test_damaged_or_missing_tensors_are_refused_and_the_skeleton_stays(x: Tensor) -> None:
    ran, sent, other = handed_over(mlp(), x)
    waiting = xt.skeleton(other, sent.meta)
    good = received(sent)
    last = good[-1]
    assert last is not None
    for bad in (good[:-1], [*good[:-1], None], [*good[:-1], last[:-1]], [*good[:-1], last.view(torch.int8)]):
        with pytest.raises(xt.WireError):
            waiting.bind(bad)
    optional = [tensor if entry.needed else None for tensor, entry in zip(good, waiting.entries, strict=True)]
    assert None in optional
    theirs = waiting.bind(optional).backward(torch.ones(4, D))
    assert torch.equal(theirs[0], ran.backward(torch.ones(4, D))[0])  # type: ignore[arg-type]


def test_damaged_descriptions_are_refused(x: Tensor) -> None:
    _, sent, other = handed_over(mlp(), x)
    for bad in (sent.meta[:-1], sent.meta[:100], bytes(len(sent.meta)), b""):
        with pytest.raises(xt.WireError):
            xt.skeleton(other, bad)


def test_received_bytes_may_begin_anywhere(x: Tensor) -> None:
    ran, sent, other = handed_over(mlp(), x)
    shifted: list[Tensor | None] = []
    for tensor in sent.tensors:
        memory = torch.empty(tensor.numel() + 3, dtype=torch.uint8)[3:]
        shifted.append(memory.copy_(tensor))
    theirs = xt.replay(other, sent.meta, shifted).backward(torch.ones(4, D))
    assert torch.equal(theirs[0], ran.backward(torch.ones(4, D))[0])  # type: ignore[arg-type]


def test_a_linear_layer_sends_its_input_only() -> None:
    x = torch.randn(32, D)
    sent = xt.forward(nn.Linear(D, D), x).export()
    assert [entry.role for entry in sent.entries] == [xt.Role.INPUT, xt.Role.RNG]
    assert sent.of_role(xt.Role.INPUT)[0].data_ptr() == x.data_ptr()
    assert sent.nbytes == len(sent.meta) + sum(tensor.numel() for tensor in sent.tensors)


def test_each_storage_is_sent_once_and_trimmed() -> None:
    big = torch.randn(1000, D)
    sent = xt.forward(nn.Sequential(nn.Tanh(), nn.Tanh(), nn.Sigmoid()), big[500:504]).export()
    # Two saved outputs of tanh, and the layer's own output, which sigmoid saved.
    assert [(entry.role, entry.nbytes, entry.needed) for entry in sent.entries if entry.role is not xt.Role.RNG] == [
        (xt.Role.INPUT, 4 * D * 4, False),
        (xt.Role.SAVED, 4 * D * 4, True),
        (xt.Role.SAVED, 4 * D * 4, True),
        (xt.Role.OUTPUT, 4 * D * 4, True),
    ]


def test_recording_keeps_nothing_alive(x: Tensor) -> None:
    ran = xt.forward(mlp(), x)
    assert ran.recorder is not None
    log = ran.recorder.log
    assert log and all(entry() is not None for entry in log)
    ran.backward(torch.ones(4, D))
    assert all(entry() is None for entry in log)
    dropped = xt.forward(mlp(), x)
    assert dropped.recorder is not None
    log = dropped.recorder.log
    del dropped
    assert all(entry() is None for entry in log)


def test_a_replay_lets_go_of_what_it_received(x: Tensor) -> None:
    _, sent, other = handed_over(mlp(), x)
    arrived = received(sent)
    kept = [weakref.ref(tensor) for tensor in arrived if tensor is not None]
    waiting = xt.skeleton(other, sent.meta)
    replayed = waiting.bind(arrived)
    del arrived
    assert any(tensor() is not None for tensor in kept)
    replayed.backward(torch.ones(4, D))
    assert all(tensor() is None for tensor in kept)


def test_building_a_skeleton_changes_neither_layer_nor_streams(x: Tensor) -> None:
    _, sent, other = handed_over(mlp(), x)
    state = {name: tensor.clone() for name, tensor in other.state_dict().items()}
    torch.manual_seed(9)
    random.seed(9)
    streams = torch.get_rng_state(), random.getstate()
    xt.skeleton(other, sent.meta)
    assert torch.equal(torch.get_rng_state(), streams[0]) and random.getstate() == streams[1]
    assert all(torch.equal(other.state_dict()[name], tensor) for name, tensor in state.items())


def test_hooks_on_parameters_run_once_and_may_change_gradients(x: Tensor) -> None:
    layer = mlp()
    ran, sent, other = handed_over(layer, x)
    calls: list[str] = []
    for module in (layer, other):
        weight: nn.Parameter = module[0].weight  # type: ignore[index]
        weight.register_hook(lambda grad: calls.append("hook") or grad * 2)
        weight.register_post_accumulate_grad_hook(lambda parameter: calls.append("post"))
    ran.backward(torch.ones(4, D))
    assert calls == ["hook", "post"]
    xt.replay(other, sent.meta, received(sent)).backward(torch.ones(4, D))
    assert calls == ["hook", "post"] * 2
    for mine, theirs in zip(layer.parameters(), other.parameters(), strict=True):
        assert torch.equal(mine.grad, theirs.grad)  # type: ignore[arg-type]


class Checkpointed(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.inner = nn.Linear(D, D)

    def forward(self, x: Tensor) -> Tensor:
        return torch.utils.checkpoint.checkpoint(self.inner, x.tanh(), use_reentrant=True)  # type: ignore[no-any-return]


def test_a_backward_that_runs_modules_keeps_the_gradient_buffers(x: Tensor) -> None:
    ran, sent, other = handed_over(Checkpointed(), x)
    flat = torch.full((D * D + D,), 0.5)
    other.inner.weight.grad, other.inner.bias.grad = flat[: D * D].view(D, D), flat[D * D :]  # type: ignore[union-attr]
    for parameter in ran.layer.parameters():
        parameter.grad = torch.full_like(parameter, 0.5)
    xt.replay(other, sent.meta, received(sent)).backward(torch.ones(4, D))
    ran.backward(torch.ones(4, D))
    ours = [parameter.grad.reshape(-1) for parameter in ran.layer.parameters() if parameter.grad is not None]
    assert torch.equal(flat, torch.cat(ours))


def test_a_backward_that_runs_modules_is_refused_where_hooks_would_see_it(x: Tensor) -> None:
    _, sent, other = handed_over(Checkpointed(), x)
    seen: list[Tensor] = []
    other.inner.weight.register_post_accumulate_grad_hook(seen.append)  # type: ignore[union-attr]
    with refusal(xt.Why.CONTEXT):
        xt.replay(other, sent.meta, received(sent)).backward(torch.ones(4, D))
    assert not seen and all(parameter.grad is None for parameter in other.parameters())


def test_input_gradients_share_no_memory() -> None:
    x = torch.randn(4, D)

    class Sum(nn.Module):
        def forward(self, a: Tensor, b: Tensor) -> Tensor:
            return (a + b).sum(0)

    ran = xt.forward(Sum(), x, x)
    sent = ran.export()
    first, second = xt.replay(copy.deepcopy(ran.layer), sent.meta, received(sent)).backward(torch.ones(D))
    assert first is not None and second is not None
    first.zero_()
    assert torch.equal(second, torch.ones(4, D))


def test_inputs_can_be_kept_out_of_the_graph(x: Tensor) -> None:
    class Masked(nn.Module):
        def forward(self, x: Tensor, mask: Tensor) -> Tensor:
            return x * mask

    ran = xt.forward(Masked(), x, torch.ones(4, D), requires_grad=(True, False))
    sent = ran.export()
    first, second = xt.replay(Masked(), sent.meta, received(sent)).backward(torch.ones(4, D))
    assert first is not None and second is None


def test_forward_says_what_it_does_not_take(x: Tensor) -> None:
    with pytest.raises(RuntimeError, match="gradients are switched off"), torch.no_grad():
        xt.forward(mlp(), x)
    with pytest.raises(TypeError, match="input 0 is a dict"):
        xt.forward(mlp(), {"x": x})
    with pytest.raises(ValueError, match="route"):
        xt.forward(mlp(), x, route="fly")  # type: ignore[arg-type]

    class Returns(nn.Module):
        def forward(self, x: Tensor) -> Any:
            return {1, 2}

    with pytest.raises(TypeError, match="found a set"):
        xt.forward(Returns(), x)


@pytest.mark.parametrize("version", ["2.11.1", "1.13.0a0"])
def test_an_older_torch_is_named(version: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch, "__version__", version)
    with pytest.raises(ImportError, match=f"needs PyTorch 2.12 or later, this is {version}"):
        importlib.reload(xt)
    monkeypatch.undo()
    importlib.reload(xt)
