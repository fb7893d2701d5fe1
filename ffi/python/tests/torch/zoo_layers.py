"""Small layers of many kinds: what pipelines are made of, and what makes a replay hard."""

from __future__ import annotations

import math
import os
import random
from typing import Any

import torch
import torch.nn.functional as F
import torch.utils.checkpoint
from torch import Tensor, nn
from torch.nn.attention import SDPBackend, sdpa_kernel

D = 16


process_state = {"width": 3}
"""What layers read from outside their modules; the second process sets it otherwise."""


def unseeded() -> float:
    """A number in [0.5, 1.5) that no seed reproduces: what a replay must be sent, or must refuse."""
    return 0.5 + int.from_bytes(os.urandom(6), "little") / (1 << 48)


class Compute(nn.Module):
    """A layer from a function of (module, inputs), with one linear map to have parameters."""

    def __init__(self, function: Any) -> None:
        super().__init__()
        self.linear = nn.Linear(D, D)
        self.function = function

    def forward(self, *inputs: Tensor) -> Any:
        return self.function(self, *inputs)


def compute(function: Any) -> Any:
    """A builder of `Compute(function)`."""
    return lambda: Compute(function)


class Attention(nn.Module):
    def __init__(self, kind: str, dropout: float) -> None:
        super().__init__()
        self.kind, self.dropout = kind, dropout
        self.qkv = nn.Linear(D, 3 * D)
        self.out = nn.Linear(D, D)

    def forward(self, x: Tensor) -> Tensor:
        b, t, d = x.shape
        q, k, v = self.qkv(x).view(b, t, 3, 4, d // 4).permute(2, 0, 3, 1, 4)
        p = self.dropout if self.training else 0.0
        if self.kind == "manual":
            scores = (q @ k.transpose(-1, -2)) / math.sqrt(d // 4)
            mask = torch.ones(t, t, dtype=torch.bool, device=x.device).tril()
            weights = F.dropout(scores.masked_fill(~mask, float("-inf")).softmax(-1), p, self.training)
            y = weights @ v
        else:
            backend = SDPBackend.FLASH_ATTENTION if self.kind == "flash" else SDPBackend.MATH
            with sdpa_kernel(backend):
                y = F.scaled_dot_product_attention(q, k, v, is_causal=True, dropout_p=p)
        return self.out(y.transpose(1, 2).reshape(b, t, d))


class GptBlock(nn.Module):
    def __init__(self, kind: str = "flash", dropout: float = 0.1) -> None:
        super().__init__()
        self.ln1, self.ln2 = nn.LayerNorm(D), nn.LayerNorm(D)
        self.attention = Attention(kind, dropout if kind != "flash" else 0.0)
        self.mlp = nn.Sequential(nn.Linear(D, 4 * D), nn.GELU(), nn.Linear(4 * D, D), nn.Dropout(dropout))

    def forward(self, x: Tensor) -> Tensor:
        x = x + self.attention(self.ln1(x))
        return x + self.mlp(self.ln2(x))


class Llama(nn.Module):
    """RMSNorm, rotary positions, SwiGLU."""

    def __init__(self) -> None:
        super().__init__()
        self.norm1, self.norm2 = nn.RMSNorm(D), nn.RMSNorm(D)
        self.q, self.k, self.v, self.o = (nn.Linear(D, D, bias=False) for _ in range(4))
        self.gate, self.up, self.down = nn.Linear(D, 24), nn.Linear(D, 24), nn.Linear(24, D)
        angle = torch.outer(torch.arange(6.0), 1.0 / (100 ** (torch.arange(0, D // 2, 2) / (D // 2))))
        self.register_buffer("cos", angle.cos().repeat(1, 2), persistent=False)
        self.register_buffer("sin", angle.sin().repeat(1, 2), persistent=False)

    def rotate(self, x: Tensor) -> Tensor:
        left, right = x.chunk(2, -1)
        return x * self.cos + torch.cat((-right, left), -1) * self.sin

    def forward(self, x: Tensor) -> Tensor:
        b, t, d = x.shape
        h = self.norm1(x)
        q, k, v = (f(h).view(b, t, 2, d // 2).transpose(1, 2) for f in (self.q, self.k, self.v))
        y = F.scaled_dot_product_attention(self.rotate(q), self.rotate(k), v, is_causal=True)
        x = x + self.o(y.transpose(1, 2).reshape(b, t, d))
        h = self.norm2(x)
        return x + self.down(F.silu(self.gate(h)) * self.up(h))


class ConvBlock(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.conv = nn.Conv2d(3, 8, 3, padding=1)
        self.bn = nn.BatchNorm2d(8)
        self.shortcut = nn.Conv2d(3, 8, 1)

    def forward(self, x: Tensor) -> Tensor:
        y = F.relu(self.bn(self.conv(x)), inplace=True)
        return F.max_pool2d(y + self.shortcut(x), 2)


class Recurrent(nn.Module):
    def __init__(self, kind: type[nn.RNNBase]) -> None:
        super().__init__()
        self.rnn = kind(D, D, num_layers=2, dropout=0.3, batch_first=True)  # type: ignore[arg-type]

    def forward(self, x: Tensor) -> Tensor:
        return self.rnn(x)[0]


class TiedWeights(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.embed = nn.Linear(D, D, bias=False)
        self.head = nn.Linear(D, D, bias=False)
        self.head.weight = self.embed.weight

    def forward(self, x: Tensor) -> Tensor:
        return self.head(torch.tanh(self.embed(x)))


class Shared(nn.Module):
    """One module used three times."""

    def __init__(self) -> None:
        super().__init__()
        self.cell = nn.Linear(D, D)

    def forward(self, x: Tensor) -> Tensor:
        for _ in range(3):
            x = torch.tanh(self.cell(x)) + x
        return x


class Ema(nn.Module):
    """Keeps an average of its activations, which its output does not depend on."""

    def __init__(self) -> None:
        super().__init__()
        self.linear = nn.Linear(D, D)
        self.register_buffer("average", torch.zeros(D))

    def forward(self, x: Tensor) -> Tensor:
        y = self.linear(x)
        with torch.no_grad():
            self.average.mul_(0.9).add_(y.mean((0, 1)), alpha=0.1)
        return F.gelu(y)


class Codebook(nn.Module):
    """Reads a buffer that it then updates: a recomputation would start from another value."""

    def __init__(self) -> None:
        super().__init__()
        self.linear = nn.Linear(D, D)
        self.register_buffer("center", torch.zeros(D))

    def forward(self, x: Tensor) -> Tensor:
        y = self.linear(x) - self.center
        with torch.no_grad():
            self.center = self.center + y.mean((0, 1))
        return torch.tanh(y)


class Frozen(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.base, self.lora = nn.Linear(D, D), nn.Linear(D, D)
        self.base.requires_grad_(False)

    def forward(self, x: Tensor) -> Tensor:
        return torch.sigmoid(self.base(x)) * self.lora(x)


class FlatParameters(nn.Module):
    """Parameters that are views into one buffer, as flat optimizers make them."""

    def __init__(self) -> None:
        super().__init__()
        flat = torch.randn(2 * D * D) / 4
        self.first = nn.Parameter(flat[: D * D].view(D, D))
        self.second = nn.Parameter(flat[D * D :].view(D, D))

    def forward(self, x: Tensor) -> Tensor:
        return torch.relu(x @ self.first) @ self.second.t()


class CheckpointReentrant(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.first = nn.Linear(D, D)
        self.inner = nn.Sequential(nn.Linear(D, D), nn.Dropout(0.2), nn.BatchNorm1d(6), nn.Tanh())

    def forward(self, x: Tensor) -> Tensor:
        return torch.utils.checkpoint.checkpoint(self.inner, self.first(x), use_reentrant=True)


class ScaledStep(torch.autograd.Function):
    """A ctx with numbers, a computed mask and a random factor."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, scale: float) -> Tensor:
        ctx.scale, ctx.factor, ctx.shape = scale, random.random(), x.shape
        ctx.parts = {"mask": x > 0, "names": ["a", 2]}
        ctx.save_for_backward(x, None)
        return x * scale

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor, None]:
        (x, _) = ctx.saved_tensors
        return (grad * ctx.scale * ctx.factor * ctx.parts["mask"] + x.sign()).view(ctx.shape), None


class UnseededStep(torch.autograd.Function):
    """A ctx with a number that no seed reproduces."""

    @staticmethod
    def forward(ctx: Any, x: Tensor) -> Tensor:
        ctx.factor = unseeded()
        return x.clone()

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> Tensor:
        return grad * ctx.factor


class ObjectOnCtx(torch.autograd.Function):
    """A ctx with an object that has no description."""

    @staticmethod
    def forward(ctx: Any, x: Tensor) -> Tensor:
        ctx.generator = random.Random(os.urandom(4))
        return x.clone()

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> Tensor:
        return grad * ctx.generator.random()


class MixtureOfExperts(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.router = nn.Linear(D, 2)
        self.experts = nn.ModuleList([nn.Linear(D, D), nn.Linear(D, D)])

    def forward(self, x: Tensor) -> Tensor:
        flat = x.reshape(-1, D)
        score, choice = self.router(flat).softmax(-1).max(-1)
        y = torch.zeros_like(flat)
        for index, expert in enumerate(self.experts):
            rows = (choice == index).nonzero().squeeze(-1)
            y = y.index_add(0, rows, expert(flat[rows]) * score[rows, None])
        return y.view_as(x)


class LayerDrop(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.linear = nn.Linear(D, D)

    def forward(self, x: Tensor) -> Tensor:
        return x if torch.rand(()) < 0.5 else x + self.linear(x)


class Counter(nn.Module):
    """Scales by how often it ran: Python state that changes."""

    def __init__(self) -> None:
        super().__init__()
        self.linear = nn.Linear(D, D)
        self.calls = 0

    def forward(self, x: Tensor) -> Tensor:
        self.calls += 1
        return self.linear(x) * self.calls


class Fft(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.filter = nn.Parameter(torch.randn(D // 2 + 1, dtype=torch.complex64))

    def forward(self, x: Tensor) -> Tensor:
        return torch.fft.irfft(torch.fft.rfft(x, dim=-1) * self.filter, n=D, dim=-1)


class Head(nn.Module):
    """The loss: a scalar, from activations and integer targets."""

    def __init__(self, factor: Any = None) -> None:
        super().__init__()
        self.out = nn.Linear(D, 11)
        self.factor = factor

    def forward(self, x: Tensor, target: Tensor) -> Tensor:
        loss = F.cross_entropy(self.out(x).reshape(-1, 11), target.reshape(-1), label_smoothing=0.1)
        return loss if self.factor is None else loss * self.factor()


class BackwardHooked(nn.Module):
    """Module hooks that change gradients."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.second = nn.Linear(D, D), nn.Linear(D, D)
        self.second.register_full_backward_hook(_halve)

    def forward(self, x: Tensor) -> Tensor:
        return self.second(torch.tanh(self.first(x)))


def _halve(module: nn.Module, grad_in: Any, grad_out: Any) -> Any:
    return tuple(grad * 0.5 for grad in grad_in)
