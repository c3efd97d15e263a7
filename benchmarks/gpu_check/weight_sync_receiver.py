"""Receives weights as an SGLang server does, and generates nothing: `python -m ... PORT DEVICE PARENT`.

It answers the calls that a weight sync makes, joins groups by the same functions of PyTorch as SGLang, and tells the
checksums of what it received.
"""

from __future__ import annotations

import hashlib
import json
import sys
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor
from torch.distributed.distributed_c10d import (
    Backend,
    GroupName,
    PrefixStore,
    _new_process_group_helper,
    _world,
    default_pg_timeout,
)
from torch.distributed.rendezvous import rendezvous

from aspo_megatron.launch.rank import die_with_parent


class RefusedError(Exception):
    """A request that SGLang answers with status 400."""


class UnknownError(Exception):
    """A request that SGLang does not know."""


def checksum(tensor: Tensor) -> str:
    """Of a tensor's bytes."""
    return hashlib.sha256(tensor.contiguous().cpu().reshape(-1).view(torch.uint8).numpy().data).hexdigest()


class Receiver:
    """The weights, and the groups by which they come. One request at a time, as SGLang's scheduler."""

    def __init__(self, device: torch.device) -> None:
        self.version = "none yet"
        self._device = device
        self._groups: dict[str, dist.ProcessGroup] = {}
        self._weights: dict[str, Tensor] = {}
        self._open = False
        self._busy = threading.Lock()

    def answer(self, path: str, body: dict[str, Any]) -> dict[str, Any]:
        """What a request is answered.

        Raises:
            RefusedError: it makes no sense now.
            UnknownError: there is no such call.
        """
        calls = {
            "/pause_generation": self._nothing,
            "/continue_generation": self._nothing,
            "/flush_cache": self._nothing,
            "/begin_weight_update": self._begin,
            "/end_weight_update": self._end,
            "/init_weights_update_group": self._join,
            "/update_weights_from_distributed": self._receive,
            "/destroy_weights_update_group": self._leave,
            "/update_weight_version": self._rename,
            "/weights_checker": self._tell,
        }
        if path not in calls:
            raise UnknownError(f"no {path}")
        with self._busy:
            return {"success": True, **calls[path](body)}

    def _nothing(self, body: dict[str, Any]) -> dict[str, Any]:
        return {}

    def _begin(self, body: dict[str, Any]) -> dict[str, Any]:
        if self._open:
            raise RefusedError("an update is open")
        self._open = True
        return {}

    def _end(self, body: dict[str, Any]) -> dict[str, Any]:
        if not self._open:
            raise RefusedError("no update is open")
        self._open = False
        return {}

    def _join(self, body: dict[str, Any]) -> dict[str, Any]:
        name, size = body["group_name"], body["world_size"]
        address = f"tcp://{body['master_address']}:{body['master_port']}"
        store, rank, size = next(rendezvous(address, body["rank_offset"], size, timeout=default_pg_timeout))
        store.set_timeout(default_pg_timeout)
        group, _ = _new_process_group_helper(
            size,
            rank,
            [],
            Backend(body["backend"]),
            PrefixStore(name, store),
            group_name=GroupName(name),
            timeout=default_pg_timeout,
        )
        _world.pg_group_ranks[group] = {number: number for number in range(size)}
        self._groups[name] = group
        return {}

    def _receive(self, body: dict[str, Any]) -> dict[str, Any]:
        if not self._open:
            raise RefusedError("no update is open")
        group = self._groups[body["group_name"]]
        tensors = [
            torch.empty(shape, dtype=getattr(torch, dtype), device=self._device)
            for shape, dtype in zip(body["shapes"], body["dtypes"], strict=True)
        ]
        for work in [dist.broadcast(tensor, src=0, group=group, async_op=True) for tensor in tensors]:
            work.wait()
        if self._device.type == "cuda":
            torch.cuda.synchronize(self._device)
        self._weights.update(zip(body["names"], tensors, strict=True))
        return {}

    def _leave(self, body: dict[str, Any]) -> dict[str, Any]:
        if body["group_name"] not in self._groups:
            raise RefusedError("there is no such group")
        dist.destroy_process_group(self._groups.pop(body["group_name"]))
        return {}

    def _rename(self, body: dict[str, Any]) -> dict[str, Any]:
        self.version = body["new_version"]
        return {}

    def _tell(self, body: dict[str, Any]) -> dict[str, Any]:
        return {"ranks": [{"checksums": {name: checksum(tensor) for name, tensor in self._weights.items()}}]}


def handler_of(receiver: Receiver) -> type[BaseHTTPRequestHandler]:
    """Answers requests for `receiver`."""

    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def do_GET(self) -> None:
            found = self.path == "/model_info"
            self._send(200 if found else 404, {"weight_version": receiver.version} if found else {})

        def do_POST(self) -> None:
            body = json.loads(self.rfile.read(int(self.headers["Content-Length"])) or "{}")
            try:
                self._send(200, receiver.answer(self.path, body))
            except UnknownError as error:
                self._send(404, {"message": str(error)})
            except (RefusedError, RuntimeError) as error:
                self._send(400, {"success": False, "message": str(error)})

        def _send(self, status: int, body: dict[str, Any]) -> None:
            content = json.dumps(body).encode()
            self.send_response(status)
            self.send_header("Content-Type", "application/json")
            self.send_header("Content-Length", str(len(content)))
            self.end_headers()
            self.wfile.write(content)

        def log_message(self, format: str, *args: Any) -> None:
            """Say nothing of requests."""

    return Handler


def main(argv: list[str]) -> None:
    """Serve until the end of the process that has started this one."""
    port, device, parent = int(argv[0]), torch.device(argv[1]), int(argv[2])
    die_with_parent(parent)
    torch.set_num_threads(1)
    if device.type == "cuda":
        torch.cuda.set_device(device)
        torch.zeros(1, device=device)  # CUDA is there before the first request
    ThreadingHTTPServer(("127.0.0.1", port), handler_of(Receiver(device))).serve_forever()


if __name__ == "__main__":
    main(sys.argv[1:])
