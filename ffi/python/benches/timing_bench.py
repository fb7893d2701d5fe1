"""What it costs a training run that each forward is timed, so that a hand-over can be planned with what forwards take.

    python ffi/python/benches/timing_bench.py [--d-model 128] [--pairs 400]

Two figures. "alone": what the timing takes by itself, as a part of a forward. "in pairs": forwards with and without it,
taking turns, each by the time that this thread was given by its core; the middle of the pairs' ratios, and what half of
the ratios lie within. The second one has in it whatever else the timing might disturb; where it is less than its own
spread, it is noise.
"""

from __future__ import annotations

import argparse
import statistics
import time
from collections.abc import Callable

import torch
from torch import Tensor, nn

from xfer.torch.in_flight import InFlight
from xfer.torch.pace import reading, since
from xfer.torch.rng import LayerRng
from xfer.torch.shard import Shard


def block(width: int) -> nn.Module:
    """A layer of a pipeline: about the smallest that anybody would time."""
    return nn.TransformerEncoderLayer(width, 4, 4 * width, dropout=0.1, batch_first=True)


def plain(shard: Shard, given: Tensor) -> None:
    """A forward as a stage runs it, but for the timing."""
    InFlight(shard.name).run(shard.module, given, shard.rng)


def timed(shard: Shard, given: Tensor) -> None:
    """A forward as a stage runs it."""
    began = reading()
    InFlight(shard.name).run(shard.module, given, shard.rng)
    shard.note_forward(since(began))


def took_s(work: Callable[[Shard, Tensor], None], shard: Shard, given: Tensor) -> float:
    """How long the thread works on it."""
    began_s = time.thread_time()
    work(shard, given)
    return time.thread_time() - began_s


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--d-model", type=int, default=128)
    parser.add_argument("--pairs", type=int, default=400)
    options = parser.parse_args()
    torch.set_num_threads(1)
    module = block(options.d_model)
    shard = Shard(0, module, torch.optim.AdamW(module.parameters()), LayerRng(0, 0))
    given = torch.randn(4, 64, options.d_model)
    for work in (plain, timed):
        work(shard, given)

    pairs = []
    for n in range(options.pairs):
        # Who goes first takes turns too: the second one finds warm caches.
        if n % 2:
            with_s, without_s = took_s(timed, shard, given), took_s(plain, shard, given)
        else:
            without_s, with_s = took_s(plain, shard, given), took_s(timed, shard, given)
        pairs.append((without_s, with_s))
    forward_s = statistics.median(without for without, _ in pairs)
    ratios = statistics.quantiles([with_s / without_s - 1 for without_s, with_s in pairs], n=4)

    rounds = 20_000
    began_s = time.thread_time()
    for _ in range(rounds):
        noted = reading()
        shard.note_forward(since(noted))
    alone_s = (time.thread_time() - began_s) / rounds

    print(f"a forward of {options.d_model} by {4 * 64} tokens: {forward_s * 1e3:.2f} ms")
    print(f"timing it, alone:    {alone_s * 1e6:.2f} us, {alone_s / forward_s:.3%} of it")
    print(f"timing it, in pairs: {ratios[1]:+.2%}, half of them within {ratios[0]:+.2%} and {ratios[2]:+.2%}")


if __name__ == "__main__":
    main()
