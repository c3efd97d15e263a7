"""Changes to the content of a file, drawn at random: blind ones, and some that know the format."""

from __future__ import annotations

import json
import os
import pickle
import random
import struct
import zlib
from base64 import b64encode
from collections.abc import Callable
from pathlib import Path
from typing import Any

import yaml

Mutation = Callable[[bytes, random.Random], bytes]

MARKER_VARIABLE = "ASPO_FUZZ_MARKER"
"""The environment variable with the path of a file that is there once somebody's code has run."""

ELSEWHERE = ("/proc/version", "/dev/zero", "/proc/self/environ")
"""Names of files that no reader opens."""

_NUMBERS = [0, 1, -1, 2, 7, 127, 255, 65535, 2**31 - 1, 2**31, 2**32, 2**53 + 1, 2**63 - 1, 2**63, 2**64, 10**9, 10**30]
_FLOATS = [0.0, -0.0, 0.5, -1.5, 1e-320, 1e308, 1e309, float("inf"), float("-inf"), float("nan")]
_TEXTS = [
    "",
    " ",
    "\0",
    "\x1b]52;c;aGk=\x07\x1b[2J",
    "\u202eabc\u2066",
    "\ud800",
    "../../../proc/version",
    *ELSEWHERE,
    "[red]a[/red] [link=x]",
    "| a | <img src=x onerror=alert(1)>",
    "=cmd|'/c calc'!A1",
    "{{ ''.__class__.__mro__ }}",
    "{% for i in range(99999) %}{% for j in range(99999) %}{% endfor %}{% endfor %}",
    "{{ 'a' * 10**10 }}",
    "${oc.env:HOME}",
    "!!python/object/apply:os.system",
    "(a+)+$",
    "x" * 70_000,
    "\uff11\uff10",
    "1_0",
    "NaN",
    "kernels-community/flash-attn",
    "some_module--SomeClass",
]


_TEMPLATES = [
    "{% for i in range(99999) %}{% for j in range(99999) %}{% endfor %}{% endfor %}",
    "{{ 'a' * 10**10 }}",
    "{{ messages[0]['content'] * 10**8 }}",
    "{% set x = namespace(a='b') %}{% for i in range(99) %}{% set x.a = x.a + x.a %}{% endfor %}{{ x.a }}",
    "{{ ''.__class__.__mro__[1].__subclasses__() }}",
    "{{ cycler.__init__.__globals__.os.system('true') }}",
    "{{ messages.append.__self__.__class__ }}",
    "{% include '/proc/version' %}",
    "{% import 'os' as os %}{{ os.system('true') }}",
    "{% macro m() %}{{ m() }}{% endmacro %}{{ m() }}",
    "{{ raise_exception('\x1b]52;c;aGk=\x07' * 9999) }}",
    "{{ strftime_now('%' * 99999) }}",
    "{{ messages | tojson(indent=10**9) }}",
    "{{ '%999999999d' % 1 }}",
    "{{ '{:>999999999}'.format(1) }}",
    "{{ messages.clear() }}{{ messages }}",
    "{{ undefined.attribute }}",
    "{{ 1 / 0 }}",
    "{%",
    "\x00\x1b[2J",
]


def any_value(rng: random.Random, depth: int = 2) -> Any:
    """A value of any JSON kind."""
    kind = rng.randrange(8 if depth else 6)
    if kind == 0:
        return rng.choice(_NUMBERS)
    if kind == 1:
        return rng.choice(_FLOATS)
    if kind in (2, 3):
        return rng.choice(_TEXTS)
    if kind in (4, 5):
        return rng.choice([None, True, False, [], {}, [[]], {"": {}}])
    if kind == 6:
        return [any_value(rng, depth - 1) for _ in range(rng.choice([1, 2, 50]))]
    return {rng.choice(_TEXTS): any_value(rng, depth - 1) for _ in range(rng.choice([1, 3]))}


def blind(data: bytes, rng: random.Random) -> bytes:
    """Bits, bytes and pieces: flipped, cut, doubled, moved, left out, replaced by zeros or by numbers."""
    content = bytearray(data)
    for _ in range(rng.choice([1, 1, 2, 8])):
        start = rng.randrange(len(content) + 1)
        length = min(rng.choice([1, 2, 4, 8, 64, 1000]), len(content) - start)
        piece = bytes(content[start : start + length])
        kind = rng.randrange(8)
        if kind == 0 and length:
            content[start] ^= 1 << rng.randrange(8)
        elif kind == 1:
            del content[start:]
        elif kind == 2:
            content[start:start] = piece * rng.choice([1, 3, 100])
        elif kind == 3:
            del content[start : start + length]
        elif kind == 4:
            content[start : start + length] = bytes(length)
        elif kind == 5:
            number = rng.choice(_NUMBERS) % 2**64
            content[start : start + 8] = struct.pack(rng.choice(["<Q", ">Q"]), number)
        elif kind == 6:
            content[start : start + length] = rng.randbytes(length)
        else:
            other = rng.randrange(len(content) + 1)
            content[other:other] = piece
    return bytes(content)


def whole(data: bytes, rng: random.Random) -> bytes:
    """Something else in its place."""
    others = [
        b"",
        b"[" * rng.choice([900, 100_000]),
        b'{"a":' * rng.choice([900, 100_000]),
        b"\xef\xbb\xbf" + data,
        data.decode("utf-8", errors="replace").encode("utf-16"),
        b'{"a": 1' + b"0" * 10_000 + b"}",
        crafted_pickle(rng),
        json.dumps(any_value(rng)).encode(),
        data.replace(b"\n", b"\r\n"),
        bytes(rng.choice([10, 10_000])),
    ]
    return rng.choice(others)


def json_tree(data: bytes, rng: random.Random) -> bytes:
    """A JSON text with some of its values, keys or items changed. Blind where it is none."""
    try:
        tree = json.loads(data)
    except (ValueError, RecursionError):
        return blind(data, rng)
    for _ in range(rng.choice([1, 1, 2, 5])):
        tree = _changed(tree, rng)
    return json.dumps(tree).encode()


def json_lines(data: bytes, rng: random.Random) -> bytes:
    """Lines of JSON with one of them changed, doubled or left out."""
    lines = data.splitlines(keepends=True)
    if not lines:
        return whole(data, rng)
    index = rng.randrange(len(lines))
    changes: list[Mutation] = [json_tree, json_tree, blind, whole, lambda line, rng: line + line, lambda line, rng: b""]
    change = rng.choice(changes)
    lines[index] = change(lines[index].rstrip(b"\n"), rng) + rng.choice([b"\n", b"\n", b"", b"\n\n"])
    return b"".join(lines)


def yaml_tree(data: bytes, rng: random.Random) -> bytes:
    """A YAML text with some of its values changed, or with aliases of aliases. Blind where it is none."""
    try:
        tree = yaml.safe_load(data)
    except (yaml.YAMLError, ValueError, RecursionError):
        return blind(data, rng)
    if rng.random() < 0.05:
        layers = "".join(f"x{n}: &x{n} [{', '.join([f'*x{n - 1}'] * 9)}]\n" for n in range(1, 12))
        return data + b"\nx0: &x0 [a]\n" + layers.encode()
    for _ in range(rng.choice([1, 1, 2, 5])):
        tree = _changed(tree, rng)
    return yaml.safe_dump(tree, allow_unicode=True).encode("utf-8", "surrogatepass")


def template(data: bytes, rng: random.Random) -> bytes:
    """A chat template with something of somebody else's at its start, at its end or in its place."""
    return rng.choice([b"", data]) + rng.choice(_TEMPLATES).encode() + rng.choice([b"", data])


def replaced(path: Path, rng: random.Random) -> None:
    """No file, or a thing of another kind, in the place of a file."""
    path.unlink()
    kind = rng.randrange(6)
    if kind == 0:
        path.mkdir()
    elif kind == 1:
        os.mkfifo(path)
    elif kind < 5:
        path.symlink_to(rng.choice([*ELSEWHERE, str(path), str(path.parent), "/dev/stdin", "nowhere"]))


def _changed(tree: Any, rng: random.Random) -> Any:
    """A copy with one place changed, the deeper the more places there are."""
    keys: list[Any] = list(tree) if isinstance(tree, dict) else list(range(len(tree))) if isinstance(tree, list) else []
    if not keys or rng.random() < 0.02:
        return _odd_sibling(tree, rng)
    key = rng.choice(keys)
    copy = tree.copy()
    kind = rng.random()
    if kind < 0.1:
        del copy[key]
    elif kind < 0.2 and isinstance(copy, dict):
        copy[rng.choice(_TEXTS)] = any_value(rng)
    elif kind < 0.3 and isinstance(copy, dict):
        copy[rng.choice(keys)] = copy[key]
    else:
        copy[key] = _changed(copy[key], rng)
    return copy


def _odd_sibling(value: Any, rng: random.Random) -> Any:
    """Another value, often of the same kind."""
    if rng.random() < 0.3:
        return any_value(rng)
    if isinstance(value, bool):
        return not value
    if isinstance(value, int):
        return rng.choice([*_NUMBERS, value + 1, value * 1000, -value])
    if isinstance(value, float):
        return rng.choice(_FLOATS)
    if isinstance(value, str):
        return rng.choice([*_TEXTS, value[:-1], value + "\n" + value, value.upper()])
    return any_value(rng)


def safetensors(data: bytes, rng: random.Random) -> bytes:
    """A file of tensors with a changed header, whose length fits or not."""
    length = int.from_bytes(data[:8], "little")
    header = json_tree(data[8 : 8 + length], rng)
    said = rng.choice([len(header), len(header), len(header), rng.choice(_NUMBERS) % 2**64])
    return said.to_bytes(8, "little") + header + data[8 + length :]


def packed_tests(data: bytes, rng: random.Random) -> bytes:
    """A line with tests that are packed as LiveCodeBench packs them, damaged at one of the layers."""
    try:
        record = json.loads(data.splitlines()[0])
        text = str(record["public_test_cases"])
    except (ValueError, LookupError, TypeError, RecursionError):  # changed already
        return blind(data, rng)
    tests = pickle.dumps(text)
    layer = rng.randrange(6)
    if layer == 0:
        changed = json_tree(text.encode("utf-8", "surrogatepass"), rng)
        tests = pickle.dumps(changed.decode("utf-8", "replace"))
    elif layer == 1:
        tests = pickled(tests, rng)
    elif layer == 2:
        tests = crafted_pickle(rng)
    packed = zlib.compress(tests)
    if layer == 3:
        packed = zlib.compress(bytes(rng.choice([2**20, 2**29])), 9)
    elif layer == 4:
        packed = rng.choice([blind(packed, rng), zlib.compress(packed), packed + packed])
    record["private_test_cases"] = b64encode(packed).decode()
    line = json.dumps(record).encode()
    return (json_tree(line, rng) if layer == 5 else line) + b"\n"


def pickled(data: bytes, rng: random.Random) -> bytes:
    """A pickle with opcodes put in, or with crafted ones before its end."""
    if rng.random() < 0.5:
        return blind(data, rng)
    return data[:-1] + rng.choice([b"0", b""]) + crafted_pickle(rng).removeprefix(b"\x80\x02")


def crafted_pickle(rng: random.Random) -> bytes:
    """A pickle that calls something, makes something large, or changes what it names."""
    call = "import os, pathlib; pathlib.Path(os.environ['" + MARKER_VARIABLE + "']).touch()"
    text = call.encode()
    execute = b"cbuiltins\nexec\n(X" + struct.pack("<I", len(text)) + text + b"tR."
    attributes = b"ctorch.distributed.checkpoint.metadata\nTensorStorageMetadata\n}U\x04sizeK\x01sb."
    return b"\x80\x02" + rng.choice(
        [
            execute,
            execute.replace(b"builtins", b"__builtin__"),
            b"cos\nsystem\n(X\x04\x00\x00\x00trueltR.",
            b"cimportlib\nimport_module\n(X\x04\x00\x00\x00thistR.",
            b"ctorch._utils\n_rebuild_tensor_v2\n(tR.",
            b"ctorch\nload\n(X\x09\x00\x00\x00/dev/zerotR.",
            b"coperator\nattrgetter\n(X\x05\x00\x00\x00__dicttR.",
            attributes,
            b"(" * 100_000 + b".",
            b"]" + b"(" + b"2" * 60 + b"l.",
            b"\x8b\xff\xff\xff\x7f" + b"1" * 20 + b".",
            b"Nr\xff\xff\xff\x7f.",
            b"B\xff\xff\xff\x7f.",
        ]
    )
