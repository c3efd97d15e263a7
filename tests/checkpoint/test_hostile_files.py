"""Small files of a state or a checkpoint that say what cannot be: one line that names the file, and nothing is done."""

from __future__ import annotations

import json
import os
import random
import resource
import socket
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import save

from aspo_megatron.checkpoint.checked_json import with_digest
from aspo_megatron.checkpoint.fingerprint import weights_fingerprint
from aspo_megatron.checkpoint.hf.safetensors_file import Entry, entries_of, make_header, read_header
from aspo_megatron.checkpoint.states.folders import publish, tidy
from aspo_megatron.checkpoint.torch_dist.manifest import FORMAT_VERSION, file_entry, read_manifest
from aspo_megatron.errors import CheckpointError
from aspo_megatron.foreign_text import one_line
from aspo_megatron.parallel.device.platform import CpuPlatform, installed

DEEP = "[" * 100_000 + "]" * 100_000
DIGITS = int("9" * 4000)


def refused(read: Callable[[], object], reason: str, name: str) -> None:
    """By one line of no great length that names the file."""
    with pytest.raises(CheckpointError, match=reason) as error:
        read()
    assert one_line(error.value) == str(error.value)
    assert name in str(error.value)
    assert len(str(error.value)) < 3000


NO_NUMBERS: dict[str, Any] = {"below 0": -1, "true": True, "text": "1", "1.0": 1.0, "long": DIGITS, "null": None}


# ---- state.json -----------------------------------------------------------------------------------------------------

STATE: dict[str, Any] = {
    "step": 3,
    "asked": 12,
    "tokens": 4000,
    "seconds": 1.5,
    "heldout_before": None,
    "heldout_after": 0.25,
    "problems": "0" * 64,
    "carried": [11, 3],
    "weights": "0" * 32,
    "optimizer": {"updates": 6, "scheduled": 6},
    "ranks": 2,
}

ODD_STATES: dict[str, Any] = {
    **{
        f"{name} {kind}": {name: value}
        for name in ("step", "asked", "tokens")
        for kind, value in NO_NUMBERS.items()
    },
    "step beyond all": {"step": 10**16},
    "seconds NaN": {"seconds": float("nan")},
    "seconds infinite": {"seconds": float("inf")},
    "seconds of many digits": {"seconds": DIGITS},
    "seconds below 0": {"seconds": -1.0},
    "seconds true": {"seconds": True},
    "accuracy 2": {"heldout_after": 2},
    "accuracy NaN": {"heldout_before": float("nan")},
    "accuracy text": {"heldout_before": "0.5"},
    "problems a list": {"problems": []},
    "problems long": {"problems": "0" * 10**6},
    "problems that ring": {"problems": "\x1b[31m\x07"},
    "carried a number": {"carried": 7},
    "carried text": {"carried": ["7"]},
    "carried beyond": {"carried": [12]},
    "carried below 0": {"carried": [-1]},
    "carried true": {"carried": [True]},
    "weights a number": {"weights": 7},
    "weights that turn text": {"weights": "\u202e"},
}  # fmt: skip
ODD_COUNTERS: dict[str, Any] = {
    "a list": [],
    "text": "6",
    "empty": {},
    **{
        f"updates {kind}": {"updates": value, "scheduled": 1}
        for kind, value in (NO_NUMBERS | {"beyond all": 10**16}).items()
    },
    "scheduled below 0": {"updates": 1, "scheduled": -1},
}  # fmt: skip
NO_STATES: dict[str, bytes] = {
    "empty": b"",
    "zeros": bytes(100),
    "deep": DEEP.encode(),
    "no UTF-8": b"\xff\xfe{}",
    "a list": b"[]",
    "a number": b"7",
    "many digits": b'{"step": ' + b"9" * 10**5 + b"}",
}


@pytest.mark.parametrize("kind", ODD_STATES)
def test_an_odd_state(tmp_path: Path, kind: str) -> None:
    from aspo_megatron.checkpoint.states.trainer_state import TrainerState, read_state

    path = tmp_path / "state.json"
    path.write_text(json.dumps(STATE))
    assert read_state(tmp_path) == TrainerState(3, 12, 4000, 1.5, None, 0.25, "0" * 64, [11, 3], "0" * 32)
    path.write_text(json.dumps(STATE | ODD_STATES[kind]))
    refused(lambda: read_state(tmp_path), "not the state of a run", str(path))


@pytest.mark.parametrize("kind", ODD_COUNTERS)
def test_odd_counters(tmp_path: Path, kind: str) -> None:
    from aspo_megatron.checkpoint.states.trainer_state import counters

    path = tmp_path / "state.json"
    path.write_text(json.dumps(STATE | {"optimizer": ODD_COUNTERS[kind]}))
    refused(lambda: counters(tmp_path), "not the state of a run", str(path))


@pytest.mark.parametrize("kind", NO_STATES)
def test_no_state(tmp_path: Path, kind: str) -> None:
    from aspo_megatron.checkpoint.states.trainer_state import counters, read_state

    path = tmp_path / "state.json"
    path.write_bytes(NO_STATES[kind])
    for read in (read_state, counters):
        refused(lambda: read(tmp_path), "cannot be read|not the state of a run", str(path))  # noqa: B023


def test_a_state_of_before_these_were_noted(tmp_path: Path) -> None:
    from aspo_megatron.checkpoint.states.trainer_state import read_state

    (tmp_path / "state.json").write_text(
        json.dumps({k: v for k, v in STATE.items() if k not in ("carried", "weights")})
    )
    assert (read_state(tmp_path).carried, read_state(tmp_path).weights) == ([], "")


@pytest.mark.parametrize("kind", ["a pipe", "a folder", "endless", "large"])
def test_a_state_that_is_no_small_file(tmp_path: Path, kind: str) -> None:
    from aspo_megatron.checkpoint.states.trainer_state import read_state

    path = tmp_path / "state.json"
    if kind == "large":
        path.touch()
        os.truncate(path, 1 << 40)
    else:
        ways: dict[str, Callable[[Path], None]] = {"a pipe": os.mkfifo, "a folder": Path.mkdir}
        (ways | {"endless": lambda path: path.symlink_to("/dev/zero")})[kind](path)
    refused(lambda: read_state(tmp_path), "not a regular file|larger than", str(path))


# ---- manifest.json --------------------------------------------------------------------------------------------------

CHECKSUM = "0" * 32


def manifest(folder: Path, **changes: Any) -> dict[str, Any]:
    (folder / "state.json").write_text("{}")
    entry = file_entry(folder / "state.json")
    files = {"state.json": {"size": entry.size, "xxh3_128": entry.xxh3_128}}
    told = {"format": "aspo-megatron checkpoint", "version": FORMAT_VERSION, "model": "m", "family": "f", "layout": {}}
    return {**told, "files": files, **changes}


ODD_MANIFESTS: dict[str, tuple[dict[str, Any], str]] = {
    "a version of text": ({"version": "3"}, "version is no whole number"),
    "a version that is true": ({"version": True}, "version is no whole number"),
    "a version of many digits": ({"version": DIGITS}, "version is no whole number"),
    "another format": ({"format": "zip"}, "it is none of"),
    "a model that is a list": ({"model": []}, "model is no text"),
    "a family that rings": ({"family": "\x07"}, "family is no text"),
    "a layout of text": ({"layout": "tp"}, "layout is no mapping"),
    "files in a list": ({"files": []}, "files is no mapping"),
    "a file without an entry": ({"files": {"state.json": None}}, "is no mapping"),
    "a size below 0": ({"files": {"state.json": {"size": -1, "xxh3_128": CHECKSUM}}}, "size is no whole number"),
    "a size that is true": ({"files": {"state.json": {"size": True, "xxh3_128": CHECKSUM}}}, "size is no whole number"),
    "a size of text": ({"files": {"state.json": {"size": "2", "xxh3_128": CHECKSUM}}}, "size is no whole number"),
    "a size of many digits": ({"files": {"state.json": {"size": DIGITS, "xxh3_128": CHECKSUM}}}, "size is no whole"),
    "another checksum": ({"files": {"state.json": {"size": 2, "xxh3_128": "0" * 31 + "g"}}}, "checksum of .* is none"),
    "no checksum": ({"files": {"state.json": {"size": 2}}}, "xxh3_128 is missing"),
    **{
        f"the file {name[:30]!a}": ({"files": {name: {"size": 2, "xxh3_128": CHECKSUM}}}, reason)
        for name, reason in {
            "../state.json": "is no file in the folder",
            "/etc/passwd": "is no file in the folder",
            "hf/../../x": "is no file in the folder",
            "hf//x": "is no file in the folder",
            "./state.json": "is no file in the folder",
            "": "is no file in the folder",
            "hf/": "is no file in the folder",
            "x" * 2000: "is no file in the folder",
            "x" * 300: "missing from the checkpoint",
            "a\0b": "missing from the checkpoint",
            "\ud800": "missing from the checkpoint",
            "\x1b[31m\n": "missing from the checkpoint",
            "a folder": "missing from the checkpoint",
            "a pipe": "missing from the checkpoint",
        }.items()
    },
}  # fmt: skip


@pytest.mark.parametrize("kind", ODD_MANIFESTS)
def test_an_odd_manifest(tmp_path: Path, kind: str) -> None:
    changes, reason = ODD_MANIFESTS[kind]
    path = tmp_path / "manifest.json"
    path.write_bytes(with_digest(manifest(tmp_path)))
    assert read_manifest(tmp_path).files
    (tmp_path / "a folder").mkdir()
    os.mkfifo(tmp_path / "a pipe")
    path.write_bytes(with_digest(manifest(tmp_path, **changes)))
    refused(lambda: read_manifest(tmp_path), reason, str(tmp_path))


NO_MANIFESTS = NO_STATES | {"deep within": b'{"version": 3, "digest": ' + DEEP.encode() + b"}"}


@pytest.mark.parametrize("kind", NO_MANIFESTS)
def test_no_manifest(tmp_path: Path, kind: str) -> None:
    (tmp_path / "manifest.json").write_bytes(NO_MANIFESTS[kind])
    refused(lambda: read_manifest(tmp_path), "damaged|not UTF-8", str(tmp_path / "manifest.json"))


# ---- parts of a state in the making ---------------------------------------------------------------------------------

PIECE: dict[str, Any] = {
    "key": "t", "dtype": "float32", "whole": [2], "offset": [0], "size": [2], "file": "__0_0.distcp",
    "start": 0, "length": 1000,
}  # fmt: skip
PART: dict[str, Any] = {
    "attempt": "a", "ranks": 1, "rank": 0, "holds": {"model": "m", "family": "f", "layout": {}},
    "files": {"__0_0.distcp": {"size": 1000, "xxh3_128": CHECKSUM}}, "pieces": [PIECE],
}  # fmt: skip
ODD_PARTS: dict[str, dict[str, Any]] = {
    "more ranks than there are": {"ranks": 10**18},
    "ranks of text": {"ranks": "1"},
    "another rank": {"rank": 7},
    "a rank below 0": {"rank": -1},
    "an attempt that is a list": {"attempt": []},
    "a file elsewhere": {"files": {"../../other": {"size": 1, "xxh3_128": CHECKSUM}}},
    "files in a list": {"files": [1]},
    "pieces in a mapping": {"pieces": {}},
    "a piece that is a number": {"pieces": [7]},
    "no model": {"holds": {"model": None, "family": "f", "layout": {}}},
    "what acts for a precision": {"pieces": [PIECE | {"dtype": "load"}]},
    "a class for a precision": {"pieces": [PIECE | {"dtype": "Tensor"}]},
    "a piece in another folder": {"pieces": [PIECE | {"file": "../__0_0.distcp"}]},
    "a piece in another file": {"pieces": [PIECE | {"file": "state.json"}]},
    "a size below 0": {"pieces": [PIECE | {"size": [-2]}]},
    "a size of text": {"pieces": [PIECE | {"size": "22"}]},
    "a size that is true": {"pieces": [PIECE | {"size": [True]}]},
    "a place of many digits": {"pieces": [PIECE | {"start": DIGITS}]},
    "a key that rings": {"pieces": [PIECE | {"key": "\x07"}]},
}


@pytest.mark.parametrize("kind", ODD_PARTS)
def test_an_odd_part_is_no_part(tmp_path: Path, kind: str) -> None:
    from aspo_megatron.checkpoint.torch_dist.parts import _read_parts

    path = tmp_path / "parts" / "rank-00000.json"
    path.parent.mkdir()
    path.write_bytes(with_digest(PART))
    assert [part.rank for part in _read_parts(tmp_path)] == [0]
    path.write_bytes(with_digest(PART | ODD_PARTS[kind]))
    refused(lambda: _read_parts(tmp_path), "damaged|not every rank", str(tmp_path))


@pytest.mark.parametrize("name", [".metadata", "manifest.json", "common.pt", "metadata.json", "parts/rank-00000.json"])
@pytest.mark.parametrize("kind", ["link", "pipe"])
def test_nothing_is_written_through_what_is_left(tmp_path: Path, name: str, kind: str) -> None:
    folder = tmp_path / "run" / "checkpoints" / "step-000001.partial"
    (folder / "parts").mkdir(parents=True)
    (folder / "__0_0.distcp").write_bytes(bytes(1000))
    entry = file_entry(folder / "__0_0.distcp")
    part = with_digest(PART | {"files": {"__0_0.distcp": {"size": 1000, "xxh3_128": entry.xxh3_128}}})
    (folder / "parts" / "rank-00000.json").write_bytes(part)
    own = tmp_path / "own"
    own.write_bytes(part if name.startswith("parts") else b"of the user")
    (folder / name).unlink(missing_ok=True)
    if kind == "link":
        (folder / name).symlink_to(own)
    else:
        os.mkfifo(folder / name)
    tidy(tmp_path / "run", pytest.fail)
    assert own.read_bytes() == (part if name.startswith("parts") else b"of the user")
    assert not list(folder.parent.iterdir())


# ---- random states --------------------------------------------------------------------------------------------------


def states(python: Any = None, numpy: Any = None, **tensors: Any) -> bytes:
    kind, keys, position, has_gauss, gauss = np.random.get_state(legacy=True)
    told = {
        "python": json.dumps(random.getstate() if python is None else python),
        "numpy": json.dumps([kind, int(position), has_gauss, gauss] if numpy is None else numpy),
    }
    own = {"torch": torch.get_rng_state(), "numpy": torch.from_numpy(np.asarray(keys).view(np.int32).copy())}
    return bytes(save({k: v for k, v in (own | tensors).items() if v is not None}, metadata=told))


def of_now() -> tuple[Any, ...]:
    kind, keys, *more = np.random.get_state(legacy=True)
    assert isinstance(keys, np.ndarray)
    return random.getstate(), kind, keys.tolist(), more, torch.get_rng_state().tolist()


WORDS = list(random.Random(0).getstate()[1])
ODD_RANDOM: dict[str, Callable[[], bytes]] = {
    "no header": lambda: b"12345678",
    "a header of 900 MiB": lambda: (900 << 20).to_bytes(8, "little"),
    "python's of text": lambda: states(python="3"),
    "python's of another version": lambda: states(python=[7, WORDS, None]),
    "too few words": lambda: states(python=[3, WORDS[:-1], None]),
    "a word that is none": lambda: states(python=[3, [-1, *WORDS[1:]], None]),
    "a word that is true": lambda: states(python=[3, [True, *WORDS[1:]], None]),
    "a place beyond": lambda: states(python=[3, [*WORDS[:-1], 10**9], None]),
    "a gauss of text": lambda: states(python=[3, WORDS, "1"]),
    "a gauss that is none": lambda: states(python=[3, WORDS, float("nan")]),
    "deep": lambda: bytes(save({}, metadata={"python": DEEP, "numpy": DEEP})),
    "nothing said": lambda: bytes(save({"torch": torch.get_rng_state()})),
    "numpy's of another kind": lambda: states(numpy=["PCG64", 1, 0, 0.0]),
    "numpy's beyond": lambda: states(numpy=["MT19937", 10**9, 0, 0.0]),
    "numpy's below 0": lambda: states(numpy=["MT19937", -1, 0, 0.0]),
    "numpy's gauss": lambda: states(numpy=["MT19937", 1, 7, 0.0]),
    "numpy's in floats": lambda: states(**{"numpy": None, "torch": torch.get_rng_state(), "x": torch.ones(1)}),
    "few keys": lambda: states(torch=torch.get_rng_state()[:100].clone()),
    "torch's of zeros": lambda: states(torch=torch.zeros(5056, dtype=torch.uint8)),
    "torch's in floats": lambda: states(torch=torch.ones(5056)),
    "a tracked one in floats": lambda: states(**{"megatron.model": torch.ones(16)}),
}


@pytest.mark.parametrize("kind", ODD_RANDOM)
def test_odd_random_states(tmp_path: Path, kind: str) -> None:
    """They are refused, and those of the process stay as they are."""
    path = tmp_path / "random-00000.safetensors"
    with installed(CpuPlatform()):  # megatron keeps its generators' states for the rest of the process
        from aspo_megatron.checkpoint.states.rng_state import restore

        path.write_bytes(states())
        restore(str(path))
        before = of_now()
        path.write_bytes(ODD_RANDOM[kind]())
        refused(lambda: restore(str(path)), "cannot be read", str(path))
        assert of_now() == before


# ---- safetensors headers --------------------------------------------------------------------------------------------

GOOD = {"dtype": "F32", "shape": [2, 2], "data_offsets": [0, 16]}
ODD_HEADERS: dict[str, Any] = {
    "a list": [],
    "a tensor that is a number": {"t": 7},
    "a gap at the start": {"t": GOOD | {"data_offsets": [8, 24]}},
    "a gap": {"t": GOOD, "u": GOOD | {"data_offsets": [24, 40]}},
    "an overlap": {"t": GOOD, "u": GOOD | {"data_offsets": [8, 24]}},
    "the same place": {"t": GOOD, "u": GOOD},
    "too few bytes": {"t": GOOD | {"data_offsets": [0, 8]}},
    "too many bytes": {"t": GOOD | {"data_offsets": [0, 2**40]}},
    "an end before the beginning": {"t": GOOD | {"data_offsets": [16, 0]}},
    "one place": {"t": GOOD | {"data_offsets": [0]}},
    "places of text": {"t": GOOD | {"data_offsets": ["0", "16"]}},
    "a place below 0": {"t": GOOD | {"data_offsets": [-16, 0]}},
    "a shape below 0": {"t": GOOD | {"shape": [-2, -2]}},
    "a shape beyond all": {"t": GOOD | {"shape": [2**62, 2**62]}},
    "a shape of many dimensions": {"t": GOOD | {"shape": [1] * 1000}},
    "a shape that is true": {"t": GOOD | {"shape": [True, 4]}},
    "a shape of floats": {"t": GOOD | {"shape": [2.0, 2.0]}},
    "a precision of its own": {"t": GOOD | {"dtype": "\x1b[31mF31"}},
    "a precision that is a list": {"t": GOOD | {"dtype": []}},
    "more than a tensor": {"t": GOOD | {"pickle": "x"}},
    "less than a tensor": {"t": {"dtype": "F32", "shape": [2]}},
}


@pytest.mark.parametrize("kind", ODD_HEADERS)
def test_an_odd_header(kind: str) -> None:
    assert entries_of(json.dumps({"t": GOOD, "__metadata__": {"a": "b"}}).encode()) == [
        Entry("t", torch.float32, (2, 2))
    ]
    refused(lambda: entries_of(json.dumps(ODD_HEADERS[kind]).encode()), "header|precision", "")


@pytest.mark.parametrize(
    "header", [b"", b"{", DEEP.encode(), b"\xff", b'{"t": 1, "t": 2}', b'{"a": ' + b"9" * 10**5 + b"}"],
    ids=["nothing", "cut", "deep", "no UTF-8", "twice", "many digits"],
)  # fmt: skip
def test_no_header(header: bytes) -> None:
    refused(lambda: entries_of(header), "not the header of a safetensors file", "")


@pytest.mark.parametrize("length", [0, 1, 93, 94, 10**8 + 1, 900 << 20, 2**40, 2**63, 2**64 - 1])
def test_the_length_of_a_header_is_not_believed(tmp_path: Path, length: int) -> None:
    path = tmp_path / "x.safetensors"
    path.write_bytes(length.to_bytes(8, "little") + make_header([Entry("t", torch.float32, (2, 2))]))
    if length > 100:
        os.truncate(path, min(length + 100, 1 << 41))
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    refused(lambda: read_header(path), "truncated or damaged", str(path))
    assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before < 100 << 10


# ---- fingerprints, and the weights before the first step ------------------------------------------------------------


def test_a_pipe_among_the_weights_is_not_waited_for(tmp_path: Path) -> None:
    (tmp_path / "model.safetensors").write_bytes(bytes(100))
    before = weights_fingerprint(tmp_path)
    os.mkfifo(tmp_path / "other.safetensors")
    (tmp_path / "folder.safetensors").mkdir()
    assert weights_fingerprint(tmp_path) == before


ODD_ORIGINS = NO_STATES | {"weights a number": b'{"weights": 7}', "weights that ring": b'{"weights": "\\u0007"}'}


@pytest.mark.parametrize("kind", ODD_ORIGINS)
def test_an_odd_origin(tmp_path: Path, kind: str) -> None:
    from aspo_megatron.checkpoint.states.warmup_weights import _origin

    (tmp_path / "origin.json").write_bytes(ODD_ORIGINS[kind])
    refused(lambda: _origin(tmp_path), "origin.json", str(tmp_path))


# ---- latest ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", ["a pipe", "a link to a pipe", "a link to a file", "a socket"])
def test_a_latest_that_is_no_file_is_replaced(tmp_path: Path, kind: str) -> None:
    (tmp_path / "checkpoints" / "step-000003").mkdir(parents=True)
    latest, other = tmp_path / "checkpoints" / "latest", tmp_path / "other"
    if kind == "a socket":
        with socket.socket(socket.AF_UNIX) as bound, pytest.MonkeyPatch.context() as patch:
            patch.chdir(latest.parent)  # a socket's path is short
            bound.bind("latest")
    elif kind == "a pipe":
        os.mkfifo(latest)
    else:
        os.mkfifo(other) if kind == "a link to a pipe" else other.touch()
        latest.symlink_to(other)
    assert publish(tmp_path, 3, keep=1) is None
    assert latest.read_text() == "step-000003\n"
    assert not other.is_file() or not other.read_text()
