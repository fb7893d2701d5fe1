"""Every bound on what is read from elsewhere, and why it has that value.

A transformer block describes itself in about 20 kB; the bounds leave three orders of magnitude above that and
still keep a hostile description to well under a second and a few hundred megabytes.
"""

from __future__ import annotations

META_BYTES_MAX = 16 * 1024 * 1024
"""A whole description. Larger than any layer's by far; small enough to be held twice while it is checked."""

VALUES_MAX = 1 << 20
"""Values in one description: bounds time and the Python objects that a byte can turn into."""

DEPTH_MAX = 32
"""Containers inside containers. Ours nest 6 deep; a `ctx` of nested lists adds to that. Keeps recursion shallow."""

STRING_BYTES_MAX = 64 * 1024
"""One name or descriptor."""

NODES_MAX = 1 << 16
"""Autograd nodes of one layer. A GPT block has about 40, an unrolled 512-step cell about 10,000."""

DIMENSIONS_MAX = 64
"""Dimensions of one tensor: what torch itself supports in its kernels."""

SPAN_BYTES_MAX = 1 << 42
"""One storage span (4 TiB): larger than any device memory, small enough that no offset overflows 64 bits."""

REFERENCES_MAX = 1 << 16
"""Tensors that one layer may refer to; each autograd node saves a few at most."""
