"""The encoding of descriptions: exact on what it carries, bounded and single-minded on everything else."""

from __future__ import annotations

import random
import struct
import tracemalloc
import zlib
from collections.abc import Callable
from typing import Any

import pytest
import torch
import xfer.torch as xt
from xfer.torch import codec
from xfer.torch.limits import DEPTH_MAX, META_BYTES_MAX, STRING_BYTES_MAX, VALUES_MAX
from xfer.torch.manifest import Manifest

HEADER_BYTES = 16


def framed(body: bytes) -> bytes:
    """A well-formed header around any body."""
    return struct.pack("<4sHHII", codec.MAGIC, codec.VERSION, 0, len(body), zlib.crc32(body)) + body


def anything(rng: random.Random, depth: int = 0) -> Any:
    plain: list[Callable[[], Any]] = [
        lambda: None,
        lambda: rng.random() < 0.5,
        lambda: rng.randint(-200, 200),
        lambda: rng.randint(-(1 << 63), (1 << 63) - 1),
        lambda: rng.gauss(0, 1e9),
        lambda: complex(rng.random(), -rng.random()),
        lambda: "".join(chr(rng.randint(1, 0x2FFF)) for _ in range(rng.randint(0, 9))),
        lambda: rng.randbytes(rng.randint(0, 40)),
    ]
    if depth > 4 or rng.random() < 0.5:
        return rng.choice(plain)()
    size = rng.randint(0, 5)
    items = [anything(rng, depth + 1) for _ in range(size)]
    keys = [rng.choice([f"k{n}", n, -n]) for n in range(size)]
    return rng.choice([items, tuple(items), dict(zip(keys, items, strict=True))])


def test_everything_it_carries_comes_back() -> None:
    rng = random.Random(1)
    for _ in range(500):
        value = anything(rng)
        assert codec.decode(codec.encode(value)) == value


def test_types_and_bits_come_back() -> None:
    value = [1, True, 1.0, -0.0, float("inf"), 1 + 0j, "\ud800é", b"\0", (), [], {1: 2, "1": 3}, -128, 127, 128]
    back = codec.decode(codec.encode(value))
    assert back == value and [type(item) for item in back] == [type(item) for item in value]
    assert struct.pack("<d", back[3]) == struct.pack("<d", -0.0)
    nan = struct.unpack("<d", struct.pack("<Q", 0x7FF8000000000ABC))[0]
    assert struct.pack("<d", codec.decode(codec.encode(nan))) == struct.pack("<d", nan)


@pytest.mark.parametrize(
    "value", [1 << 63, -(1 << 63) - 1, {1.5: 0}, {None: 0}, object(), {1, 2}, torch.ones(1), range(3)]
)
def test_what_it_does_not_carry_is_named(value: Any) -> None:
    with pytest.raises(xt.WireError):
        codec.encode(value)


def nested(depth: int) -> Any:
    value: Any = None
    for _ in range(depth):
        value = [value]
    return value


@pytest.mark.parametrize(
    ("within", "beyond"),
    [
        (nested(DEPTH_MAX), nested(DEPTH_MAX + 1)),
        ("x" * STRING_BYTES_MAX, "x" * (STRING_BYTES_MAX + 1)),
        ([None] * (VALUES_MAX - 1), [None] * VALUES_MAX),
        (b"x" * (META_BYTES_MAX - HEADER_BYTES - 5), b"x" * (META_BYTES_MAX - HEADER_BYTES - 4)),
    ],
    ids=["depth", "string", "values", "bytes"],
)
def test_limits_hold_on_both_sides(within: Any, beyond: Any) -> None:
    assert codec.decode(codec.encode(within)) == within
    with pytest.raises(xt.WireError):
        codec.encode(beyond)


@pytest.mark.parametrize(
    "body",
    [
        b"\x09" * (DEPTH_MAX + 2) + b"\x01\0\0\0",
        b"\x09" + struct.pack("<I", VALUES_MAX) + b"\0" * VALUES_MAX,
        b"\x07" + struct.pack("<I", STRING_BYTES_MAX + 1) + b"x" * (STRING_BYTES_MAX + 1),
        b"\x0b" + struct.pack("<I", 2) + b"\x03\x01\0" * 2,
        b"\x0b" + struct.pack("<I", 1) + b"\0\0",
        b"\x07" + struct.pack("<I", 1) + b"\xff",
        b"\x0c",
        b"\0\0",
        b"",
    ],
    ids=["depth", "values", "string", "key twice", "key none", "not utf-8", "tag", "trailing", "empty"],
)
def test_bodies_that_encode_never_wrote_are_refused(body: bytes) -> None:
    with pytest.raises(xt.WireError):
        codec.decode(framed(body))


@pytest.mark.parametrize("tag", [7, 8, 9, 10, 11], ids=["str", "bytes", "list", "tuple", "dict"])
def test_a_length_alone_allocates_nothing(tag: int) -> None:
    tracemalloc.start()
    try:
        for length in (0xFFFFFFFF, 0x7FFFFFFF, 1 << 24, 1000):
            with pytest.raises(xt.WireError):
                codec.decode(framed(bytes([tag]) + struct.pack("<I", length)))
        assert tracemalloc.get_traced_memory()[1] < 1 << 20
    finally:
        tracemalloc.stop()


def test_headers_are_checked() -> None:
    good = codec.encode([1, "two"])
    for bad in (b"", good[:15], b"YFRG" + good[4:], good[:-1], good + b"\0", good[:4] + b"\2\0" + good[6:]):
        with pytest.raises(xt.WireError):
            codec.decode(bad)
    with pytest.raises(xt.WireError, match="limit"):
        codec.decode(bytes(META_BYTES_MAX + 1))


def description() -> tuple[torch.nn.Module, bytes]:
    torch.manual_seed(0)
    layer = torch.nn.Sequential(torch.nn.Linear(4, 4), torch.nn.LayerNorm(4), torch.nn.Dropout(0.5))
    return layer, xt.forward(layer, torch.randn(2, 4)).export().meta


def damaged(data: bytes, rng: random.Random) -> bytes:
    body = bytearray(data)
    for _ in range(rng.randint(1, 4)):
        at = rng.randrange(len(body))
        kind = rng.randrange(4)
        if kind == 0:
            body[at] ^= 1 << rng.randrange(8)
        elif kind == 1:
            body[at : at + rng.randint(1, 8)] = rng.randbytes(rng.randint(0, 8))
        elif kind == 2:
            body[at : at + 4] = struct.pack("<I", rng.choice([0, 1, 0xFFFFFFFF, 0x80000000, rng.getrandbits(32)]))
        else:
            body = body[:at] + body[rng.randrange(len(body)) :]
        if not body:
            body = bytearray(b"\0")
    return bytes(body)


def test_ten_thousand_damaged_descriptions_raise_its_error_only() -> None:
    _, meta = description()
    rng = random.Random(2)
    accepted = 0
    for number in range(10_000):
        # Every fourth is damaged as a whole; the others pass the checksum, to reach what lies behind it.
        whole = number % 4 == 0
        bad = damaged(meta, rng) if whole else framed(damaged(meta[HEADER_BYTES:], rng))
        try:
            Manifest.from_bytes(bad)
        except xt.WireError:
            continue
        assert not whole or bad == meta
        accepted += 1
    # Half of the description is random state, in which every bit pattern is one.
    assert accepted < 2_000


def changed(value: Any, rng: random.Random) -> Any:
    """`value` with one leaf or container somewhere in it replaced."""
    if isinstance(value, (list, tuple)) and value and rng.random() < 0.95:
        at = rng.randrange(len(value))
        items = list(value)
        items[at] = changed(items[at], rng)
        return type(value)(items)
    if isinstance(value, dict) and value and rng.random() < 0.95:
        key = rng.choice(list(value))
        return {**value, key: changed(value[key], rng)}
    numbers = [None, True, 0, 1, -1, 3, 1 << 40, 1 << 62, 0.5]
    return rng.choice([*numbers, "", "cpu", "float64", "param:0.weight", [], [1], {}])


def test_descriptions_with_one_change_are_refused_or_harmless() -> None:
    layer, meta = description()
    rng = random.Random(3)
    value = codec.decode(meta)
    # The random state is bytes for the generators; what is in it has no structure to get wrong.
    fields = [name for name in value if name != "rng"]
    refused = 0
    for _ in range(400):
        field = rng.choice(fields)
        try:
            xt.skeleton(layer, codec.encode({**value, field: changed(value[field], rng)}))
        except (xt.WireError, xt.Refused):
            refused += 1
    assert refused > 200
