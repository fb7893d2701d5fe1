"""Every layer of the zoo, on both routes, in two processes: exact, or refused for the declared reason.

The forward runs here. Its backward runs here too, as the yardstick, and in a second process that never ran the
forward. Gradients are compared with `torch.equal`, so a replay that is silently wrong fails.
"""

from __future__ import annotations

import random
import subprocess
import sys
from collections.abc import Iterator
from contextlib import nullcontext
from pathlib import Path
from typing import Any

import pytest
import torch
import replay_wire as wire
import zoo
import xfer.torch as xt
from xfer.torch.tree import flatten

ROUTES = ("hooks", "walk")


class Peer:
    """The second process."""

    def __init__(self) -> None:
        program = Path(__file__).with_name("replay_peer.py")
        self.process = subprocess.Popen(
            [sys.executable, str(program)], stdin=subprocess.PIPE, stdout=subprocess.PIPE, cwd=program.parent
        )

    def ask(self, request: dict[str, Any], tensors: list[torch.Tensor]) -> tuple[Any, list[torch.Tensor]]:
        assert self.process.stdin is not None and self.process.stdout is not None
        wire.send(self.process.stdin, request, tensors)  # type: ignore[arg-type]
        return wire.receive(self.process.stdout)  # type: ignore[arg-type]

    def close(self) -> None:
        assert self.process.stdin is not None
        self.process.stdin.close()
        try:
            self.process.wait(timeout=60)
        except subprocess.TimeoutExpired:
            self.process.kill()
            self.process.wait()
            raise


@pytest.fixture(scope="module")
def peer() -> Iterator[Peer]:
    running = Peer()
    yield running
    running.close()


class Run:
    """The forwards of one case in this process, and everything that the other process needs."""

    def __init__(self, case: zoo.Case, route: str) -> None:
        self.case = case
        self.layer, self.microbatches = prepared(case)
        with surroundings(case):
            self.forwards = [
                xt.forward(self.layer, *inputs, route=route, name=case.name) for inputs in self.microbatches
            ]
        self.grads = [output_grads(forward.outputs) for forward in self.forwards]
        self.entries = [forward.entry_state for forward in self.forwards]
        self.state = [tensor.detach().clone() for tensor in [*self.layer.parameters(), *self.layer.buffers()]]
        preset(self.layer)
        self.state += [p.grad.clone() for p in self.layer.parameters() if p.grad is not None]

    def backward(self) -> list[torch.Tensor | None]:
        """The yardstick: all gradients, as the process that ran the forward computes them."""
        inputs: list[torch.Tensor | None] = []
        for forward, grads in zip(self.forwards, self.grads, strict=True):
            inputs += forward.backward(*grads)
        return [*inputs, *(parameter.grad for parameter in self.layer.parameters())]

    def replay_request(self, exported: list[xt.Exported]) -> tuple[dict[str, Any], list[torch.Tensor]]:
        tensors = list(self.state)
        microbatches = []
        for sent, grads in zip(exported, self.grads, strict=True):
            tensors += sent.tensors + [grad for grad in grads if grad is not None]
            there = [grad is not None for grad in grads]
            microbatches.append({"meta": sent.meta, "sent": len(sent.tensors), "grads": there})
        request = {
            "do": "replay",
            "case": self.case.name,
            "microbatches": microbatches,
            "backward_writes_buffers": self.case.name == "reentrant_checkpoint",
        }
        return request, tensors

    def recompute_request(self) -> tuple[dict[str, Any], list[torch.Tensor]]:
        tensors = list(self.state)
        microbatches = []
        for inputs, entry, grads in zip(self.microbatches, self.entries, self.grads, strict=True):
            tensors += [value for value in inputs if torch.is_tensor(value)] + [entry]
            tensors += [grad for grad in grads if grad is not None]
            plain = [None if torch.is_tensor(value) else [value] for value in inputs]
            microbatches.append({"inputs": plain, "grads": [grad is not None for grad in grads]})
        return {"do": "recompute", "case": self.case.name, "microbatches": microbatches}, tensors


def prepared(case: zoo.Case) -> tuple[torch.nn.Module, list[tuple[Any, ...]]]:
    torch.manual_seed(7)
    random.seed(7)
    layer = case.build()
    layer.train(not case.evaluate)
    return layer, [case.inputs() for _ in range(case.microbatches)]


def surroundings(case: zoo.Case) -> Any:
    return torch.autocast("cpu", dtype=torch.bfloat16) if case.autocast else nullcontext()


def output_grads(outputs: Any) -> list[torch.Tensor | None]:
    generator = torch.Generator().manual_seed(3)
    return [
        torch.randn(output.shape, generator=generator).to(output.dtype) if output.requires_grad else None
        for output in flatten(outputs)[0]
    ]


def preset(layer: torch.nn.Module) -> None:
    for parameter in layer.parameters():
        if parameter.requires_grad:
            parameter.grad = torch.full_like(parameter, 0.3)


def assert_equal(ours: list[torch.Tensor | None], there: list[bool], theirs: list[torch.Tensor]) -> None:
    assert [grad is not None for grad in ours] == there
    for index, (mine, other) in enumerate(zip([grad for grad in ours if grad is not None], theirs, strict=False)):
        assert torch.equal(mine, other), f"gradient {index} differs by {(mine - other).abs().max()}"


@pytest.mark.parametrize("route", ROUTES)
@pytest.mark.parametrize("case", zoo.CASES, ids=lambda case: case.name)
def test_replay_is_exact_or_refused(case: zoo.Case, route: str, peer: Peer) -> None:
    required = case.hooks if route == "hooks" else case.walk
    run = Run(case, route)
    try:
        exported = [forward.export() for forward in run.forwards]
    except xt.Refused as refused:
        assert refused.why.value == required, refused
        assert refused.layer == case.name and "recompute" in str(refused).splitlines()[0]
        outcome = None
    else:
        outcome, theirs = peer.ask(*run.replay_request(exported))
        for sent in exported:
            sent.check_unchanged()
    if required == "changed-in-place":
        with pytest.raises(RuntimeError, match="modified by an inplace operation"):
            run.backward()
    else:
        # Whether exported or refused, the forward stays usable where it ran.
        ours = run.backward()
    if outcome is not None:
        assert outcome.get("refused", zoo.EXACT) == required, outcome.get("reason")
        if required == zoo.EXACT:
            assert outcome["buffers_kept"]
            assert_equal(ours, outcome["grads"], theirs)
            buffers = theirs[sum(outcome["grads"]) :]
            assert all(map(torch.equal, run.layer.buffers(), buffers))
        else:
            assert outcome["untouched"]


@pytest.mark.parametrize("case", [case for case in zoo.CASES if case.recomputed], ids=lambda case: case.name)
def test_recompute_is_exact_or_noticed(case: zoo.Case, peer: Peer) -> None:
    run = Run(case, "hooks")
    outcome, theirs = peer.ask(*run.recompute_request())
    if case.recomputed == zoo.DIVERGED:
        assert "diverged" in outcome
    else:
        assert "diverged" not in outcome, outcome
        assert_equal(run.backward(), outcome["grads"], theirs)


@pytest.mark.parametrize(
    "case", [case for case in zoo.CASES if case.seeded and case.hooks != "changed-in-place"], ids=lambda case: case.name
)
def test_segments_equal_plain_torch(case: zoo.Case) -> None:
    ours = Run(case, "hooks").backward()
    layer, microbatches = prepared(case)
    graphs = []
    with surroundings(case):
        for inputs in microbatches:
            leaves = [
                value.detach().requires_grad_(value.is_floating_point()) if torch.is_tensor(value) else value
                for value in inputs
            ]
            graphs.append((leaves, layer(*leaves)))
    preset(layer)
    input_grads: list[torch.Tensor | None] = []
    for leaves, outputs in graphs:
        roots = [output for output in flatten(outputs)[0] if output.requires_grad]
        torch.autograd.backward(roots, [grad for grad in output_grads(outputs) if grad is not None])
        input_grads += [value.grad if torch.is_tensor(value) else None for value in leaves]
    plain = [*input_grads, *(parameter.grad for parameter in layer.parameters())]
    assert_equal(ours, [grad is not None for grad in plain], [grad for grad in plain if grad is not None])


def test_the_zoo_is_as_exact_as_promised() -> None:
    exact_hooks = sum(case.hooks == zoo.EXACT for case in zoo.CASES)
    exact_walk = sum(case.walk == zoo.EXACT for case in zoo.CASES)
    assert exact_hooks >= 33 and len(zoo.CASES) - exact_hooks >= 9
    assert exact_walk >= 32
