"""Makes `xfer.torch` importable, and fixes the thread count."""

from __future__ import annotations

import torch
from replay_package import make_importable

make_importable()

# Bits depend on the thread count in some kernels, so the two processes of a test must agree on it.
torch.set_num_threads(1)
