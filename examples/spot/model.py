"""A small GPT in layers that can be built one by one, and an endless, reproducible text for it to learn."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.nn import functional

from xfer.torch import LayerRng, Pipeline


@dataclass(frozen=True)
class Config:
    """Everything that decides which numbers a training run computes."""

    layers: int = 12
    d_model: int = 128
    heads: int = 4
    sequence: int = 64
    batch: int = 4
    vocabulary: int = 64
    microbatches: int = 6
    dropout: float = 0.1
    learning_rate: float = 3e-3
    seed: int = 0


class Block(nn.Module):
    """A transformer block as in GPT-2: attention and an MLP, each behind a LayerNorm, with dropout."""

    def __init__(self, config: Config) -> None:
        super().__init__()
        width = config.d_model
        self.heads = config.heads
        self.dropout = config.dropout
        self.norm_attention = nn.LayerNorm(width)
        self.qkv = nn.Linear(width, 3 * width)
        self.projection = nn.Linear(width, width)
        self.norm_mlp = nn.LayerNorm(width)
        self.mlp = nn.Sequential(nn.Linear(width, 4 * width), nn.GELU(), nn.Linear(4 * width, width))

    def forward(self, x: Tensor) -> Tensor:
        dropout = self.dropout if self.training else 0.0
        q, k, v = (
            part.unflatten(-1, (self.heads, -1)).transpose(1, 2)
            for part in self.qkv(self.norm_attention(x)).chunk(3, dim=-1)
        )
        mixed = functional.scaled_dot_product_attention(q, k, v, is_causal=True, dropout_p=dropout)
        x = x + functional.dropout(self.projection(mixed.transpose(1, 2).flatten(2)), dropout)
        return x + functional.dropout(self.mlp(self.norm_mlp(x)), dropout)


class First(Block):
    """The first block, behind the embeddings of tokens and positions."""

    def __init__(self, config: Config) -> None:
        super().__init__(config)
        self.token = nn.Embedding(config.vocabulary, config.d_model)
        self.position = nn.Embedding(config.sequence, config.d_model)

    def forward(self, tokens: Tensor) -> Tensor:
        x = self.token(tokens) + self.position(torch.arange(tokens.shape[1], device=tokens.device))
        return super().forward(functional.dropout(x, self.dropout if self.training else 0.0))


class Last(Block):
    """The last block, with the head that predicts the next token."""

    def __init__(self, config: Config) -> None:
        super().__init__(config)
        self.norm_head = nn.LayerNorm(config.d_model)
        self.head = nn.Linear(config.d_model, config.vocabulary, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        logits: Tensor = self.head(self.norm_head(super().forward(x)))
        return logits


def pipeline(config: Config) -> Pipeline:
    """The model as `xfer.torch.stage` wants it described."""
    shape = config.batch, config.sequence

    def make_layer(layer: int) -> nn.Module:
        torch.manual_seed(config.seed * 1000 + layer)
        return (First if layer == 0 else Last if layer == config.layers - 1 else Block)(config)

    def make_optimizer(parameters: Iterable[nn.Parameter]) -> torch.optim.Optimizer:
        return torch.optim.AdamW(parameters, lr=config.learning_rate)

    def make_batch(step: int, microbatch: int) -> tuple[Tensor, Tensor]:
        """Sequences that count in strides, from random starts: what comes next follows from the two tokens before."""
        generator = torch.Generator().manual_seed((config.seed * 1_000_003 + step) * 1009 + microbatch)
        start = torch.randint(config.vocabulary, (config.batch, 1), generator=generator)
        stride = torch.randint(1, 6, (config.batch, 1), generator=generator)
        text = (start + stride * torch.arange(config.sequence + 1)) % config.vocabulary
        return text[:, :-1].contiguous(), text[:, 1:].contiguous()

    def loss(logits: Tensor, target: Tensor) -> Tensor:
        return functional.cross_entropy(logits.flatten(0, 1), target.flatten())

    return Pipeline(
        layers=config.layers,
        make_layer=make_layer,
        make_optimizer=make_optimizer,
        make_batch=make_batch,
        loss=loss,
        microbatches=config.microbatches,
        activation=torch.empty(*shape, config.d_model, device="meta"),
        output=torch.empty(*shape, config.vocabulary, device="meta"),
        seed=config.seed,
    )


def undisturbed(config: Config, steps: int) -> dict[int, dict[str, Tensor]]:
    """The same training in one process, in plain PyTorch: all tensors of each layer after `steps` steps.

    The only thing that isn't plain is that each layer has a random stream of its own, as it must if dropout is not to
    depend on where a layer runs.
    """
    model = pipeline(config)
    layers = [model.make_layer(n) for n in range(config.layers)]
    optimizers = [model.make_optimizer(layer.parameters()) for layer in layers]
    streams = [LayerRng(config.seed, n) for n in range(config.layers)]
    for step in range(steps):
        for microbatch in range(config.microbatches):
            x, target = model.make_batch(step, microbatch)
            for layer, stream in zip(layers, streams, strict=True):
                with stream.installed():
                    x = layer(x)
            loss = model.loss(x, target)
            (loss / config.microbatches).backward()
        for optimizer in optimizers:
            optimizer.step()
            optimizer.zero_grad(set_to_none=True)
    return {n: tensors_of(*pair) for n, pair in enumerate(zip(layers, optimizers, strict=True))}


def tensors_of(layer: nn.Module, optimizer: torch.optim.Optimizer) -> dict[str, Tensor]:
    """Every parameter and every tensor of the optimizer's state, by name."""
    found = {}
    for name, parameter in layer.named_parameters():
        found[name] = parameter.detach()
        for key, value in optimizer.state[parameter].items():
            found[f"{name}/{key}"] = value
    return found


def hand_over_bytes(config: Config, layers: int, in_flight: int) -> int:
    """About what handing over `layers` layers takes, with `in_flight` forwards in each: to choose a rate for a link."""
    parameters = 12 * config.d_model**2
    activation = config.batch * config.sequence * config.d_model
    # Parameters, their gradients and two moments; a block saves about 17 times its input.
    return layers * 4 * (4 * parameters + in_flight * 17 * activation)
