"""A small tagged encoding for descriptions: plain values only, bounded before it allocates, never code.

Layout, all little-endian: magic `XFRG`, u16 version, u16 zero, u32 body length, u32 CRC-32 of the body, then one
value. A value is a tag byte and its content; containers carry a u32 count. What can be written is None, bool,
int (64 bit), float, complex, str, bytes, list, tuple, and dict with str, int or bool keys. Decoding builds these
types and nothing else.
"""

from __future__ import annotations

import struct
import zlib
from typing import Any

from .errors import WireError
from .limits import DEPTH_MAX, META_BYTES_MAX, STRING_BYTES_MAX, VALUES_MAX

MAGIC = b"XFRG"
VERSION = 1

_HEADER = struct.Struct("<4sHHII")
_I64 = struct.Struct("<q")
_F64 = struct.Struct("<d")
_C128 = struct.Struct("<dd")
_U32 = struct.Struct("<I")

_NONE, _FALSE, _TRUE, _I8, _INT, _FLOAT, _COMPLEX, _STR, _BYTES, _LIST, _TUPLE, _DICT = range(12)


def encode(value: Any) -> bytes:
    """The bytes of `value`. Raises `WireError` for a type or a size that decoding would refuse."""
    out = bytearray()
    _Writer(out).put(value, 0)
    if _HEADER.size + len(out) > META_BYTES_MAX:
        raise WireError(f"description of {len(out)} bytes exceeds the limit of {META_BYTES_MAX}")
    return _HEADER.pack(MAGIC, VERSION, 0, len(out), zlib.crc32(out)) + bytes(out)


def decode(data: bytes | bytearray | memoryview) -> Any:
    """The value in `data`. Raises `WireError`, and nothing else, for anything that `encode` did not write."""
    body = memoryview(data).cast("B")
    if len(body) > META_BYTES_MAX:
        raise WireError(f"description of {len(body)} bytes exceeds the limit of {META_BYTES_MAX}")
    if len(body) < _HEADER.size:
        raise WireError(f"description cut short: {len(body)} bytes, the header alone has {_HEADER.size}")
    magic, version, reserved, length, crc = _HEADER.unpack_from(body)
    if magic != MAGIC:
        raise WireError("not a layer description: wrong magic")
    if version != VERSION or reserved != 0:
        raise WireError(f"description has format version {version}, this build reads {VERSION}")
    body = body[_HEADER.size :]
    if length != len(body):
        raise WireError(f"description cut short or padded: {len(body)} bytes, its header says {length}")
    if zlib.crc32(body) != crc:
        raise WireError("description is damaged: its checksum does not match")
    reader = _Reader(body)
    value = reader.take(0)
    if reader.at != len(body):
        raise WireError(f"{len(body) - reader.at} bytes follow the description")
    return value


class _Writer:
    def __init__(self, out: bytearray) -> None:
        self.out = out
        self.values = 0

    def put(self, value: Any, depth: int) -> None:
        self.values += 1
        if self.values > VALUES_MAX:
            raise WireError(f"description has more than {VALUES_MAX} values")
        if depth > DEPTH_MAX:
            raise WireError(f"description nests deeper than {DEPTH_MAX}")
        out = self.out
        kind = type(value)
        if value is None:
            out.append(_NONE)
        elif kind is bool:
            out.append(_TRUE if value else _FALSE)
        elif kind is int:
            if -128 <= value < 128:
                out.append(_I8)
                out.append(value & 0xFF)
            elif -(1 << 63) <= value < 1 << 63:
                out.append(_INT)
                out += _I64.pack(value)
            else:
                raise WireError("an integer exceeds 64 bits")
        elif kind is float:
            out.append(_FLOAT)
            out += _F64.pack(value)
        elif kind is complex:
            out.append(_COMPLEX)
            out += _C128.pack(value.real, value.imag)
        elif kind is str:
            self._put_blob(_STR, value.encode("utf-8", "surrogatepass"), STRING_BYTES_MAX)
        elif kind is bytes:
            self._put_blob(_BYTES, value, META_BYTES_MAX)
        elif kind is list or kind is tuple:
            out.append(_LIST if kind is list else _TUPLE)
            out += _U32.pack(len(value))
            for item in value:
                self.put(item, depth + 1)
        elif kind is dict:
            out.append(_DICT)
            out += _U32.pack(len(value))
            for key, item in value.items():
                if type(key) not in (str, int, bool):
                    raise WireError(f"a key of type {type(key).__name__} can't be described")
                self.put(key, depth + 1)
                self.put(item, depth + 1)
        else:
            raise WireError(f"a value of type {kind.__module__}.{kind.__qualname__} can't be described")

    def _put_blob(self, tag: int, blob: bytes, limit: int) -> None:
        if len(blob) > limit:
            raise WireError(f"a string of {len(blob)} bytes exceeds the limit of {limit}")
        self.out.append(tag)
        self.out += _U32.pack(len(blob))
        self.out += blob


class _Reader:
    def __init__(self, data: memoryview) -> None:
        self.data = data
        self.at = 0
        self.values = 0

    def take(self, depth: int) -> Any:
        self.values += 1
        if self.values > VALUES_MAX:
            raise WireError(f"description has more than {VALUES_MAX} values")
        if depth > DEPTH_MAX:
            raise WireError(f"description nests deeper than {DEPTH_MAX}")
        tag = self._bytes(1)[0]
        if tag == _I8:
            byte = self._bytes(1)[0]
            return byte - 256 if byte > 127 else byte
        if tag == _INT:
            return _I64.unpack(self._bytes(8))[0]
        if tag == _STR:
            try:
                return str(self._blob(STRING_BYTES_MAX), "utf-8", "surrogatepass")
            except UnicodeDecodeError as error:
                raise WireError("a string is not UTF-8") from error
        if tag == _LIST:
            return [self.take(depth + 1) for _ in range(self._count(1))]
        if tag == _NONE:
            return None
        if tag == _TRUE:
            return True
        if tag == _FALSE:
            return False
        if tag == _TUPLE:
            return tuple([self.take(depth + 1) for _ in range(self._count(1))])
        if tag == _FLOAT:
            return _F64.unpack(self._bytes(8))[0]
        if tag == _BYTES:
            return bytes(self._blob(META_BYTES_MAX))
        if tag == _DICT:
            return self._dict(depth)
        if tag == _COMPLEX:
            return complex(*_C128.unpack(self._bytes(16)))
        raise WireError(f"unknown tag {tag}")

    def _dict(self, depth: int) -> dict[Any, Any]:
        result: dict[Any, Any] = {}
        for _ in range(self._count(2)):
            key = self.take(depth + 1)
            if type(key) not in (str, int, bool):
                raise WireError(f"a key has type {type(key).__name__}")
            if key in result:
                raise WireError("a key occurs twice")
            result[key] = self.take(depth + 1)
        return result

    def _count(self, bytes_each: int) -> int:
        # Each element takes at least `bytes_each` bytes, so a count that the rest can't hold is refused at once.
        (count,) = _U32.unpack(self._bytes(4))
        if count * bytes_each > len(self.data) - self.at:
            raise WireError("a container claims more elements than there are bytes")
        return int(count)

    def _blob(self, limit: int) -> memoryview:
        (length,) = _U32.unpack(self._bytes(4))
        if length > limit:
            raise WireError(f"a string of {length} bytes exceeds the limit of {limit}")
        return self._bytes(length)

    def _bytes(self, count: int) -> memoryview:
        end = self.at + count
        if end > len(self.data):
            raise WireError("description ends inside a value")
        piece = self.data[self.at : end]
        self.at = end
        return piece
