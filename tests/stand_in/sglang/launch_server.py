"""`python -m sglang.launch_server ...` as far as this project's runs use it: one process, a small model, a CPU."""

from __future__ import annotations

import argparse
import asyncio
import json
import os
from pathlib import Path
from typing import Any

import torch
from aiohttp import web
from transformers import AutoConfig, AutoModelForCausalLM, AutoTokenizer

from .generating import Generating, Row
from .weights import Weights

_MOST_BYTES = 1 << 30


class Server:
    """Answers as SGLang does: see `aspo_megatron.rollout`."""

    def __init__(self, folder: Path, key: str, random: bool) -> None:
        self._key = key
        if random:
            model = AutoModelForCausalLM.from_config(AutoConfig.from_pretrained(folder), dtype=torch.float32).eval()
        else:
            model = AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32).eval()
        self._weights = Weights(model)
        self._generating = Generating(model, AutoTokenizer.from_pretrained(folder))
        self._version = "default"
        self._released = False

    def app(self) -> web.Application:
        """Its routes."""
        app = web.Application(client_max_size=_MOST_BYTES, middlewares=[self._checked])
        app.router.add_get("/model_info", self._model_info)
        app.router.add_post("/generate", self._generate)
        for name in (
            "abort_request", "pause_generation", "continue_generation", "flush_cache", "begin_weight_update",
            "end_weight_update", "init_weights_update_group", "destroy_weights_update_group",
            "update_weights_from_distributed", "update_weights_from_tensor", "update_weights_from_disk",
            "update_weight_version", "weights_checker", "release_memory_occupation", "resume_memory_occupation",
        ):  # fmt: skip
            app.router.add_post(f"/{name}", self._control)

        async def run(app: web.Application) -> None:
            app["task"] = asyncio.create_task(self._generating.run(lambda: self._version))

        app.on_startup.append(run)
        return app

    @web.middleware
    async def _checked(self, request: web.Request, handler: Any) -> web.StreamResponse:
        if self._key and request.headers.get("Authorization") != f"Bearer {self._key}":
            return web.json_response({"error": "Unauthorized"}, status=401)
        try:
            return await handler(request)
        except (ValueError, KeyError, RuntimeError) as error:
            return web.json_response({"success": False, "message": repr(error)}, status=400)

    async def _model_info(self, request: web.Request) -> web.Response:
        return web.json_response({"weight_version": self._version})

    async def _generate(self, request: web.Request) -> web.Response:
        body = await request.json()
        prompt, sampling = body["input_ids"], body["sampling_params"]
        if sampling["max_new_tokens"] == 0:
            log_probs = await asyncio.to_thread(self._generating.prompt_log_probs, prompt)
            pairs = zip([None, *log_probs], prompt, strict=True)
            return web.json_response({"meta_info": {"input_token_logprobs": [[p, token, None] for p, token in pairs]}})
        row = Row(body["rid"], prompt, sampling)
        await self._generating.finished(row)
        meta = {
            "id": row.rid,
            "finish_reason": {"type": row.finish},
            "prompt_tokens": len(prompt),
            "weight_version": self._version,
            "weight_versions": row.spans(),
            "output_token_logprobs": [[p, token, None] for p, token in zip(row.log_probs, row.tokens, strict=True)],
        }
        return web.json_response({"output_ids": row.tokens, "meta_info": meta})

    async def _control(self, request: web.Request) -> web.Response:
        body = json.loads(await request.read() or b"{}")
        match request.path.removeprefix("/"):
            case "abort_request":
                self._generating.abort(body["rid"], body.get("abort_all", False))
            case "pause_generation":
                await self._generating.pause()
            case "continue_generation":
                self._generating.go_on()
            case "flush_cache":
                await self._generating.idle_or_paused()
            case "update_weight_version":
                self._version = body["new_version"]
            case "weights_checker":
                return web.json_response({"ranks": [{"checksums": self._weights.checksums()}]})
            case "release_memory_occupation" | "resume_memory_occupation" as asked:
                releases = asked.startswith("release")
                if releases == self._released and "weights" in body["tags"]:
                    os._exit(1)  # as SGLang ends
                self._released = releases if "weights" in body["tags"] else self._released
            case name:
                await asyncio.to_thread(getattr(self._weights, name), body)
        return web.json_response({"success": True})


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
