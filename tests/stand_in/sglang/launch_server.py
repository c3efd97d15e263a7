"""`python -m sglang.launch_server ...` as far as this project's runs use it: one process, a small model, a CPU."""

from __future__ import annotations

import argparse
import asyncio
import json
import os
import uuid
from collections.abc import AsyncIterator, Callable
from pathlib import Path
from typing import Any

import torch
from aiohttp import web
from transformers import AutoConfig, AutoModelForCausalLM, AutoTokenizer

from .generating import Generating, Row
from .sampling import checked
from .weights import Weights

_MOST_BYTES = 1 << 30


class Server:
    """Answers as SGLang does: see `aspo_megatron.rollout`."""

    def __init__(self, folder: Path, key: str, random: bool, die: Callable[[], object] = lambda: os._exit(1)) -> None:
        """`die` is called where SGLang ends."""
        self._key, self._die = key, die
        if random:
            model = AutoModelForCausalLM.from_config(AutoConfig.from_pretrained(folder), dtype=torch.float32).eval()
        else:
            model = AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32).eval()
        self._vocab_size = model.config.vocab_size
        self._weights = Weights(model, "dummy" if random else "auto")
        self._generating = Generating(model, AutoTokenizer.from_pretrained(folder))
        self._version = "default"
        self._released: set[str] = set()

    def app(self) -> web.Application:
        """Its routes."""
        app = web.Application(client_max_size=_MOST_BYTES, middlewares=[self._checked])
        app.router.add_get("/model_info", self._model_info)
        app.router.add_post("/generate", self._generate)
        app.router.add_post("/abort_request", self._abort)
        app.router.add_post("/flush_cache", self._flush)
        app.router.add_post("/weights_checker", self._checksums)
        for name in (
            "pause_generation", "continue_generation", "begin_weight_update", "end_weight_update",
            "init_weights_update_group", "destroy_weights_update_group", "update_weights_from_distributed",
            "update_weights_from_tensor", "update_weights_from_disk", "update_weight_version",
            "release_memory_occupation", "resume_memory_occupation",
        ):  # fmt: skip
            app.router.add_post(f"/{name}", self._control)

        async def run(app: web.Application) -> AsyncIterator[None]:
            task = asyncio.create_task(self._generating.run(lambda: self._version))
            yield
            task.cancel()

        app.cleanup_ctx.append(run)
        return app

    @web.middleware
    async def _checked(self, request: web.Request, handler: Any) -> web.StreamResponse:
        if self._key and request.headers.get("Authorization") != f"Bearer {self._key}":
            return web.json_response({"error": "Unauthorized"}, status=401)
        if request.method == "POST" and request.content_type != "application/json":
            return web.json_response({"error": {"message": "not JSON"}}, status=422)
        try:
            return await handler(request)
        except (ValueError, KeyError, TypeError, RuntimeError) as error:
            return web.json_response({"success": False, "message": repr(error)}, status=400)

    async def _model_info(self, request: web.Request) -> web.Response:
        return web.json_response({"weight_version": self._version})

    async def _generate(self, request: web.Request) -> web.Response:
        body = await request.json()
        prompt, sampling = body["input_ids"], checked(body.get("sampling_params") or {})
        if not prompt:
            raise ValueError("no prompt")
        if not all(0 <= token < self._vocab_size for token in prompt):
            self._die()
        start = body.get("logprob_start_len", -1)
        scored = await self._scored(prompt, start) if body.get("return_logprob") and start >= 0 else []
        row = Row(body.get("rid") or uuid.uuid4().hex, prompt, sampling)
        if sampling["max_new_tokens"]:
            await self._generating.finished(row)
        else:
            row.finish = "length"
        waits = row.finish == "abort" and not row.tokens
        spans = row.spans()
        meta = {
            "id": row.rid,
            "finish_reason": row.finish_reason(),
            "prompt_tokens": 0 if waits else len(prompt),
            "completion_tokens": len(row.tokens),
            "weight_version": spans[-1]["version"] if spans else self._version,
            "weight_versions": spans,
        }
        if body.get("return_logprob"):
            own = zip(row.log_probs, row.tokens, strict=True)
            meta["output_token_logprobs"] = [[log_prob, token, None] for log_prob, token in own]
            meta["input_token_logprobs"] = scored
        return web.json_response({"text": "", "output_ids": row.tokens, "meta_info": meta})

    async def _scored(self, prompt: list[int], start: int) -> list[Any]:
        """The log-probs of the prompt's tokens, that of the first of them unknown."""
        log_probs = await asyncio.to_thread(self._generating.prompt_log_probs, prompt)
        triples = [[log_prob, token, None] for log_prob, token in zip([None, *log_probs], prompt, strict=True)]
        return [[None, *triples[start][1:]], *triples[start + 1 :]]

    async def _abort(self, request: web.Request) -> web.Response:
        body = await request.json()
        self._generating.abort(body.get("rid", ""), body.get("abort_all", False))
        return web.Response()

    async def _flush(self, request: web.Request) -> web.Response:
        if not await self._generating.flushed(float(request.query.get("timeout", "0"))):
            return web.Response(status=400, text="Flush cache failed.")
        return web.Response(text="Cache flushed.")

    async def _checksums(self, request: web.Request) -> web.Response:
        if (await request.json())["action"] != "checksum":
            raise ValueError("no such action")
        return web.json_response({"success": True, "ranks": [{"checksums": self._weights.checksums()}]})

    async def _control(self, request: web.Request) -> web.Response:
        body = await request.json()
        match request.path.removeprefix("/"):
            case "pause_generation":
                await self._generating.pause(body.get("mode", "abort"))
                return web.json_response({"status": "ok"})
            case "continue_generation":
                self._generating.go_on()
                return web.json_response({"status": "ok"})
            case "update_weight_version":
                if body.get("abort_all_requests", True):
                    self._generating.abort("", True)
                self._version = body["new_version"]
            case "release_memory_occupation" | "resume_memory_occupation" as asked:
                self._take_turns(asked.startswith("release"), set(body.get("tags") or ("weights", "kv_cache")))
                return web.json_response(None)
            case name:
                await asyncio.to_thread(getattr(self._weights, name), body)
        return web.json_response({"success": True, "message": ""})

    def _take_turns(self, releases: bool, tags: set[str]) -> None:
        """Give memory up or take it again; what is done twice, or while a request is open, is the end."""
        if releases and not self._generating.idle:
            self._die()
        if tags & self._released if releases else tags - self._released:
            self._die()
        self._released = self._released | tags if releases else self._released - tags


def main() -> None:
    """Serve until it is ended."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--model-path", type=Path, required=True)
    parser.add_argument("--host", required=True)
    parser.add_argument("--port", type=int, required=True)
    parser.add_argument("--config", type=Path)
    parser.add_argument("--load-format", default="auto")
    options, _ = parser.parse_known_args()
    key = json.loads(options.config.read_text())["api-key"] if options.config else ""
    app = Server(options.model_path, key, options.load_format == "dummy").app()
    web.run_app(app, host=options.host, port=options.port, print=None, handler_cancellation=True, handle_signals=False)


if __name__ == "__main__":
    torch.set_num_threads(1)
    main()
