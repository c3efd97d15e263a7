"""A model folder's files are its own: nothing that a link leads elsewhere for is read, and none of it is copied."""

from __future__ import annotations

import json
import os
import socket
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file

from aspo_megatron.checkpoint.convert import converter_layout, hf_to_megatron, megatron_to_hf
from aspo_megatron.checkpoint.hf.folder import hf_shapes, weight_files, write_folder
from aspo_megatron.checkpoint.torch_dist.sidecar import copy_sidecar, sidecar_files
from aspo_megatron.checkpoint.usable import usable_weights
from aspo_megatron.data.tokenizer import load_tokenizer
from aspo_megatron.errors import CheckpointError, UserError
from aspo_megatron.models.family import read_family

from .folders import copy_of_tiny, the_line

SECRET = "SECRET"
HASH = "0123456789abcdef0123456789abcdef01234567"


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """The tiny model with weights, in a place of its own."""
    made = copy_of_tiny(tmp_path / "unpacked" / "model")
    tensors = {name: torch.zeros(shape) for name, shape in hf_shapes(made).items()}
    save_file(tensors, made / "model.safetensors", metadata={"format": "pt"})
    return made


@pytest.fixture
def secret(tmp_path: Path) -> Path:
    path = tmp_path / "home" / "id_rsa"
    path.parent.mkdir()
    path.write_text(SECRET)
    return path


def link(name: str, target: Callable[[Path, Path], str | Path]) -> Callable[[Path, Path], object]:
    """A link of this name, in place of what is there, to the target for this folder and this secret."""

    def make(folder: Path, secret: Path) -> None:
        (folder / name).unlink(missing_ok=True)
        (folder / name).parent.mkdir(exist_ok=True)
        (folder / name).symlink_to(target(folder, secret))

    return make


def chain(folder: Path, secret: Path) -> None:
    (folder / ".inner").symlink_to(secret)
    (folder / "NOTICE").symlink_to(".inner")


def templates_elsewhere(folder: Path, secret: Path) -> None:
    (secret.parent / "tool.jinja").write_text(SECRET)
    (folder / "additional_chat_templates").symlink_to(secret.parent)


def listening(folder: Path, secret: Path) -> None:
    os.chdir(folder)  # a socket's name is short
    socket.socket(socket.AF_UNIX).bind("socket.txt")


def like_a_blob(folder: Path, secret: Path) -> None:
    (secret.parent / "blobs").mkdir()
    blob = secret.rename(secret.parent / "blobs" / HASH)
    (folder / "NOTICE").symlink_to(blob)


def to_secret(folder: Path, secret: Path) -> Path:
    return secret


FOREIGN: dict[str, tuple[Callable[[Path, Path], object], str]] = {
    "an absolute link": (link("merges.txt", to_secret), "merges.txt: a link out of"),
    "a relative link": (link("NOTICE", lambda folder, secret: "../../home/id_rsa"), "NOTICE: a link out of"),
    "a link to a link": (chain, "NOTICE: a link out of"),
    "a link to nothing": (link("LICENSE", lambda folder, secret: "/nowhere/at/all"), "LICENSE: a link out of"),
    "a link to itself": (link("LICENSE", lambda folder, secret: "LICENSE"), "LICENSE: a link"),
    "config.json": (link("config.json", lambda folder, secret: copy(folder / "config.json", secret)), "config.json: a"),
    "tokenizer.json": (link("tokenizer.json", to_secret), "tokenizer.json: a link out of"),
    "tokenizer_config.json": (link("tokenizer_config.json", to_secret), "tokenizer_config.json: a link out of"),
    "a chat template": (link("chat_template.jinja", to_secret), "chat_template.jinja: a link out of"),
    "one of more templates": (link("additional_chat_templates/tool.jinja", to_secret), "tool.jinja: a link out of"),
    "the folder of templates": (templates_elsewhere, "additional_chat_templates: a link out of"),
    "weights": (link("model.safetensors", to_secret), "model.safetensors: a link out of"),
    "an index": (link("model.safetensors.index.json", to_secret), "model.safetensors.index.json: a link out of"),
    "memory": (link("README.md", lambda folder, secret: "/proc/self/environ"), "README.md: a link out of"),
    "a device": (link("README.md", lambda folder, secret: "/dev/zero"), "README.md: a link out of"),
    "a pipe": (lambda folder, secret: os.mkfifo(folder / "added_tokens.json"), "added_tokens.json: not a regular file"),
    "a pipe of weights": (lambda folder, secret: os.mkfifo(folder / "x.safetensors"), "x.safetensors: not a regular"),
    "a socket": (listening, "socket.txt: not a regular file"),
    "a blob of no snapshot": (like_a_blob, "NOTICE: a link out of"),
    "a name that plays tricks": (link("a\n\x1b[2Jb", to_secret), "a link out of"),
}


def copy(path: Path, secret: Path) -> Path:
    secret.write_bytes(b"{}" if not path.exists() else path.read_bytes())
    return secret


@pytest.mark.parametrize("name", FOREIGN)
def test_what_is_not_the_folders_own_is_refused(
    folder: Path, secret: Path, name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    spoil, words = FOREIGN[name]
    spoil(folder, secret)
    for read in (read_family, usable_weights, load_tokenizer):
        with pytest.raises(UserError) as raised:
            read(folder)
        assert the_line(raised.value, words).isprintable()
    with pytest.raises(UserError):
        hf_to_megatron(folder, tmp_path / "megatron", converter_layout(read_family(folder)), None, lambda _: None)
    assert not (tmp_path / "megatron").exists()


@pytest.mark.parametrize(
    "name", ["an absolute link", "a relative link", "a link to a link", "a chat template", "memory"]
)
def test_nothing_of_it_is_copied(folder: Path, secret: Path, name: str, tmp_path: Path) -> None:
    """By none of the places that copy, although those that read come first."""
    config = json.loads((folder / "config.json").read_text())
    FOREIGN[name][0](folder, secret)
    (tmp_path / "checkpoint").mkdir()
    with pytest.raises(CheckpointError):
        copy_sidecar(folder, tmp_path / "checkpoint")
    with pytest.raises(CheckpointError):
        sidecar_files(folder)
    if name in ("an absolute link", "a chat template"):
        with pytest.raises(CheckpointError):
            write_folder(tmp_path / "hf", iter({"a": torch.zeros(1)}.items()), config, tokenizer_from=folder)
    else:  # of the rest it copies nothing
        write_folder(tmp_path / "hf", iter({"a": torch.zeros(1)}.items()), config, tokenizer_from=folder)
    copied = [path for top in ("checkpoint", "hf") for path in (tmp_path / top).rglob("*") if path.is_file()]
    assert all(SECRET.encode() not in path.read_bytes() for path in copied)


def test_a_link_in_a_checkpoint_is_not_followed(folder: Path, secret: Path, tmp_path: Path) -> None:
    for place in ("hf/NOTICE", "headers/model.safetensors.index.json", "extra.safetensors"):
        target = tmp_path / place.replace("/", "-")
        hf_to_megatron(folder, target / "megatron", converter_layout(read_family(folder)), None, lambda _: None)
        (target / "megatron" / place).symlink_to(secret)
        with pytest.raises(UserError, match="a link out of"):
            megatron_to_hf(target / "megatron", target / "back", None, lambda _: None)
        assert not (target / "back").exists()


def test_a_checkpoint_whose_folder_is_elsewhere_is_not_read(folder: Path, tmp_path: Path) -> None:
    checkpoint = tmp_path / "megatron"
    hf_to_megatron(folder, checkpoint, converter_layout(read_family(folder)), None, lambda _: None)
    (checkpoint / "hf").rename(tmp_path / "home")
    (checkpoint / "hf").symlink_to("../home")
    with pytest.raises(CheckpointError, match=r"megatron/hf: a link out of"):
        sidecar_files(checkpoint / "hf")
    with pytest.raises(CheckpointError):
        megatron_to_hf(checkpoint, tmp_path / "back", None, lambda _: None)
    assert not (tmp_path / "back").exists()


@pytest.mark.parametrize("digits", [HASH, HASH + "0123456789abcdef01234567"])
def test_a_snapshot_in_the_cache_of_the_hub_is_its_own(folder: Path, tmp_path: Path, digits: str) -> None:
    model = tmp_path / "hub" / "models--org--name"
    snapshot, blobs = model / "snapshots" / "0123abc", model / "blobs"
    snapshot.mkdir(parents=True)
    blobs.mkdir()
    for number, path in enumerate(sorted(folder.iterdir())):
        blob = blobs / f"{digits[:-2]}{number:02x}"
        blob.write_bytes(path.read_bytes())
        (snapshot / path.name).symlink_to(os.path.relpath(blob, snapshot))
    (tmp_path / "linked").symlink_to(snapshot)
    for place in (snapshot, tmp_path / "linked"):
        usable_weights(place)
        assert load_tokenizer(place).eos_token_id == 0
        hf_to_megatron(
            place, tmp_path / "megatron" / place.name, converter_layout(read_family(place)), None, lambda _: None
        )
    (snapshot / "NOTICE").symlink_to("../../blobs/../../../home")
    with pytest.raises(UserError, match=r"NOTICE: a link out of"):
        read_family(snapshot)


def test_links_within_a_folder_and_what_nobody_opens_are_as_ever(folder: Path, secret: Path) -> None:
    (folder / "model.safetensors").rename(folder / "weights")
    (folder / "model.safetensors").symlink_to("weights")
    (folder / "original").symlink_to(secret.parent)  # a folder
    (folder / ".cache").symlink_to(secret)
    usable_weights(folder)
    assert "original" not in {path.name for path in sidecar_files(folder)}


INDEXES: dict[str, object] = {
    "a path up": "../home/other.safetensors",
    "an absolute path": "/home/other.safetensors",
    "a folder": "inner/other.safetensors",
    "a path of another system": "..\\other.safetensors",
    "the folder above": "..",
    "nothing": "",
    "a zero byte": "a\0.safetensors",
    "a pickle": "pytorch_model.bin",
    "a number": 1,
    "null": None,
    "a list": ["model.safetensors"],
    "an object": {"a": 1},
}


@pytest.mark.parametrize("name", INDEXES)
def test_an_index_names_files_of_the_folder(folder: Path, name: str) -> None:
    index = folder / "model.safetensors.index.json"
    index.write_text(json.dumps({"weight_map": {"a": "model.safetensors", "b": INDEXES[name]}}))
    for read in (weight_files, usable_weights):
        with pytest.raises(CheckpointError) as raised:
            read(folder)
        assert the_line(raised.value, str(index), "not the name of a safetensors file").isprintable()


@pytest.mark.parametrize(
    "content", ["", "[]", "{}", '{"weight_map": []}', '{"weight_map": {}}', "[" * 100_000, '"a"', "\xff"]
)
def test_an_index_that_is_none(folder: Path, content: str) -> None:
    (folder / "model.safetensors.index.json").write_text(content, encoding="latin-1")
    with pytest.raises(CheckpointError) as raised:
        usable_weights(folder)
    the_line(raised.value, "model.safetensors.index.json")
