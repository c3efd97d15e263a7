"""Weights that come in requests, from a folder, or by a broadcast."""

from __future__ import annotations

import base64
import hashlib
import pickle
from collections.abc import Iterable
from datetime import timedelta
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist
from safetensors.torch import load_file
from torch import Tensor
from torch.distributed.distributed_c10d import PrefixStore
from torch.distributed.rendezvous import rendezvous
from transformers import PreTrainedModel

_PATIENCE = timedelta(seconds=60)


class Weights:
    """Those of a model; each method but `checksums` is a request, by its name."""

    def __init__(self, model: PreTrainedModel, load_format: str) -> None:
        """`load_format`: `dummy` if the server was started without weights."""
        self._load_format = load_format
        self._tensors = dict(model.state_dict())
        self._groups: dict[str, Any] = {}
        self._open = False

    def checksums(self) -> dict[str, str]:
        """The start of the SHA-256 of each tensor's bytes."""
        return {name: hashlib.sha256(t.numpy().tobytes()).hexdigest()[:16] for name, t in self._tensors.items()}

    def begin_weight_update(self, body: dict[str, Any]) -> None:
        if self._open:
            raise RuntimeError("an update is open")
        self._open = True

    def end_weight_update(self, body: dict[str, Any]) -> None:
        if not self._open:
            raise RuntimeError("no update is open")
        self._open = False

    def init_weights_update_group(self, body: dict[str, Any]) -> None:
        address, name = f"tcp://{body['master_address']}:{body['master_port']}", body["group_name"]
        store, rank, size = next(rendezvous(address, body["rank_offset"], body["world_size"], timeout=_PATIENCE))
        prefixed = PrefixStore("cpu/", PrefixStore(f"{name}/", PrefixStore(name, store)))
        self._groups[name] = dist.ProcessGroupGloo(prefixed, rank, size, _PATIENCE)

    def destroy_weights_update_group(self, body: dict[str, Any]) -> None:
        del self._groups[body["group_name"]]

    def update_weights_from_distributed(self, body: dict[str, Any]) -> None:
        self._refuse_closed()
        for name, dtype, shape in zip(body["names"], body["dtypes"], body["shapes"], strict=True):
            tensor = torch.empty(shape, dtype=getattr(torch, dtype))
            self._groups[body["group_name"]].broadcast([tensor], dist.BroadcastOptions()).wait()
            self._take([(name, tensor)])

    def update_weights_from_tensor(self, body: dict[str, Any]) -> None:
        self._refuse_closed()
        (text,) = body["serialized_named_tensors"]
        content = pickle.loads(base64.b64decode(text))
        if body.get("load_format") != "flattened_bucket":
            self._take(content)
            return
        flat = content["flattened_tensor"]
        self._take((m.name, flat[m.start_idx : m.end_idx].view(m.dtype).view(m.shape)) for m in content["metadata"])

    def update_weights_from_disk(self, body: dict[str, Any]) -> None:
        if (body.get("load_format") or self._load_format) == "dummy":
            for tensor in self._tensors.values():
                tensor.normal_()
            return
        paths = sorted(Path(body["model_path"]).glob("*.safetensors"))
        if not paths:
            raise ValueError(f"no weights in {body['model_path']}")
        for path in paths:
            self._take(load_file(path).items())

    def _refuse_closed(self) -> None:
        if not self._open:
            raise RuntimeError("no update is open")

    def _take(self, tensors: Iterable[tuple[str, Tensor]]) -> None:
        for name, tensor in tensors:
            if tensor.shape != self._tensors[name].shape:
                raise ValueError(f"{name}: {list(tensor.shape)} in the place of {list(self._tensors[name].shape)}")
            self._tensors[name].copy_(tensor)
