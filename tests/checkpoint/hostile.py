"""What somebody may put into a checkpoint to have a program run, or a machine's memory filled, when it is read."""

from __future__ import annotations

import io
import json
import os
import pickle
import shutil
import struct
import zipfile
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch
from torch.distributed.checkpoint.filesystem import _StorageInfo
from torch.distributed.checkpoint.metadata import BytesStorageMetadata, Metadata, MetadataIndex, TensorStorageMetadata

from aspo_megatron.checkpoint.torch_dist.manifest import file_entry, write_manifest
from aspo_megatron.folders import MANIFEST

Spoil = Callable[[Path, Path], object]
"""Changes the checkpoint of the first path; what is run there would make the file of the second."""


def sign(folder: Path) -> None:
    """A manifest of what is there now: its checksums are no secret."""
    told = json.loads((folder / MANIFEST).read_text())
    (folder / MANIFEST).unlink()
    paths = [path for path in folder.rglob("*") if path.is_file()]
    files = {path.relative_to(folder).as_posix(): file_entry(path) for path in paths}
    write_manifest(folder, told["model"], told["family"], told["layout"], files)


# ---- what acts ----------------------------------------------------------------------------------------------------


@dataclass
class Act:
    """Calls something when it is unpickled."""

    call: Any
    args: tuple[Any, ...]

    def __reduce__(self) -> tuple[Any, ...]:
        return self.call, self.args


def opens(marker: Path) -> Act:
    return Act(open, (str(marker), "w"))


def saved(value: Any, *, zipped: bool = True) -> bytes:
    """What torch.save makes of a value."""
    stream = io.BytesIO()
    torch.save(value, stream, _use_new_zipfile_serialization=zipped)
    return stream.getvalue()


ACTS: dict[str, Callable[[Path], Act]] = {
    "a shell command": lambda marker: Act(os.system, (f"touch {marker}",)),
    "eval": lambda marker: Act(eval, (f"open({str(marker)!r}, 'w')",)),
    "exec": lambda marker: Act(exec, (f"open({str(marker)!r}, 'w')",)),
    "open": opens,
    "an import": lambda marker: Act(__import__, ("this",)),
    "a method": lambda marker: Act(Path.touch, (marker,)),
    "getattr": lambda marker: Act(getattr, ("", "join")),
    "a copy of a file": lambda marker: Act(shutil.copyfile, (os.devnull, str(marker))),
    "torch.load": lambda marker: Act(torch.load, (io.BytesIO(saved(opens(marker))),)),
    "a pickle in it": lambda marker: Act(pickle.loads, (pickle.dumps(opens(marker)),)),
}


class Described(TensorStorageMetadata):
    """Somebody's own class of what describes a tensor."""


# ---- the index ----------------------------------------------------------------------------------------------------


def torch_index(folder: Path) -> Metadata:
    """The index as torch reads it; one of our own."""
    metadata: Metadata = pickle.loads((folder / ".metadata").read_bytes())
    return metadata


def weight_of(metadata: Metadata) -> str:
    return next(key for key in metadata.state_dict_metadata if key.endswith("layers.1.mlp.linear_fc2.weight"))


def index(change: Callable[[Metadata, Path], object]) -> Spoil:
    def spoil(folder: Path, marker: Path) -> None:
        metadata = torch_index(folder)
        change(metadata, marker)
        (folder / ".metadata").write_bytes(pickle.dumps(metadata))

    return spoil


def entry(change: Callable[[Any], object]) -> Spoil:
    """Change what describes a weight."""
    return index(lambda metadata, _: change(metadata.state_dict_metadata[weight_of(metadata)]))


def another(value: Callable[[Any], Any]) -> Spoil:
    """Something else for what describes a weight."""

    def change(metadata: Metadata, _: Path) -> None:
        key = weight_of(metadata)
        metadata.state_dict_metadata[key] = value(metadata.state_dict_metadata[key])

    return index(change)


def place(**changes: Any) -> Spoil:
    """Change where a weight's piece is."""

    def change(metadata: Metadata, _: Path) -> None:
        key = next(key for key in metadata.storage_data if key.fqn == weight_of(metadata))
        metadata.storage_data[key] = replace(metadata.storage_data[key], **changes)

    return index(change)


def raw(content: Callable[[Path], bytes]) -> Spoil:
    """Another index."""
    return lambda folder, marker: (folder / ".metadata").write_bytes(content(marker))


def sparse(name: str, size: int, beginning: bytes = b"") -> Spoil:
    """A file that says to be large, and takes no room."""

    def spoil(folder: Path, _: Path) -> None:
        (folder / name).write_bytes(beginning)
        os.truncate(folder / name, size)

    return spoil


def bytes_for_a_tensor(folder: Path, marker: Path) -> None:
    """A tensor is bytes by the index, which torch unpickles. They are behind the tensors of a file."""
    metadata = torch_index(folder)
    key = weight_of(metadata)
    fake = BytesStorageMetadata()
    fake.size = metadata.state_dict_metadata[key].size  # type: ignore[union-attr, attr-defined]
    metadata.state_dict_metadata[key] = fake
    for old in [old for old in metadata.storage_data if old.fqn == key]:
        del metadata.storage_data[old]
    data, content = folder / "__0_0.distcp", saved(opens(marker))
    metadata.storage_data[MetadataIndex(key)] = _StorageInfo(data.name, data.stat().st_size, len(content))
    with data.open("ab") as file:
        file.write(content)
    (folder / ".metadata").write_bytes(pickle.dumps(metadata))


def many(value: Any) -> None:
    """A hundred thousand pieces that nobody may compare with each other."""
    value.size = torch.Size([value.size[0] * 100_000, *value.size[1:]])
    value.chunks = value.chunks[:1] * 100_000
    value.chunks[0].sizes = torch.Size([value.size[0] // 100_000, *value.size[1:]])


def two_hundred_thousand(folder: Path, marker: Path) -> None:
    """References to one piece, each of which would be made anew."""
    sparse("__9_0.distcp", 8 << 20)(folder, marker)
    entry(lambda told: told.chunks.extend(told.chunks[:1] * 200_000))(folder, marker)


def size(*told: int) -> Spoil:
    return entry(lambda weight: setattr(weight, "size", torch.Size(told)))


def at_the_root(act: Callable[[Path], Act]) -> Spoil:
    return raw(lambda marker: pickle.dumps(act(marker)))


def beside(act: Callable[[Path], Act]) -> Spoil:
    return index(lambda metadata, marker: setattr(metadata, "planner_data", act(marker)))


def named(module: str, name: str) -> bytes:
    return b"c" + module.encode() + b"\n" + name.encode() + b"\n"


def filled(values: bytes, times: int) -> Spoil:
    """An index of lists of values, beside a file that says to be large."""

    def spoil(folder: Path, marker: Path) -> None:
        sparse("__9_0.distcp", 100 << 20)(folder, marker)
        (folder / ".metadata").write_bytes(b"\x80\x02]" + (b"(" + values + b"e") * times + b".")

    return spoil


METADATA = "torch.distributed.checkpoint.metadata"
INDEX_CLASS = named(METADATA, "MetadataIndex")
TWINS = b")" + b"".join(b"\x94h" + bytes([number]) + b"\x86" for number in range(100))
"""A pair of pairs of pairs ..., to look through which takes for ever."""
NO_TENSOR = r"names .*, which describes no tensor"

INDEXES: dict[str, tuple[Spoil, str]] = {
    "bytes for a tensor": (bytes_for_a_tensor, "names .*BytesStorageMetadata, which describes no tensor"),
    "a class of its own": (another(lambda told: Described(told.properties, told.size, told.chunks)), NO_TENSOR),
    "a number for a tensor": (another(lambda told: 1), "is something else, not TensorStorageMetadata"),
    "a piece for a tensor": (another(lambda told: told.chunks[0]), "not TensorStorageMetadata"),
    "a list of tensors": (index(lambda m, _: setattr(m, "state_dict_metadata", [])), "is not the index"),
    "a tensor without a name": (index(lambda m, _: m.state_dict_metadata.update({1: 1})), "name is no text"),  # type: ignore[dict-item]
    "no index at all": (raw(lambda _: pickle.dumps({"a": 1})), "is something else, not Metadata"),
    # Instructions.
    "a class that is changed": (raw(lambda _: b"\x80\x02" + INDEX_CLASS + b"}X\1\0\0\0aK\1sb."), "would change a"),
    "slots of a class": (
        raw(lambda _: b"\x80\x02" + INDEX_CLASS + b"N}X\6\0\0\0MARKED" + named("builtins", "set") + b"s\x86b."),
        "names builtins.set",
    ),
    "a thing that is changed twice": (raw(lambda _: b"\x80\x02" + INDEX_CLASS + b")\x81}b}b."), "would change"),
    "a call of a text": (raw(lambda _: b"\x80\x02X\1\0\0\0a)R."), "would call"),
    "a call of what is made": (raw(lambda _: b"\x80\x02" + INDEX_CLASS + b")R)R."), "would call"),
    "a call with a list": (raw(lambda _: b"\x80\x02" + INDEX_CLASS + b"]R."), "would call"),
    "an instance, by another instruction": (raw(lambda _: b"\x80\x02(ios\nsystem\n."), "instruction 0x69"),
    "an object, by another instruction": (raw(lambda _: b"\x80\x02(" + INDEX_CLASS + b"o."), "instruction 0x6f"),
    "a registered extension": (raw(lambda _: b"\x80\x02\x82\x01."), "instruction 0x82"),
    "a set": (raw(lambda _: b"\x80\x04\x8f."), "instruction 0x8f"),
    "a dotted name": (raw(lambda _: b"\x80\x04\x8c\x05torch\x8c\x12serialization.load\x93."), "serialization.load"),
    "a name within a known one": (raw(lambda _: b"\x80\x04" + named("torch", "Size.__new__") + b"."), NO_TENSOR),
    "torch's own reader": (raw(lambda _: b"\x80\x04" + named("torch.storage", "_load_from_bytes") + b"."), NO_TENSOR),
    "a thing kept elsewhere": (raw(lambda _: b"\x80\x02X\1\0\0\0aQ."), "is persistent|is something else|not Metadata"),
    "a thing kept elsewhere, by text": (raw(lambda _: b"\x80\x02Pa\n."), "instruction 0x50"),
    "an old protocol": (raw(lambda _: b"\x80\x01N."), "protocol"),
    "text of an old protocol": (raw(lambda _: b"(dp0\n."), "instruction"),
    # Sizes.
    "a place in a huge memory": (raw(lambda _: b"\x80\x02]r\xff\xff\xff\xff."), "damaged"),
    "a kept value that is none": (raw(lambda _: b"\x80\x02j\xff\xff\xff\xff."), "ends before its end"),
    "text of 4 GiB": (raw(lambda _: b"\x80\x02X\xff\xff\xff\xffa."), "ends before its end"),
    "bytes of many TiB": (raw(lambda _: b"\x80\x05\x96" + b"\xff" * 7 + b"\0a."), "instruction 0x96"),
    "a frame of many TiB": (raw(lambda _: b"\x80\x04\x95" + b"\xff" * 7 + b"\0N."), "not Metadata"),
    "a million waiting values": (raw(lambda _: b"\x80\x02" + b"N" * 10**6 + b"."), "too many values wait"),
    "a million marks": (raw(lambda _: b"\x80\x02" + b"(" * 10**6 + b"."), "nested too deeply"),
    "lists in lists": (raw(lambda _: b"\x80\x02" + b"]" * 9999 + b"a" * 9998 + b"."), "not Metadata"),
    "more pairs of pairs than atoms": (raw(lambda _: b"\x80\x04" + TWINS + b"."), "not Metadata"),
    "a name of pairs of pairs": (raw(lambda _: b"\x80\x04}" + TWINS + b"Ns."), "not Metadata"),
    "a cut one": (raw(lambda _: pickle.dumps({"a": 1})[:-3]), "ends before its end"),
    "an empty one": (raw(lambda _: b""), "ends before its end"),
    "a value for each byte": (filled(b"}" * 16000, 500), "makes more values than what it should describe"),
    "75 MiB of values": (filled(b"}" * 16000, 4915), "larger than an index of these files can be"),
    "one of 20 GiB": (sparse(".metadata", 20 << 30, b"\x80\x02"), "larger than an index of these files can be"),
    # Tensors.
    "elements beyond all": (size(2**40, 2**40), "elements than there are"),
    "a size of many dimensions": (size(*[1] * 40), "a size or a place"),
    "a larger tensor": (size(2**40, 8), "elements are present"),
    "no pieces": (entry(lambda told: told.chunks.clear()), "elements are present"),
    "two hundred thousand pieces": (two_hundred_thousand, "more pieces than the model's tensors are cut into"),
    "a hundred thousand pieces": (entry(many), "two pieces have the same elements"),
    "pieces of other dimensions": (entry(lambda told: setattr(told.chunks[0], "sizes", torch.Size([8]))), "dimensions"),
    "no precision": (entry(lambda told: setattr(told.properties, "dtype", None)), "is not described as one"),
    "pieces that are no list": (entry(lambda told: setattr(told, "chunks", 7)), "is not described as one"),
    "a size that is text": (entry(lambda told: setattr(told, "size", "8")), "a size that is none"),
    # Places.
    **{
        f"the file {name!r}": (place(relative_path=name), "a piece of it is in no file")
        for name in ("../__0_0.distcp", "/etc/passwd", "hf/config.json", ".", "..", "", "state.json", "x" * 300,
                     "__0_0.distcp\0", "__0_0.distcp/", "pipe_0.distcp", "__9_9.distcp")
    },
    "a file that is a number": (place(relative_path=7), "is not described as one"),
    "a place before the file": (place(offset=-1), "is beyond the end of"),
    "a place beyond the file": (place(offset=2**62), "is beyond the end of"),
    "a length beyond the file": (place(length=2**62), "is beyond the end of"),
    "a length below zero": (place(length=-1), "is beyond the end of"),
    "a length with too many digits": (place(length=2**2000), "too many digits"),
    "a length that is no whole number": (place(length=1.0), "is not described as one"),
    "a compressed piece": (place(transform_descriptors=["zstd"]), "a piece of it is compressed"),
}  # fmt: skip
"""What is seen as soon as the index is read."""

INDEXES |= {f"{name}, at its root": (at_the_root(act), NO_TENSOR) for name, act in ACTS.items()}
INDEXES |= {
    f"{name}, beside its tensors": (
        index(lambda m, marker, act=act: setattr(m, "planner_data", act(marker))),  # type: ignore[misc]
        NO_TENSOR,
    )
    for name, act in ACTS.items()
}


# ---- the tensors --------------------------------------------------------------------------------------------------


def piece(content: Callable[[torch.Tensor, Path], bytes]) -> Spoil:
    """Other bytes for the piece of a weight, behind the others of its file."""

    def spoil(folder: Path, marker: Path) -> None:
        metadata = torch_index(folder)
        key = next(key for key in metadata.storage_data if key.fqn == weight_of(metadata))
        told = metadata.storage_data[key]
        path = folder / told.relative_path
        whole = path.read_bytes()
        tensor = torch.load(io.BytesIO(whole[told.offset : told.offset + told.length]), weights_only=True)
        other = content(tensor, marker)
        path.write_bytes(whole + other)
        metadata.storage_data[key] = replace(told, offset=len(whole), length=len(other))
        (folder / ".metadata").write_bytes(pickle.dumps(metadata))

    return spoil


def archive(
    tensor: torch.Tensor, change: Callable[[dict[str, bytes]], object], compressed: tuple[str, ...] = ()
) -> bytes:
    """What torch.save makes of a tensor, with other records."""
    with zipfile.ZipFile(io.BytesIO(saved(tensor))) as old:
        records = {name.partition("/")[2]: old.read(name) for name in old.namelist()}
    change(records)
    stream = io.BytesIO()
    with zipfile.ZipFile(stream, "w") as new:
        for name, content in records.items():
            kind = zipfile.ZIP_DEFLATED if name in compressed else zipfile.ZIP_STORED
            new.writestr(f"archive/{name}", content, kind)
    return stream.getvalue()


def records(change: Callable[[dict[str, bytes]], object], *compressed: str) -> Spoil:
    return piece(lambda tensor, _: archive(tensor, change, compressed))


def told(change: Callable[[bytes], bytes]) -> Spoil:
    """Other words before a tensor."""
    return records(lambda all: all.update({"data.pkl": change(all["data.pkl"])}))


def swap(old: bytes, new: bytes) -> Spoil:
    def change(words: bytes) -> bytes:
        assert old in words
        return words.replace(old, new, 1)

    return told(change)


def in_the_words(act: Callable[[Path], Act]) -> Spoil:
    return piece(
        lambda tensor, marker: archive(tensor, lambda all: all.update({"data.pkl": pickle.dumps(act(marker), 2)}))
    )


def large_directory(tensor: torch.Tensor, _: Path) -> bytes:
    return archive(tensor, lambda all: all.update({f"more/{number}": b"" for number in range(5000)}))


def beyond(tensor: torch.Tensor, _: Path) -> bytes:
    """A record that begins where the file is at an end."""
    content = bytearray(saved(tensor))
    at = content.rindex(b"PK\1\2")
    first = content.index(b"PK\1\2")
    for start in (first, at):
        content[start + 42 : start + 46] = struct.pack("<I", 2**31)
    return bytes(content)


PIECES: dict[str, tuple[Spoil, str]] = {
    "a pickle instead": (piece(lambda _, marker: pickle.dumps(opens(marker))), "cannot be read"),
    "an old torch file": (piece(lambda _, marker: saved(opens(marker), zipped=False)), "cannot be read"),
    "something else that is saved": (piece(lambda _, marker: saved(opens(marker))), NO_TENSOR),
    "a list of tensors": (piece(lambda tensor, _: saved([tensor])), "it is no tensor"),
    "a parameter": (piece(lambda tensor, _: saved(torch.nn.Parameter(tensor))), NO_TENSOR),
    "a part of a tensor": (piece(lambda tensor, _: saved(torch.cat([tensor] * 2)[1:-1])), "not a single tensor"),
    "a turned tensor": (piece(lambda tensor, _: saved(tensor.t().contiguous().t())), "not in their order"),
    "another precision": (piece(lambda tensor, _: saved(tensor.double())), "in the index"),
    "another size": (piece(lambda tensor, _: saved(tensor[:1].clone())), "in the index"),
    "a row for all rows": (piece(lambda tensor, _: saved(tensor[:1].clone().expand(9, -1))), "not in their order"),
    "elements of its own": (swap(b"FloatStorage", b"LongStorage"), "bytes hold no"),
    "no precision": (swap(b"FloatStorage", b"EvilStorage"), NO_TENSOR),
    "memory in another record": (swap(b"\1\0\0\x000", b"\1\0\0\x001"), "not a single tensor"),
    "memory elsewhere": (swap(b"\7\0\0\0storage", b"\7\0\0\0storagf"), "not a single tensor"),
    "memory of memory": (swap(b"tq\5Q", b"tq\5QQ"), "it is no tensor"),
    "no memory": (swap(b"tq\5Q", b"tq\5"), "it is no tensor"),
    "a kept value of a huge memory": (swap(b"q\0", b"r\xff\xff\xff\xff"), "damaged"),
    "words without end": (told(lambda words: words[:-1]), "ends before its end"),
    "many words": (told(lambda words: words + bytes(2**18)), "larger than torch.save writes it"),
    "compressed words": (records(lambda all: None, "data.pkl"), "not an archive"),
    "compressed elements": (records(lambda all: None, "data/0"), "not an archive"),
    "a bomb for words": (
        records(lambda all: all.update({"data.pkl": bytes(2**26)}), "data.pkl"),
        "not an archive",
    ),
    "no elements": (records(lambda all: all.update({"data/0": b""})), "bytes hold no"),
    "more elements": (records(lambda all: all.update({"data/0": bytes(2**20)})), "bytes hold no"),
    "no words": (records(lambda all: all.pop("data.pkl")), "cannot be read"),
    "no record of elements": (records(lambda all: all.pop("data/0")), "cannot be read"),
    "a large directory": (piece(large_directory), "directory is larger"),
    "a record beyond the file": (piece(beyond), "cannot be read"),
    "nothing": (piece(lambda *_: b""), "cannot be read"),
    "zeros": (piece(lambda *_: bytes(4096)), "cannot be read"),
}  # fmt: skip
"""What is seen when the tensor is read."""

PIECES |= {f"{name} in the words": (in_the_words(act), NO_TENSOR) for name, act in ACTS.items()}


# ---- what stands beside them ----------------------------------------------------------------------------------------


def common(content: Callable[[Path], bytes]) -> Spoil:
    return lambda folder, marker: (folder / "common.pt").write_bytes(content(marker))


def saved_act(act: Callable[[Path], Act]) -> Spoil:
    return common(lambda marker: saved(act(marker)))


def bomb(name: str) -> bytes:
    stream = io.BytesIO()
    with zipfile.ZipFile(stream, "w", zipfile.ZIP_DEFLATED) as file:
        file.writestr(name, bytes(2**24))
    return stream.getvalue()


COMMONS: dict[str, tuple[Spoil, str]] = {
    "a pickle": (common(lambda marker: pickle.dumps(opens(marker))), "cannot be read"),
    "an empty file": (common(lambda _: b""), "cannot be read"),
    "a tensor": (common(lambda _: saved(torch.ones(2))), NO_TENSOR),
    "a mapping that holds something": (common(lambda _: saved({"a": 1})), "it is not empty"),
    "a list": (common(lambda _: saved([])), "it is not empty"),
    "a bomb": (common(lambda _: bomb("archive/data.pkl")), "not an archive"),
    "a file of 20 GiB": (sparse("common.pt", 20 << 30, b"PK\3\4"), "larger than"),
} | {name: (saved_act(act), NO_TENSOR) for name, act in ACTS.items()}
