"""The zoo: one entry per kind of layer, with what must become of it on each route.

An outcome is `exact` or the `Why` of the refusal. `recomputed` is what must become of the fallback: `exact`,
`diverged` when it must be noticed that the forward can't be repeated, or None where nobody can notice, or where plain
PyTorch has no backward. `seeded` is False where no seed makes two runs alike.
"""

from __future__ import annotations

import random
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
import torch.nn.functional as F
import torch.utils.checkpoint
import zoo_layers as layers
from torch import Tensor, nn
from zoo_layers import D, compute, process_state, unseeded

EXACT = "exact"
DIVERGED = "diverged"


@dataclass(frozen=True)
class Case:
    """A layer, its inputs for microbatch 0, 1, ..., and the required outcomes."""

    name: str
    build: Callable[[], nn.Module]
    inputs: Callable[[], tuple[Any, ...]]
    hooks: str = EXACT
    walk: str = EXACT
    recomputed: str | None = EXACT
    microbatches: int = 2
    autocast: bool = False
    evaluate: bool = False
    seeded: bool = True


def sequence() -> tuple[Any, ...]:
    return (torch.randn(2, 6, D),)


def image() -> tuple[Any, ...]:
    return (torch.randn(2, 3, 8, 8),)


def tokens() -> tuple[Any, ...]:
    return (torch.randint(0, 20, (2, 6)),)


def labelled() -> tuple[Any, ...]:
    return torch.randn(2, 6, D), torch.randint(0, 11, (2, 6))


def pair() -> tuple[Any, ...]:
    return torch.randn(2, 6, D), torch.randn(2, 6, D), 3


def _in_place(m: Any, x: Tensor) -> Tensor:
    y = m.linear(x)
    y.add_(1.0).mul_(0.7)
    y = y.relu_()
    return y.clone().div_(x.detach().abs() + 1)


def _slice_assign(m: Any, x: Tensor) -> Tensor:
    y = torch.zeros_like(x)
    y[:, ::2] = m.linear(x)[:, ::2]
    y[:, 1] = torch.tanh(x[:, 0]) * y[:, 2].clone()
    return y


def _slice_scale(factor: Callable[[], float]) -> Any:
    def function(m: Any, x: Tensor) -> Tensor:
        y = m.linear(x)
        y[:, 0] *= factor()
        return torch.tanh(y)

    return function


def _slice_width(m: Any, x: Tensor) -> Tensor:
    y = m.linear(x).clone()
    y[:, :, : process_state["width"]] = 0
    return y


def _autocast(m: Any, x: Tensor) -> Tensor:
    with torch.autocast("cpu", dtype=torch.bfloat16):
        return m.linear(F.gelu(m.linear(x))).float()


def _views(m: Any, x: Tensor) -> Any:
    y = m.linear(x)
    return y.transpose(0, 1), y[:, 1:3], y.view(-1)


def _mapping(m: Any, x: Tensor) -> Any:
    y = m.linear(x)
    return {"hidden": torch.tanh(y), "aux": (y.square().mean(), None), "ids": y.detach().argmax(-1)}


def _topk(m: Any, x: Tensor) -> Tensor:
    values, index = m.linear(x).topk(5, -1)
    return torch.gather(x, -1, index) * values.softmax(-1)


def _index_put(m: Any, x: Tensor) -> Tensor:
    rows = torch.tensor([0, 2, 2, 5])
    return m.linear(x).index_put((torch.tensor([0, 1, 1, 0]), rows), x[0, :4] * 2, accumulate=True).cumsum(1)


def _unused_chunk(m: Any, x: Tensor) -> Tensor:
    first, _, third, _ = m.linear(x).chunk(4, -1)
    top = torch.sort(third, -1).values
    return first * top


def _as_strided(m: Any, x: Tensor) -> Tensor:
    y = m.linear(x)
    return y.as_strided((2, 4, 5), (48, 16, 2), 3).exp()


def _foreach(m: Any, x: Tensor) -> Tensor:
    first, second = torch._foreach_mul([m.linear(x), x], 1.5)
    return torch.sqrt(first.square() + second.square() + 1)


def _float_mask(m: Any, x: Tensor) -> Tensor:
    q = m.linear(x).view(2, 6, 2, D // 2).transpose(1, 2)
    bias = torch.linspace(-1, 1, 36).view(6, 6)
    return F.scaled_dot_product_attention(q, q, q, attn_mask=bias, dropout_p=0.2).transpose(1, 2).reshape(2, 6, D)


def _saved_outputs(m: Any, x: Tensor) -> Tensor:
    y = m.linear(x)
    return torch.tanh(y) + torch.sigmoid(y) * y.softmax(-1) + torch.exp(-y.abs()) + F.softplus(y).sqrt()


def _item_branch(m: Any, x: Tensor) -> Tensor:
    return m.linear(x) * (2.0 if x.mean().item() > 0 else 0.5)


def _boolean_mask(m: Any, x: Tensor) -> Tensor:
    y = m.linear(x)
    return y[x > 0].square().sum() + y.sum()


def _checkpoint(m: Any, x: Tensor) -> Tensor:
    return torch.utils.checkpoint.checkpoint(lambda v: torch.tanh(m.linear(v)), x, use_reentrant=False)


def _checkpoint_closure(m: Any, x: Tensor) -> Tensor:
    mask = (x > 0).float()
    return torch.utils.checkpoint.checkpoint(lambda v: torch.tanh(m.linear(v)) * mask, x.exp(), use_reentrant=True)


def _save_on_cpu(m: Any, x: Tensor) -> Tensor:
    with torch.autograd.graph.save_on_cpu():
        return torch.tanh(m.linear(x))


def _hook(make: Callable[[Tensor], Any]) -> Any:
    def function(m: Any, x: Tensor) -> Tensor:
        y = m.linear(x)
        y.register_hook(make(x))
        return torch.tanh(y)

    return function


def _hook_on_mask(x: Tensor) -> Any:
    mask = x.detach() > 0
    return lambda grad: grad * mask


def _hook_in_place(x: Tensor) -> Any:
    mask = x.detach() > 0

    def hook(grad: Tensor) -> Tensor:
        return grad.mul_(mask)

    return hook


def _hook_on_module_state(m: Any, x: Tensor) -> Tensor:
    m.mask = x.detach() > 0
    y = m.linear(x)
    y.register_hook(lambda grad: grad.mul_(m.mask))
    return torch.tanh(y)


def _hook_on_number(x: Tensor) -> Any:
    factor = unseeded()
    return lambda grad: grad * factor


def _changed(m: Any, x: Tensor) -> Tensor:
    y = m.linear(x).exp()
    z = y * 2
    y.add_(1)
    return z


_FOREIGN = nn.Parameter(torch.ones(D))


def _compiled() -> nn.Module:
    block = nn.Sequential(nn.Linear(D, D), nn.GELU(), nn.Linear(D, D))
    return torch.compile(block, backend="aot_eager")  # type: ignore[return-value]


def _norms(kind: str) -> Callable[[], nn.Module]:
    def build() -> nn.Module:
        linear = nn.Linear(D, D)
        if kind == "weight":
            return nn.Sequential(nn.utils.parametrizations.weight_norm(linear), nn.Tanh())
        return nn.Sequential(nn.utils.parametrizations.spectral_norm(linear), nn.Tanh())

    return build


CASES = [
    Case("linear", lambda: nn.Linear(D, D), sequence),
    Case("linear_no_bias_relu", lambda: nn.Sequential(nn.Linear(D, D, bias=False), nn.ReLU()), sequence),
    Case("identity", nn.Identity, sequence),
    Case(
        "mlp",
        lambda: nn.Sequential(nn.LayerNorm(D), nn.Linear(D, 32), nn.GELU(), nn.Dropout(0.3), nn.Linear(32, D)),
        sequence,
    ),
    Case("saved_outputs", compute(_saved_outputs), sequence),
    Case("gpt_flash", lambda: layers.GptBlock("flash"), sequence),
    Case("gpt_math_dropout", lambda: layers.GptBlock("math", 0.2), sequence),
    Case("gpt_manual_dropout", lambda: layers.GptBlock("manual", 0.2), sequence),
    Case("gpt_evaluation_mode", lambda: layers.GptBlock("flash"), sequence, evaluate=True),
    Case("attention_float_mask", compute(_float_mask), sequence),
    Case("multi_head_attention", lambda: _SelfAttention(), sequence),
    Case(
        "transformer_encoder_layer",
        lambda: nn.TransformerEncoderLayer(D, 4, 32, dropout=0.1, batch_first=True),
        sequence,
    ),
    Case("rope_rmsnorm_swiglu", layers.Llama, sequence),
    Case("conv_bn_inplace_relu", layers.ConvBlock, image),
    Case("conv_bn_evaluation_mode", layers.ConvBlock, image, evaluate=True),
    Case("conv_groupnorm", lambda: nn.Sequential(nn.Conv2d(3, 8, 3, 2), nn.GroupNorm(2, 8), nn.SiLU()), image),
    Case(
        "conv_transpose_pool",
        lambda: nn.Sequential(nn.ConvTranspose2d(3, 4, 2, 2), nn.InstanceNorm2d(4, affine=True), nn.AvgPool2d(2)),
        image,
    ),
    Case("lstm_dropout", lambda: layers.Recurrent(nn.LSTM), sequence),
    Case("gru_dropout", lambda: layers.Recurrent(nn.GRU), sequence),
    Case("in_place", compute(_in_place), sequence),
    Case("slice_assignment", compute(_slice_assign), sequence, walk="opaque-node"),
    Case("slice_times_random", compute(_slice_scale(random.random)), sequence, walk="opaque-node"),
    Case(
        "slice_times_unseeded",
        compute(_slice_scale(unseeded)),
        sequence,
        hooks="signature",
        walk="opaque-node",
        recomputed=DIVERGED,
        seeded=False,
    ),
    Case(
        "slice_of_other_width",
        compute(_slice_width),
        sequence,
        hooks="signature",
        walk="opaque-node",
        recomputed=DIVERGED,
    ),
    Case("function_with_ctx", compute(lambda m, x: layers.ScaledStep.apply(m.linear(x), 0.5)), sequence),
    Case(
        "function_with_unseeded_ctx",
        compute(lambda m, x: layers.UnseededStep.apply(m.linear(x))),
        sequence,
        recomputed=None,
        seeded=False,
    ),
    Case(
        "function_with_object",
        compute(lambda m, x: layers.ObjectOnCtx.apply(m.linear(x))),
        sequence,
        hooks="context",
        walk="context",
        recomputed=None,
        seeded=False,
    ),
    Case("python_random_factor", compute(lambda m, x: m.linear(x) * random.random()), sequence),
    Case(
        "unseeded_factor",
        compute(lambda m, x: m.linear(x) * unseeded()),
        sequence,
        recomputed=DIVERGED,
        seeded=False,
    ),
    Case(
        "unseeded_exponent",
        compute(lambda m, x: m.linear(x).abs().add(1).pow(unseeded())),
        sequence,
        hooks="signature",
        walk="signature",
        recomputed=DIVERGED,
        seeded=False,
    ),
    Case("autocast_inside", compute(_autocast), sequence),
    Case("autocast_around", lambda: layers.GptBlock("math", 0.1), sequence, autocast=True),
    Case("embedding", lambda: nn.Embedding(20, D), tokens),
    Case("embedding_bag", lambda: nn.EmbeddingBag(20, D, mode="mean"), tokens),
    Case("cross_entropy_head", layers.Head, labelled),
    Case("scaled_scalar_loss", lambda: layers.Head(random.random), labelled),
    Case(
        "unseeded_scalar_loss",
        lambda: layers.Head(unseeded),
        labelled,
        recomputed=DIVERGED,
        seeded=False,
    ),
    Case("tied_weights", layers.TiedWeights, sequence),
    Case("shared_module", layers.Shared, sequence),
    Case("frozen_parameters", layers.Frozen, sequence),
    Case("flat_parameters", layers.FlatParameters, sequence),
    Case("weight_norm", _norms("weight"), sequence),
    Case("spectral_norm", _norms("spectral"), sequence, recomputed=DIVERGED),
    Case("einsum", compute(lambda m, x: torch.einsum("bti,oi,bsi->bts", x, m.linear.weight, x.tanh())), sequence),
    Case("topk_gather", compute(_topk), sequence),
    Case("index_put_cumsum", compute(_index_put), sequence),
    Case("unused_chunk_sort", compute(_unused_chunk), sequence),
    Case("as_strided", compute(_as_strided), sequence),
    Case("fft", layers.Fft, sequence),
    Case("ema_buffer", layers.Ema, sequence),
    Case("buffer_read_and_updated", layers.Codebook, sequence, recomputed=DIVERGED),
    Case("view_outputs", compute(_views), sequence),
    Case("mapping_outputs", compute(_mapping), sequence),
    Case("two_inputs_and_a_number", compute(lambda m, x, y, n: m.linear(x) * y + n * y.sin()), pair),
    Case("unused_input", compute(lambda m, x, y, n: m.linear(y)), pair),
    Case("reentrant_checkpoint", layers.CheckpointReentrant, sequence),
    Case("module_backward_hook", layers.BackwardHooked, sequence),
    Case("tensor_hook_of_code", compute(_hook(lambda x: lambda grad: grad * 0.5)), sequence),
    Case("foreach", compute(_foreach), sequence, walk="opaque-node"),
    Case("compiled_aot_eager", _compiled, sequence, microbatches=1),
    Case("item_branch", compute(_item_branch), sequence, "data-dependent", "data-dependent"),
    Case("layer_drop", layers.LayerDrop, sequence, "data-dependent", "data-dependent"),
    Case("boolean_mask", compute(_boolean_mask), sequence, "dynamic-shape", "dynamic-shape"),
    Case("mixture_of_experts", layers.MixtureOfExperts, sequence, "dynamic-shape", "dynamic-shape"),
    Case("checkpoint", compute(_checkpoint), sequence, "foreign-hook", "foreign-hook"),
    Case("checkpoint_on_closure", compute(_checkpoint_closure), sequence, "context", "context"),
    Case("save_on_cpu", compute(_save_on_cpu), sequence, "foreign-hook", "foreign-hook"),
    Case("tensor_hook_on_mask", compute(_hook(_hook_on_mask)), sequence, "fake-gradient", "fake-gradient"),
    Case("tensor_hook_in_place", compute(_hook(_hook_in_place)), sequence, "fake-gradient", "fake-gradient"),
    Case(
        "tensor_hook_on_module_state",
        compute(_hook_on_module_state),
        sequence,
        hooks="fake-gradient",
        walk="fake-gradient",
        microbatches=1,
    ),
    Case(
        "tensor_hook_on_number",
        compute(_hook(_hook_on_number)),
        sequence,
        hooks="context",
        walk="context",
        recomputed=None,
        seeded=False,
    ),
    Case("changed_in_place", compute(_changed), sequence, "changed-in-place", "changed-in-place", None),
    Case("counter", layers.Counter, sequence, "python-state", "python-state"),
    Case("foreign_leaf", compute(lambda m, x: m.linear(x) * _FOREIGN), sequence, "foreign-leaf", "foreign-leaf"),
]


class _SelfAttention(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.attention = nn.MultiheadAttention(D, 4, dropout=0.1, batch_first=True)

    def forward(self, x: Tensor) -> Tensor:
        return self.attention(x, x, x)[0]


BY_NAME = {case.name: case for case in CASES}
