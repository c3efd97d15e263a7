"""One SGLang server over HTTP: what is asked of it, and the checks of what it answers."""

from __future__ import annotations

import contextlib
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import aiohttp

from aspo_megatron.data.samples import FinishReason
from aspo_megatron.errors import UserError
from aspo_megatron.foreign_text import one_line

_SHORT_SECONDS = 10.0
_LONGEST_SAID = 300
_MOST_BYTES = 1 << 27
"""Of an answer: a prompt of a million tokens has log-probs of half of it."""


class ServerError(Exception):
    """A server is gone, hangs, refuses or answers nonsense; another one may do better.

    `status` is that of its answer, None if there was none.
    """

    def __init__(self, url: str, reason: str, status: int | None = None) -> None:
        super().__init__(one_line(f"{url}: {reason}"))
        self.status = status


@dataclass(frozen=True)
class Completion:
    """A response: its tokens, their log-probs, and the versions of the weights that made them, in order.

    A span is a version and how many tokens in a row it made; an older server names the last version only (`spans` is
    None then). With `finish` `abort` the response is not whole, and may have no token.
    """

    token_ids: list[int]
    log_probs: list[float]
    finish: FinishReason
    version: str
    spans: tuple[tuple[str, int], ...] | None


class ServerClient:
    """Requests to one server. A session is of one event loop, and so is this."""

    def __init__(self, url: str, session: aiohttp.ClientSession, api_key: str | None) -> None:
        self.url = url.rstrip("/")
        self._session = session
        self._headers = {"Content-Type": "application/json"}
        if api_key:
            self._headers["Authorization"] = f"Bearer {api_key}"

    async def generate(
        self, rid: str, prompt_ids: Sequence[int], sampling: Mapping[str, Any], timeout_seconds: float
    ) -> Completion:
        """One response, or its beginning if it was aborted. `rid` must be the request's own.

        A request that takes too long is aborted.

        Raises:
            ServerError: no answer, or one that is not a response to this request.
            UserError: the server finds the request wrong, as every other would.
        """
        body = {"rid": rid, "input_ids": list(prompt_ids), "sampling_params": dict(sampling), "return_logprob": True}
        try:
            reply = await self.post("/generate", body, timeout_seconds)
        except ServerError as fault:
            if fault.status == 400:
                raise UserError(f"a generation request was refused by {fault}") from fault
            if fault.status is None:
                await self.abort(rid)
            raise
        return self._completion(reply, rid, len(prompt_ids), sampling["max_new_tokens"])

    async def prompt_log_probs(self, token_ids: Sequence[int], timeout_seconds: float) -> list[float]:
        """Log-probs (temperature 1) of all tokens but the first, each given those before it."""
        body = {
            "input_ids": list(token_ids),
            "sampling_params": {"max_new_tokens": 0, "temperature": 1.0},
            "return_logprob": True,
            "logprob_start_len": 0,
        }
        reply = await self.post("/generate", body, timeout_seconds)
        try:
            triples = reply["meta_info"]["input_token_logprobs"][1:]
            log_probs = [float(triple[0]) for triple in triples]
            scored = [triple[1] for triple in triples]
        except (KeyError, IndexError, TypeError, ValueError) as error:
            raise self._nonsense(reply) from error
        if scored != list(token_ids[1:]):
            raise self._nonsense(reply)
        return log_probs

    async def version(self) -> str:
        """The version of its weights."""
        for path in ("/model_info", "/get_model_info"):
            try:
                reply = await self._request("GET", path, None, _SHORT_SECONDS)
                return _version(reply["weight_version"])
            except ServerError as fault:
                if fault.status != 404:
                    raise
            except (KeyError, TypeError) as error:
                raise self._nonsense(reply) from error
        raise ServerError(self.url, "is not an SGLang server, or one without weight versions")

    async def ready(self) -> bool:
        """Whether it takes requests. Asks nothing to be generated."""
        try:
            await self.version()
        except ServerError:
            return False
        return True

    async def post(self, path: str, body: Mapping[str, Any] | bytes, timeout_seconds: float) -> Any:
        """The decoded answer to a request (None if it is empty or plain text).

        Raises:
            ServerError: no answer in time, another status than 200, or `success` false.
            UserError: the API key is wrong.
        """
        return await self._request("POST", path, body, timeout_seconds)

    async def _request(
        self, method: str, path: str, body: Mapping[str, Any] | bytes | None, timeout_seconds: float
    ) -> Any:
        data = body if isinstance(body, bytes | None) else json.dumps(body).encode()
        limit = aiohttp.ClientTimeout(total=timeout_seconds, sock_connect=min(timeout_seconds, _SHORT_SECONDS))
        try:
            async with self._session.request(
                method, self.url + path, data=data, headers=self._headers, timeout=limit, allow_redirects=False
            ) as answer:
                status, content = answer.status, await _read(answer)
        except TimeoutError as error:
            raise ServerError(self.url, f"no answer to {path} within {timeout_seconds:g} s") from error
        except (aiohttp.ClientError, OSError) as error:
            raise ServerError(self.url, f"{path}: {error or type(error).__name__}") from error
        if len(content) > _MOST_BYTES:
            raise ServerError(self.url, f"{path}: the answer does not end within {_MOST_BYTES >> 20} MiB")
        reply = _decoded(content)
        if status in (401, 403):
            raise UserError(f"{self.url} asks for another API key: set rollout.servers.api_key_file")
        if status != 200 or (isinstance(reply, dict) and reply.get("success") is False):
            said = one_line(content[:_LONGEST_SAID].decode(errors="replace").strip().replace("\n", " "))
            raise ServerError(self.url, f"{path} answered {status}: {said}", status)
        return reply

    async def abort(self, rid: str) -> None:
        """Have a request ended, and what it holds freed, if the server listens."""
        with contextlib.suppress(ServerError):
            await self.post("/abort_request", {"rid": rid}, _SHORT_SECONDS)

    def _completion(self, reply: Any, rid: str, prompt_tokens: int, max_new_tokens: int) -> Completion:
        """Check that a reply is a response to the request `rid`, consistent, and whole unless it was aborted."""
        try:
            meta = reply["meta_info"]
            completion = Completion(
                token_ids=[int(token) for token in reply["output_ids"]],
                log_probs=[float(triple[0]) for triple in meta["output_token_logprobs"]],
                finish=meta["finish_reason"]["type"],
                version=_version(meta["weight_version"]),
                spans=_spans(meta),
            )
            scored = [triple[1] for triple in meta["output_token_logprobs"]]
            fits = meta["id"] == rid and scored == completion.token_ids
            # One that is aborted before its turn comes does not bear the length of its prompt.
            fits = fits and (completion.finish == "abort" or meta["prompt_tokens"] == prompt_tokens)
        except (KeyError, IndexError, TypeError, ValueError) as error:
            raise self._nonsense(reply) from error
        size = len(completion.token_ids)
        whole = 1 <= size <= max_new_tokens and (completion.finish == "stop" or size == max_new_tokens)
        if completion.finish == "abort":
            whole = size <= max_new_tokens
        covered = completion.spans is None or sum(count for _, count in completion.spans) == size
        if not fits or not whole or not covered or completion.finish not in ("stop", "length", "abort"):
            raise self._nonsense(reply)
        return completion

    def _nonsense(self, reply: Any) -> ServerError:
        return ServerError(self.url, f"the answer is not to what was asked: {one_line(str(reply)[:_LONGEST_SAID])}")


def _spans(meta: Mapping[str, Any]) -> tuple[tuple[str, int], ...] | None:
    """The spans of versions, one after the other without a gap; None from a server that does not tell them."""
    if meta.get("weight_versions") is None:
        return None
    spans: list[tuple[str, int]] = []
    end = 0
    for span in meta["weight_versions"]:
        if span["start"] != end or span["end"] < end:
            raise ValueError(f"a span of versions begins at {span['start']}, the one before ends at {end}")
        if span["end"] > end:
            spans.append((_version(span["version"]), int(span["end"]) - end))
        end = int(span["end"])
    return tuple(spans)


def _version(named: object) -> str:
    """The name of a version, which is shown."""
    return one_line(str(named)[:_LONGEST_SAID])


async def _read(answer: aiohttp.ClientResponse) -> bytes:
    """The answer, or somewhat more than `_MOST_BYTES` of it."""
    content = bytearray()
    async for part in answer.content.iter_any():
        content += part
        if len(content) > _MOST_BYTES:
            break
    return bytes(content)


def _decoded(content: bytes) -> Any:
    try:
        return json.loads(content)
    except (ValueError, RecursionError):
        return None
