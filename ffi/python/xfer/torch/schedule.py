"""The order in which one stage of a pipeline works through the microbatches of a step."""

from collections.abc import Iterator
from typing import Literal

Work = Literal["forward", "backward"]


def one_forward_one_backward(position: int, stages: int, microbatches: int) -> Iterator[tuple[Work, int]]:
    """1F1B: as many forwards as stages follow, then one backward after each forward, then the backwards that are left.

    Forwards, and backwards, come in the order of the microbatches at every position and for any number of stages. A
    layer that changes hands in the middle of a step therefore adds up its gradients, and draws its random numbers, in
    the same order as if it had stayed.
    """
    ahead = min(stages - position - 1, microbatches)
    for microbatch in range(ahead):
        yield "forward", microbatch
    for microbatch in range(microbatches - ahead):
        yield "forward", microbatch + ahead
        yield "backward", microbatch
    for microbatch in range(microbatches - ahead, microbatches):
        yield "backward", microbatch
