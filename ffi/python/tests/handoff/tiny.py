"""A pipeline small enough to train in a fraction of a second, and the same training without a pipeline."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import torch
from torch import Tensor, nn

from xfer.torch.rng import LayerRng
from xfer.torch.stage import Pipeline

LAYERS = 12
MICROBATCHES = 4
WIDTH = 8
SEED = 7


class Block(nn.Module):
    """Attention and an MLP with everything that makes handing over hard: dropout, normalisation, a buffer that moves
    on."""

    def __init__(self) -> None:
        super().__init__()
        self.norm = nn.LayerNorm(WIDTH)
        self.attention = nn.MultiheadAttention(WIDTH, 2, dropout=0.2, batch_first=True)
        self.mlp = nn.Sequential(nn.Linear(WIDTH, 2 * WIDTH), nn.GELU(), nn.Linear(2 * WIDTH, WIDTH), nn.Dropout(0.2))
        self.register_buffer("seen", torch.zeros(()))

    def forward(self, x: Tensor) -> Tensor:
        self.seen += x.detach().mean()
        y = self.norm(x)
        x = x + self.attention(y, y, y, need_weights=False)[0]
        return x + self.mlp(x)


def make_layer(layer: int) -> nn.Module:
    torch.manual_seed(1000 + layer)
    return Block()


def make_optimizer(parameters: Iterable[nn.Parameter]) -> torch.optim.Optimizer:
    return torch.optim.AdamW(parameters, lr=0.01)


def make_batch(step: int, microbatch: int) -> tuple[Tensor, Tensor]:
    generator = torch.Generator().manual_seed(100 * step + microbatch)
    return torch.randn(2, 3, WIDTH, generator=generator), torch.randn(2, 3, WIDTH, generator=generator)


def pipeline() -> Pipeline:
    return Pipeline(
        layers=LAYERS,
        make_layer=make_layer,
        make_optimizer=make_optimizer,
        make_batch=make_batch,
        loss=nn.functional.mse_loss,
        microbatches=MICROBATCHES,
        activation=torch.empty(2, 3, WIDTH, device="meta"),
        output=torch.empty(2, 3, WIDTH, device="meta"),
        seed=SEED,
    )


def undisturbed(steps: int) -> dict[int, dict[str, Tensor]]:
    """Every tensor of every layer after `steps` steps of plain PyTorch on one rank."""
    layers = [make_layer(n) for n in range(LAYERS)]
    optimizers = [make_optimizer(layer.parameters()) for layer in layers]
    streams = [LayerRng(SEED, n) for n in range(LAYERS)]
    for step in range(steps):
        for microbatch in range(MICROBATCHES):
            x, target = make_batch(step, microbatch)
            for layer, stream in zip(layers, streams, strict=True):
                with stream.installed():
                    x = layer(x)
            (nn.functional.mse_loss(x, target) / MICROBATCHES).backward()
        for optimizer in optimizers:
            optimizer.step()
            optimizer.zero_grad(set_to_none=True)
    return {n: tensors(*pair) for n, pair in enumerate(zip(layers, optimizers, strict=True))}


def tensors(module: nn.Module, optimizer: torch.optim.Optimizer) -> dict[str, Tensor]:
    """Parameters, buffers and optimizer state by name."""
    found: dict[str, Any] = dict(module.named_buffers())
    for name, parameter in module.named_parameters():
        found[name] = parameter.detach().clone()
        for key, value in optimizer.state[parameter].items():
            found[f"{name}/{key}"] = value.clone()
    return found
