"""How weights get to a server: in requests, by a folder, or by a broadcast. See `weight_sync.Transport`."""

from __future__ import annotations

import asyncio
import base64
import contextlib
import json
import pickle
import uuid
from collections.abc import Callable, Coroutine, Iterable, Iterator
from pathlib import Path
from typing import Any, TypeVar

from torch import Tensor

from aspo_megatron.rollout.server_client import ServerClient, ServerError
from aspo_megatron.rollout.transfer_group import TransferGroup, address_towards, free_port
from aspo_megatron.rollout.weight_sync import Prepared

T = TypeVar("T")
_LEAVE_SECONDS = 10.0


class TensorTransport:
    """The tensors themselves in requests, as a pickle by value that servers take from any machine."""

    streams = True

    def __init__(self, server_tp: int, timeout_seconds: float) -> None:
        """`server_tp`: ranks of each server; each takes its part of the whole tensors."""
        self._server_tp, self._timeout = server_tp, timeout_seconds

    async def join(self, client: ServerClient) -> None:
        """Nothing to do."""

    async def leave(self, client: ServerClient) -> None:
        """Nothing to do."""

    def prepare(self, bucket: Iterable[tuple[str, Tensor]]) -> Prepared:
        """A request's body. Each tensor is pickled with its own memory only, not with all that it is a view of."""
        # A clone of the contiguous: pickle would write the whole storage that a view looks at.
        own = [(name, tensor.detach().cpu().contiguous().clone()) for name, tensor in bucket]
        text = base64.b64encode(pickle.dumps(own, protocol=pickle.HIGHEST_PROTOCOL))
        del own
        rest = json.dumps({"flush_cache": False, "abort_all_requests": False}).encode()
        body = b'{"serialized_named_tensors":[' + b",".join([b'"' + text + b'"'] * self._server_tp) + b"]," + rest[1:]
        return Prepared(body)

    async def send(self, client: ServerClient, prepared: Prepared) -> None:
        """See `Transport`."""
        await client.post("/update_weights_from_tensor", prepared.body, self._timeout)


class DiskTransport:
    """A Hugging Face folder that all servers can read; that of the version before is replaced."""

    streams = False

    def __init__(
        self, write: Callable[[Path, Iterator[tuple[str, Tensor]]], None], folder: Path, timeout_seconds: float
    ) -> None:
        """`write` makes a Hugging Face folder of tensors; `folder` is where, by an absolute path."""
        self._write, self._folder, self._timeout = write, folder, timeout_seconds

    async def join(self, client: ServerClient) -> None:
        """Nothing to do."""

    async def leave(self, client: ServerClient) -> None:
        """Nothing to do."""

    def prepare(self, bucket: Iterable[tuple[str, Tensor]]) -> Prepared:
        """Write the folder; the body of a request that names it."""
        self._write(self._folder, iter(bucket))
        # Named, as a server that was started without weights would go on with drawing random ones.
        body = {"model_path": str(self._folder), "load_format": "auto", "flush_cache": True}
        return Prepared(json.dumps(body).encode())

    async def send(self, client: ServerClient, prepared: Prepared) -> None:
        """See `Transport`."""
        await client.post("/update_weights_from_disk", prepared.body, self._timeout)


class DistributedTransport:
    """A broadcast to each server: NCCL between GPUs, gloo without.

    Each sync forms a group with each server anew, so that one which was started again, or is gone, is no special case.
    """

    streams = True

    def __init__(self, backend: str, server_tp: int, timeout_seconds: float) -> None:
        """`server_tp`: ranks of each server."""
        self._backend, self._server_tp, self._timeout = backend, server_tp, timeout_seconds
        self._groups: dict[str, tuple[str, TransferGroup]] = {}

    async def join(self, client: ServerClient) -> None:
        """Form a group with the server."""
        name, address, port = uuid.uuid4().hex, address_towards(client.url), free_port()
        body = {
            "master_address": address,
            "master_port": port,
            "rank_offset": 1,
            "world_size": 1 + self._server_tp,
            "group_name": name,
            "backend": self._backend,
        }
        forming = asyncio.to_thread(TransferGroup, address, port, name, self._server_tp, self._backend, self._timeout)
        _, group = await _both(client, "/init_weights_update_group", json.dumps(body).encode(), self._timeout, forming)
        self._groups[client.url] = name, group

    async def leave(self, client: ServerClient) -> None:
        """Give the group up."""
        if client.url not in self._groups:
            return
        name, group = self._groups.pop(client.url)
        with contextlib.suppress(ServerError):
            await client.post("/destroy_weights_update_group", {"group_name": name}, _LEAVE_SECONDS)
        await asyncio.to_thread(group.close)

    def prepare(self, bucket: Iterable[tuple[str, Tensor]]) -> Prepared:
        """Names, dtypes and shapes; the tensors beside."""
        pairs = [(name, tensor.detach().contiguous()) for name, tensor in bucket]
        body = {
            "names": [name for name, _ in pairs],
            "dtypes": [str(tensor.dtype).removeprefix("torch.") for _, tensor in pairs],
            "shapes": [list(tensor.shape) for _, tensor in pairs],
            "flush_cache": False,
            "abort_all_requests": False,
        }
        return Prepared(json.dumps(body).encode(), [tensor for _, tensor in pairs])

    async def send(self, client: ServerClient, prepared: Prepared) -> None:
        """See `Transport`."""
        name, group = self._groups[client.url]
        body = prepared.body[:-1] + f', "group_name": "{name}"}}'.encode()
        sending = asyncio.to_thread(group.send, prepared.tensors)
        await _both(client, "/update_weights_from_distributed", body, self._timeout, sending)


async def _both(
    client: ServerClient, path: str, body: bytes, timeout_seconds: float, ours: Coroutine[Any, Any, T]
) -> tuple[Any, T]:
    """A request, and this process's part in what it asks for, at the same time.

    Raises:
        ServerError: either failed.
    """
    reply, result = await asyncio.gather(client.post(path, body, timeout_seconds), ours, return_exceptions=True)
    if isinstance(reply, BaseException):
        raise reply
    if isinstance(result, RuntimeError):
        raise ServerError(client.url, f"{path}: {str(result).splitlines()[0]}") from result
    if isinstance(result, BaseException):
        raise result
    return reply, result
