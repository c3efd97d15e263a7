"""A proxy before a real server, which breaks its answers in a way that is asked for."""

from __future__ import annotations

import asyncio
import json
from typing import Any

import aiohttp
from aiohttp import web

from aspo_megatron.rollout.loop_thread import LoopThread


class Proxy:
    """Forwards to `target`. `fault` says what becomes of answers to paths that begin with `at`."""

    def __init__(self, target: str) -> None:
        self.target = target
        self.fault = ""
        self.at = "/generate"
        self.key = ""
        self.answered: list[str] = []
        """The request ids of responses that were passed on as they came."""
        self.paths: list[str] = []
        """What was asked, in order."""
        self.bodies: list[Any] = []
        """The bodies of requests to `/generate`."""
        self.version = ""
        """What the server is made to say the version of its weights is."""
        self._loop = LoopThread("proxy")
        self._runner, self.url = self._loop.run(self._start())

    def close(self) -> None:
        self._loop.run(self._runner.cleanup())
        self._loop.close()

    async def _start(self) -> tuple[web.AppRunner, str]:
        app = web.Application(client_max_size=1 << 30)
        app.router.add_route("*", "/{path:.*}", self._handle)
        runner = web.AppRunner(app, shutdown_timeout=0.1)
        await runner.setup()
        site = web.TCPSite(runner, "127.0.0.1", 0)
        await site.start()
        assert isinstance(site._server, asyncio.Server)
        return runner, f"http://127.0.0.1:{site._server.sockets[0].getsockname()[1]}"

    async def _handle(self, request: web.Request) -> web.StreamResponse:
        if self.key and request.headers.get("Authorization") != f"Bearer {self.key}":
            return web.Response(status=401)
        self.paths.append(request.path)
        if self.version and request.path == "/model_info":
            return web.json_response({"weight_version": self.version})
        fault = self.fault if request.path.startswith(self.at) else ""
        body = await request.read()
        if request.path == "/generate":
            self.bodies.append(json.loads(body))
        if fault in ("404", "500"):
            return web.Response(status=int(fault), text="out of order")
        if fault == "hang":
            await asyncio.sleep(3600)
        url = self.target + request.path_qs
        headers = {"Content-Type": "application/json", "Authorization": request.headers.get("Authorization", "")}
        async with (
            aiohttp.ClientSession() as session,
            session.request(request.method, url, data=body, headers=headers) as answer,
        ):
            content, status = await answer.read(), answer.status
        if fault == "drop":
            response = web.StreamResponse(headers={"Content-Length": str(len(content))})
            await response.prepare(request)
            await response.write(content[: len(content) // 2])
            assert request.transport is not None
            request.transport.close()
            return response
        if fault:
            content = json.dumps(_broken(json.loads(content), fault)).encode()
        elif request.path == "/generate":
            self.answered.append(json.loads(body).get("rid", ""))
        return web.Response(status=status, body=content, content_type="application/json")


def _broken(reply: Any, fault: str) -> Any:
    meta = reply["meta_info"]
    if fault == "short":  # tokens are missing, or their log-probs
        reply["output_ids"] = reply["output_ids"][:-1]
    elif fault == "reordered":
        first, *others = meta["output_token_logprobs"]
        meta["output_token_logprobs"] = [*others, first] if others else []  # one token has no other order
    elif fault == "foreign":
        meta["id"] = "0" * 32
    elif fault == "aborted":
        meta["finish_reason"] = {"type": "abort", "message": "Aborted"}
    elif fault == "stale":
        meta["weight_version"] = "6"
        meta["weight_versions"] = [{"version": "6", "start": 0, "end": len(reply["output_ids"])}]
    elif fault == "mixed":
        own = {"version": meta["weight_version"], "start": 1, "end": 2}
        meta["weight_versions"] = [{"version": "6", "start": 0, "end": 1}, own]
    elif fault == "older":  # a server that does not say which weights have made which token
        del meta["weight_versions"]
    elif fault == "gap":
        end = len(reply["output_ids"])
        meta["weight_versions"] = [{"version": meta["weight_version"], "start": 1, "end": end}]
    elif fault == "few":  # spans that do not cover all tokens
        meta["weight_versions"] = [{"version": meta["weight_version"], "start": 0, "end": 1}]
    elif fault == "prompt":
        meta["prompt_tokens"] += 1
    elif fault == "refused":
        return {"success": False, "message": "no"}
    elif fault == "empty":
        return {}
    elif fault == "list":
        return [reply]
    return reply
