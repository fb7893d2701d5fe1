"""The process that did not run the forward: replays and recomputes what it is sent, and answers with gradients.

Each request names a layer of the zoo, carries the state of that layer and, per microbatch, what the other process
exported and the gradients of the outputs. The layer here is built from another seed, so nothing is equal by luck.
"""

from __future__ import annotations

import sys
from typing import Any, BinaryIO

import torch
from replay_package import make_importable

make_importable()

import replay_wire as wire  # noqa: E402
import zoo  # noqa: E402
import xfer.torch as xt  # noqa: E402


def main() -> None:
    """Answers requests on standard input until it ends."""
    torch.set_num_threads(1)
    zoo.process_state["width"] = 5
    source: BinaryIO = sys.stdin.buffer
    while True:
        try:
            request, tensors = wire.receive(source)
        except EOFError:
            return
        answer = {"replay": replay, "recompute": recompute}[request["do"]](request, iter(tensors))
        wire.send(sys.stdout.buffer, *answer)


def replay(request: dict[str, Any], tensors: Any) -> tuple[Any, list[torch.Tensor]]:
    """Skeleton, bind, backward per microbatch; stops at the first refusal."""
    layer = load(request, tensors)
    before = [parameter.grad for parameter in layer.parameters()]
    contents = [grad.clone() for grad in before if grad is not None]
    state = [tensor.clone() for tensor in layer.state_dict().values()]
    input_grads: list[Any] = []
    try:
        for microbatch in request["microbatches"]:
            received = [next(tensors) for _ in range(microbatch["sent"])]
            grads = [next(tensors) if there else None for there in microbatch["grads"]]
            waiting = xt.skeleton(layer, microbatch["meta"])
            input_grads += waiting.bind(received).backward(*grads)
    except xt.Refused as refused:
        kept = all(parameter.grad is grad for parameter, grad in zip(layer.parameters(), before, strict=True))
        same = all(map(torch.equal, contents, [grad for grad in before if grad is not None]))
        return {"refused": refused.why.value, "reason": str(refused), "untouched": kept and same}, []
    buffers_kept = all(map(torch.equal, state, layer.state_dict().values()))
    return answer(layer, input_grads, {"buffers_kept": buffers_kept or bool(request["backward_writes_buffers"])})


def recompute(request: dict[str, Any], tensors: Any) -> tuple[Any, list[torch.Tensor]]:
    """The fallback for every microbatch."""
    layer = load(request, tensors)
    input_grads: list[Any] = []
    try:
        for microbatch in request["microbatches"]:
            inputs = [next(tensors) if plain is None else plain[0] for plain in microbatch["inputs"]]
            entry = next(tensors)
            grads = [next(tensors) if there else None for there in microbatch["grads"]]
            input_grads += xt.recompute(layer, inputs, entry).backward(*grads)
    except xt.Diverged as diverged:
        return {"diverged": str(diverged)}, []
    return answer(layer, input_grads, {})


def load(request: dict[str, Any], tensors: Any) -> torch.nn.Module:
    """The layer with the other process's state and accumulated gradients."""
    torch.manual_seed(12345)
    case = zoo.BY_NAME[request["case"]]
    layer = case.build()
    layer.train(not case.evaluate)
    with torch.no_grad():
        for tensor in [*layer.parameters(), *layer.buffers()]:
            tensor.copy_(next(tensors))
    for parameter in layer.parameters():
        if parameter.requires_grad:
            parameter.grad = next(tensors)
    return layer


def answer(
    layer: torch.nn.Module, input_grads: list[Any], extra: dict[str, Any]
) -> tuple[Any, list[torch.Tensor]]:
    """All gradients, None where there is none, and the buffers."""
    grads = [*input_grads, *(parameter.grad for parameter in layer.parameters())]
    there = [grad is not None for grad in grads]
    return {"grads": there, **extra}, [grad for grad in grads if grad is not None] + list(layer.buffers())


if __name__ == "__main__":
    main()
