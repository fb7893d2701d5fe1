"""xfer hands the state of a training job over before its machine is taken away.

`Engine` is this process's end of it: transfers of tensors between ranks, notices, and hand-overs. `xfer.torch` is what a PyTorch
pipeline needs on top: layers whose forwards can be finished elsewhere.

    import xfer, xfer.torch

    engine = xfer.Engine()                      # rank, world size and store as torchrun says
    engine.watch_notices(["signal", "store"])   # SIGTERM, `xfer drain`
    engine.connect()
"""

from ._xfer import (
    Cancelled,
    Engine,
    Expired,
    Incoming,
    Interrupted,
    Item,
    Memory,
    Notice,
    Outcome,
    Outgoing,
    PeerLost,
    StoreLost,
    Transfer,
    XferError,
    __version__,
)

__all__ = [
    "Cancelled",
    "Engine",
    "Expired",
    "Incoming",
    "Interrupted",
    "Item",
    "Memory",
    "Notice",
    "Outcome",
    "Outgoing",
    "PeerLost",
    "StoreLost",
    "Transfer",
    "XferError",
    "__version__",
]
