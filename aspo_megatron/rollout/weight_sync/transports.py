"""How weights get to a server: in requests, by a folder, or by a broadcast. See `session.Transport`."""

from __future__ import annotations

import asyncio
import base64
import contextlib
import json
import pickle
import threading
import uuid
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import Future
from pathlib import Path
from typing import ParamSpec, TypeVar

from torch import Tensor

from aspo_megatron.errors import UserError
from aspo_megatron.foreign_text import plain_logger
from aspo_megatron.launch.addresses import address_towards, free_ports, is_loopback
from aspo_megatron.rollout.client import ServerClient, ServerError
from aspo_megatron.rollout.weight_sync.session import Prepared
from aspo_megatron.rollout.weight_sync.shared_bucket import SharedBucket, has_room
from aspo_megatron.rollout.weight_sync.transfer_group import TransferGroup
from aspo_megatron.rollout.weight_sync.transport_choice import refuse_other_nccl

logger = plain_logger(__name__)

P = ParamSpec("P")
T = TypeVar("T")
_JOIN_SECONDS = 60.0
_LEAVE_SECONDS = 10.0
_REASON_SECONDS = 3.0
_SPARE_SECONDS = 60.0
"""By how much NCCL is more patient than the request: it is the request that finds out what is wrong, and says it."""


class TensorTransport:
    """The tensors in requests: of a server on this machine their place in memory, of any other their bytes."""

    streams = True

    def __init__(self, server_tp: int, timeout_seconds: float, own: bool = False, shares: bool = True) -> None:
        """A server is on this machine if the run has started it, or has a loopback address.

        Args:
            server_tp: ranks of each server; each takes its part of the whole tensors.
            timeout_seconds: of a request.
            own: the run has started the servers; then these see this process's GPU, and open its memory.
            shares: memory, where that is possible.
        """
        self._server_tp, self._timeout, self._own, self._shares = server_tp, timeout_seconds, own, shares
        self._local: dict[str, bool] = {}

    async def join(self, client: ServerClient) -> None:
        """Note where the server is."""
        self._local[client.url] = self._shares and (self._own or is_loopback(client.url))

    async def leave(self, client: ServerClient) -> None:
        """Forget it."""
        self._local.pop(client.url, None)

    def prepare(self, bucket: Iterable[tuple[str, Tensor]]) -> Prepared:
        """Copies of the tensors in shared memory, or a request's body with them, as the servers need."""
        pairs = list(bucket)
        local = any(self._local.values())
        on_gpu = self._own and pairs[0][1].is_cuda
        shared = SharedBucket(pairs, on_gpu) if local and (on_gpu or has_room(pairs)) else None
        if local and shared is None:
            logger.warning("weight sync: /dev/shm has no room for a bucket, which is sent by value instead: far slower")
        by_value = bool(self._local) if shared is None else not all(self._local.values())
        return Prepared(_body([_text(_by_value(pairs))] * self._server_tp) if by_value else b"", shared=shared)

    async def send(self, client: ServerClient, prepared: Prepared) -> None:
        """See `Transport`."""
        body = prepared.body
        if prepared.shared is not None and self._local[client.url]:
            handles = [_text(prepared.shared.pickled()) for _ in range(self._server_tp)]
            body = _body(handles, load_format="flattened_bucket")
        await client.post("/update_weights_from_tensor", body, self._timeout)


def _body(texts: Sequence[bytes], **settings: str) -> bytes:
    rest = json.dumps({"flush_cache": False, "abort_all_requests": False, **settings}).encode()
    return b'{"serialized_named_tensors":[' + b",".join(texts) + b"]," + rest[1:]


def _text(pickled: bytes) -> bytes:
    """As JSON has it."""
    return b'"' + base64.b64encode(pickled) + b'"'


def _by_value(pairs: Sequence[tuple[str, Tensor]]) -> bytes:
    """A pickle that servers take from any machine."""
    # A clone of the contiguous: pickle would write the whole storage that a view looks at.
    own = [(name, tensor.detach().cpu().contiguous().clone()) for name, tensor in pairs]
    return pickle.dumps(own, protocol=pickle.HIGHEST_PROTOCOL)


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
        name, address, (port,) = uuid.uuid4().hex, address_towards(client.url), free_ports(1)
        body = {
            "master_address": address,
            "master_port": port,
            "rank_offset": 1,
            "world_size": 1 + self._server_tp,
            "group_name": name,
            "backend": self._backend,
        }
        patience = min(self._timeout, _JOIN_SECONDS)
        longest = self._timeout + (_SPARE_SECONDS if self._backend == "nccl" else 0.0)
        forming = _in_thread(TransferGroup, address, port, name, self._server_tp, self._backend, patience, longest)
        ours = asyncio.wrap_future(forming)
        try:
            group = await _both(client, "/init_weights_update_group", json.dumps(body).encode(), patience, ours)
        except BaseException:
            forming.add_done_callback(_close)  # it may form all the same, or have done so
            raise
        self._groups[client.url] = name, group

    async def leave(self, client: ServerClient) -> None:
        """Give the group up."""
        if client.url not in self._groups:
            return
        name, group = self._groups.pop(client.url)
        # At once: the ranks of a machine wait for each other in NCCL. A group whose server has failed may not be done
        # with what it sends.
        request = asyncio.ensure_future(
            client.post("/destroy_weights_update_group", {"group_name": name}, _LEAVE_SECONDS)
        )
        await asyncio.wait([request, _beside(group.close)], timeout=_LEAVE_SECONDS)
        request.cancel()
        with contextlib.suppress(ServerError, asyncio.CancelledError):
            await request

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
        sending = _beside(group.send, prepared.tensors)
        try:
            await _both(client, "/update_weights_from_distributed", body, self._timeout, sending)
        except (ServerError, UserError):
            _beside(group.abandon)  # not waited for: other servers are at their buckets
            raise


def _close(forming: Future[TransferGroup]) -> None:
    """Leave a group that nobody uses, if there is one."""
    if forming.exception() is None:
        _in_thread(forming.result().close)


def _beside(function: Callable[P, T], *arguments: P.args, **named: P.kwargs) -> asyncio.Future[T]:
    """As `_in_thread`, for a coroutine to await."""
    return asyncio.wrap_future(_in_thread(function, *arguments, **named))


def _in_thread(function: Callable[P, T], *arguments: P.args, **named: P.kwargs) -> Future[T]:
    """What a function gives that runs in a thread of its own; the process does not wait for it to end."""
    future: Future[T] = Future()
    future.set_running_or_notify_cancel()

    def run() -> None:
        try:
            future.set_result(function(*arguments, **named))
        except BaseException as error:
            future.set_exception(error)

    threading.Thread(target=run, name="weight transfer", daemon=True).start()
    return future


async def _both(client: ServerClient, path: str, body: bytes, timeout_seconds: float, ours: asyncio.Future[T]) -> T:
    """What comes of this process's part in a request, which is made at the same time. A failure is not waited out.

    Raises:
        ServerError: either failed.
        UserError: because their versions of NCCL differ.
    """
    request = asyncio.ensure_future(client.post(path, body, timeout_seconds))
    try:
        await asyncio.wait((request, ours), return_when=asyncio.FIRST_EXCEPTION)
        if request.done():
            request.result()
        return ours.result() if ours.done() else await ours
    except ServerError as fault:
        if "NCCL" in str(fault):
            await asyncio.wait((ours,), timeout=_REASON_SECONDS)  # for what NCCL says here, which is more
            refuse_other_nccl(client.url, str(ours.exception()) if ours.done() else str(fault))
        raise
    except RuntimeError as error:
        refuse_other_nccl(client.url, str(error))
        raise ServerError(client.url, f"{path}: {str(error).splitlines()[0]}") from error
    finally:
        request.cancel()
        if not ours.cancel() and not ours.cancelled():
            ours.exception()  # asyncio tells of one that nobody has asked for
