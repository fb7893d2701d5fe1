"""What handing over one transformer block costs: bytes, and milliseconds for each step, beside plain PyTorch.

    PYTHONPATH=ffi/python python ffi/python/benches/replay_bench.py --threads 2

Each time is the best of `--repeat` runs after one that is not counted: what else runs on the machine only adds. The
three kinds of forward and backward (plain, hooks, walk) take turns, so that a slow minute does not fall on one alone.
"""

from __future__ import annotations

import argparse
import json
import platform
import time
from collections import defaultdict
from collections.abc import Callable
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn
import xfer.torch as xt


class Block(nn.Module):
    """A pre-norm GPT block."""

    def __init__(self, width: int, heads: int, dropout: float, attention: str) -> None:
        super().__init__()
        self.heads, self.dropout, self.attention = heads, dropout, attention
        self.ln1, self.ln2 = nn.LayerNorm(width), nn.LayerNorm(width)
        self.qkv, self.out = nn.Linear(width, 3 * width), nn.Linear(width, width)
        self.mlp = nn.Sequential(nn.Linear(width, 4 * width), nn.GELU(), nn.Linear(4 * width, width))

    def forward(self, x: Tensor) -> Tensor:
        b, t, d = x.shape
        q, k, v = self.qkv(self.ln1(x)).view(b, t, 3, self.heads, d // self.heads).permute(2, 0, 3, 1, 4)
        if self.attention == "flash":
            y = F.scaled_dot_product_attention(q, k, v, is_causal=True)
        else:
            mask = torch.ones(t, t, dtype=torch.bool, device=x.device).tril()
            scores = (q @ k.transpose(-1, -2)) * (d // self.heads) ** -0.5
            y = F.dropout(scores.masked_fill(~mask, float("-inf")).softmax(-1), self.dropout) @ v
        x = x + F.dropout(self.out(y.transpose(1, 2).reshape(b, t, d)), self.dropout)
        return x + F.dropout(self.mlp(self.ln2(x)), self.dropout)


class Clock:
    """Times in milliseconds by name."""

    def __init__(self) -> None:
        self.times: dict[str, list[float]] = defaultdict(list)

    def run(self, name: str, work: Callable[[], Any]) -> Any:
        start = time.perf_counter()
        result = work()
        self.times[name].append((time.perf_counter() - start) * 1e3)
        return result

    def best(self, name: str) -> float:
        return min(self.times[name][1:])


def measure(options: argparse.Namespace) -> dict[str, Any]:
    """All numbers of the table, in the order in which they are printed."""
    torch.set_num_threads(options.threads)
    torch.manual_seed(0)
    xt.warm_up()
    block = Block(options.width, options.heads, options.dropout, options.attention)
    replica = Block(options.width, options.heads, options.dropout, options.attention)
    replica.load_state_dict(block.state_dict())
    x = torch.randn(options.batch, options.tokens, options.width)
    grad = torch.randn_like(x)
    clock = Clock()
    exported: Any = None
    exact = True
    for _ in range(options.repeat + 1):
        leaf = x.detach().requires_grad_()
        plain = clock.run("forward_ms", lambda leaf=leaf: block(leaf))
        # Each backward begins without gradients, so that none has to add where another has to store.
        block.zero_grad()
        clock.run("backward_ms", lambda plain=plain: plain.backward(grad))
        walked = clock.run("forward_walk_ms", lambda: xt.forward(block, x, route="walk"))
        clock.run("export_walk_ms", walked.export)
        block.zero_grad()
        clock.run("backward_walk_ms", lambda walked=walked: walked.backward(grad))
        ran = clock.run("forward_hooks_ms", lambda: xt.forward(block, x, route="hooks"))
        exported = clock.run("export_ms", ran.export)
        waiting = clock.run("skeleton_ms", lambda sent=exported: xt.skeleton(replica, sent.meta))
        sent = [tensor.clone() for tensor in exported.tensors]
        replica.zero_grad()
        block.zero_grad()
        (theirs,) = clock.run("bind_and_backward_ms", lambda w=waiting, s=sent: w.bind(s).backward(grad))
        (ours,) = clock.run("backward_hooks_ms", lambda ran=ran: ran.backward(grad))
        same = [torch.equal(a.grad, b.grad) for a, b in zip(block.parameters(), replica.parameters(), strict=True)]
        exact = exact and torch.equal(ours, theirs) and all(same)
    input_bytes = x.numel() * x.element_size()
    needed = [entry for entry in exported.entries if entry.needed]
    saved_bytes = sum(entry.nbytes for entry in needed if entry.role is not xt.Role.INPUT)
    result: dict[str, Any] = {
        "parameter_bytes": sum(p.numel() * p.element_size() for p in block.parameters()),
        "input_bytes": input_bytes,
        "saved_bytes": saved_bytes,
        "saved_to_input": saved_bytes / input_bytes,
        "meta_bytes": len(exported.meta),
        "exact": exact,
    }
    names = ["forward_ms", "forward_hooks_ms", "forward_walk_ms", "backward_ms", "backward_hooks_ms"]
    names += ["backward_walk_ms", "export_ms", "export_walk_ms", "skeleton_ms", "bind_and_backward_ms"]
    result.update({name: clock.best(name) for name in names})
    plain_ms = result["forward_ms"] + result["backward_ms"]
    for route in ("hooks", "walk"):
        result[f"overhead_{route}"] = (result[f"forward_{route}_ms"] + result[f"backward_{route}_ms"]) / plain_ms
    return result


def main() -> None:
    """Measures and prints."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--width", type=int, default=1024, help="model width (1024)")
    parser.add_argument("--heads", type=int, default=16)
    parser.add_argument("--tokens", type=int, default=512, help="sequence length (512)")
    parser.add_argument("--batch", type=int, default=4)
    parser.add_argument("--dropout", type=float, default=0.1)
    parser.add_argument("--attention", choices=("flash", "manual"), default="flash")
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--repeat", type=int, default=5)
    parser.add_argument("--json", action="store_true", help="one JSON object on standard output")
    options = parser.parse_args()
    result = measure(options)
    if options.json:
        about = {"torch": str(torch.__version__), "machine": platform.processor() or platform.machine()}
        print(json.dumps({**vars(options), **about, **result}))
        return
    print(
        f"GPT block, width {options.width}, {options.heads} heads, {options.batch} x {options.tokens} tokens, dropout "
        f"{options.dropout}, {options.attention} attention, float32, {options.threads} CPU threads, "
        f"torch {torch.__version__}"
    )
    for name, value in result.items():
        if name.endswith("_bytes"):
            print(f"{name:>24} {value:14,d}   {value / 2**20:9.2f} MiB")
        elif isinstance(value, float):
            print(f"{name:>24} {value:14.3f}")
        else:
            print(f"{name:>24} {value!s:>14}")


if __name__ == "__main__":
    main()
