"""The question that xfer began with: `y` came from another machine, so how can a backward from it update the parameters
here?"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn

import xfer
from xfer.torch import forward, skeleton
from xfer.torch.memory import lend


def _question() -> tuple[nn.Linear, torch.optim.SGD, Tensor, Tensor]:
    """The same layer, optimizer and batch on every node."""
    torch.manual_seed(1)
    layer = nn.Linear(16, 16)
    optimizer = torch.optim.SGD(layer.parameters(), lr=0.1, momentum=0.9)
    return layer, optimizer, torch.randn(8, 16), torch.randn(8, 16)


def run_forward(engine: xfer.Engine, to: int) -> None:
    """The node that ran the forward: sends `y`, and what its backward will need."""
    layer, _, x, _ = _question()
    ran = forward(layer, x)
    sent = ran.export()
    meta = torch.frombuffer(bytearray(sent.meta), dtype=torch.uint8)
    messages = [ran.detached(), torch.tensor([meta.numel()]), meta, *sent.tensors]
    transfers = [engine.send(lend(t), to=to, tag=f"snippet/{n}") for n, t in enumerate(messages)]
    for transfer in transfers:
        transfer.wait(timeout=30.0)


def run_backward(engine: xfer.Engine, source: int) -> dict[str, Any]:
    """The node that got `y`: its backward updates the parameters here. Says whether they are those of a plain run."""
    layer, optimizer, _, target = _question()

    def receive(number: int, like: Tensor) -> Tensor:
        engine.recv(lend(like), source=source, tag=f"snippet/{number}").wait(timeout=30.0)
        return like

    y = receive(0, torch.empty(8, 16)).requires_grad_()
    length = receive(1, torch.zeros(1, dtype=torch.int64))
    meta = receive(2, torch.empty(int(length), dtype=torch.uint8))
    graph = skeleton(layer, bytes(meta.numpy()))
    saved = [receive(3 + n, torch.empty(entry.nbytes, dtype=torch.uint8)) for n, entry in enumerate(graph.entries)]

    nn.functional.mse_loss(y, target).backward()
    graph.bind(saved).backward(y.grad)
    optimizer.step()

    plain, plain_optimizer, x, target = _question()
    before = plain.weight.detach().clone()
    nn.functional.mse_loss(plain(x), target).backward()
    plain_optimizer.step()
    momentum = [optimizer.state[p]["momentum_buffer"] for p in layer.parameters()]
    plain_momentum = [plain_optimizer.state[p]["momentum_buffer"] for p in plain.parameters()]
    pairs = zip([*layer.parameters(), *momentum], [*plain.parameters(), *plain_momentum], strict=True)
    return {
        "equal": all(torch.equal(ours, theirs) for ours, theirs in pairs),
        "changed": not torch.equal(before, layer.weight),
        "sent_bytes": sum(t.nbytes for t in saved) + int(length) + y.nbytes,
    }
