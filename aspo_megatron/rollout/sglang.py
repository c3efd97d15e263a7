"""Generation by SGLang servers. Each rank asks for its own prompts' responses; the leader sends the weights."""

from __future__ import annotations

import asyncio
import logging
import uuid
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import aiohttp
import numpy as np
from torch import Tensor
from transformers import PreTrainedTokenizerBase

from aspo_megatron.config import SamplingConfig, ServersConfig
from aspo_megatron.data.samples import FinishReason, Sample
from aspo_megatron.errors import UserError
from aspo_megatron.parallel.exchange import from_leader, gather, rank
from aspo_megatron.rollout.ends import EndRule
from aspo_megatron.rollout.engine import Request, ServersLostError, checked
from aspo_megatron.rollout.fleet import Fleet, NoServerError
from aspo_megatron.rollout.loop_thread import LoopThread
from aspo_megatron.rollout.server_client import Completion, ServerClient, ServerError
from aspo_megatron.rollout.weight_sync import SyncResult, Transport, sync_weights

logger = logging.getLogger(__name__)

_PATIENCE_SECONDS = 1.0
_ROUND_SECONDS = 20.0
_LIKELIEST_ONLY = 1e-9


class SGLangEngine:
    """A `RolloutEngine` of one or many servers. A response's seed has no say here: servers draw as they please.

    All methods are collectives of the ranks, where there are several.
    """

    def __init__(
        self,
        config: ServersConfig,
        urls: Sequence[str],
        transport: Transport,
        sizes: Mapping[str, tuple[int, ...]],
        vocab_size: int,
        end_ids: frozenset[int],
        tokenizer: PreTrainedTokenizerBase,
        api_key: str | None = None,
    ) -> None:
        """The servers get no request before `update_weights`.

        Args:
            config: limits.
            urls: the servers, the same on all ranks.
            transport: how weights get to them.
            sizes: of all tensors of the model, by Hugging Face name.
            vocab_size: a token id beyond it would end a server.
            end_ids: tokens that end a response.
            tokenizer: decodes, to find stop texts.
            api_key: the servers' key.
        """
        self._config, self._transport, self._sizes = config, transport, sizes
        self._vocab_size, self._end_ids, self._tokenizer = vocab_size, end_ids, tokenizer
        self._loop = LoopThread("sglang requests")
        self._session, self._fleet = self._loop.run(self._connect(urls, api_key))
        self._version = -1

    def close(self) -> None:
        """End the connections."""
        self._loop.run(self._session.close())
        self._loop.close()

    def update_weights(self, tensors: Iterable[tuple[str, Tensor]], version: int) -> dict[str, float]:
        """See `RolloutEngine`. A server that failed before is given another chance."""
        result = SyncResult((), 0)
        drawn = checked(tensors, self._sizes)
        if rank() == 0:
            bucket_bytes = self._config.bucket_mib << 20
            result = sync_weights(self._loop, self._fleet.clients, self._transport, drawn, version, bucket_bytes)
        else:
            for _ in drawn:
                pass
        result = from_leader(result)
        self._fleet.set_up(result.urls)
        self._version = version
        if not result.urls:
            raise ServersLostError(f"none of {self._names()} took the weights; what they answered is above")
        return {"sync/bytes": float(result.weight_bytes), "sync/servers": float(len(result.urls))}

    def generate(self, requests: Sequence[Request], sampling: SamplingConfig) -> list[list[Sample]]:
        """See `RolloutEngine`."""
        for request in requests:
            wrong = [token for token in request.problem.prompt_ids if not 0 <= token < self._vocab_size]
            if wrong:
                raise UserError(
                    f"problem {request.problem.id}: its prompt has token {wrong[0]}, the model has {self._vocab_size}"
                )
        groups: list[list[Sample]] = []
        lost: str | None = None
        try:
            groups = self._loop.run(self._generate(requests, sampling))
        except NoServerError:
            lost = "all servers have failed"
        except ServerError as fault:
            lost = f"a response was asked for {self._config.attempts} times, the last time of {fault}"
        reasons = [reason for reason in gather(lost) if reason is not None]
        if reasons:
            raise ServersLostError(f"{reasons[0]} ({self._names()})")
        return groups

    def prompt_log_probs(self, token_ids: Sequence[int]) -> dict[str, list[float]]:
        """See `RolloutEngine`."""

        async def one(client: ServerClient) -> list[float] | None:
            try:
                return await client.prompt_log_probs(token_ids, self._config.request_timeout_seconds)
            except ServerError as error:
                logger.warning("%s; it gets no more requests until it was given weights again", error)
                return None

        async def ask() -> dict[str, list[float]]:
            urls = [client.url for client in self._fleet.up]
            found = await asyncio.gather(*map(one, self._fleet.up))
            return {url: log_probs for url, log_probs in zip(urls, found, strict=True) if log_probs is not None}

        answers = from_leader(self._loop.run(ask()) if rank() == 0 else {})
        self._fleet.set_up(list(answers))
        if not answers:
            raise ServersLostError(f"none of {self._names()} computes log-probs; what they answered is above")
        return answers

    def await_servers(self, seconds: float) -> bool:
        """Whether some server answers within `seconds`."""

        async def wait() -> bool:
            async def one(client: ServerClient) -> None:
                await asyncio.sleep(_PATIENCE_SECONDS)  # one that answers may refuse all the same
                while not await client.ready():
                    await asyncio.sleep(_PATIENCE_SECONDS)

            waiting = [asyncio.ensure_future(one(client)) for client in self._fleet.clients]
            done, pending = await asyncio.wait(
                waiting, timeout=min(seconds, _ROUND_SECONDS), return_when=asyncio.FIRST_COMPLETED
            )
            for task in pending:
                task.cancel()
            return bool(done)

        # In rounds, as the other ranks' patience with a collective has an end.
        rounds = max(1, round(seconds / _ROUND_SECONDS))
        return any(from_leader(self._loop.run(wait()) if rank() == 0 else False) for _ in range(rounds))

    async def _connect(self, urls: Sequence[str], api_key: str | None) -> tuple[aiohttp.ClientSession, Fleet]:
        # A connection for each request: one that is kept may be closed by the server just as it is used again.
        session = aiohttp.ClientSession(connector=aiohttp.TCPConnector(limit=0, force_close=True))
        clients = [ServerClient(url, session, api_key) for url in urls]
        return session, Fleet(clients, self._config.concurrency, self._config.max_failures, self._config.attempts)

    async def _generate(self, requests: Sequence[Request], sampling: SamplingConfig) -> list[list[Sample]]:
        rule = EndRule(self._end_ids, sampling.stop, self._tokenizer)
        parameters = _sampling_parameters(sampling, self._end_ids)
        tasks = [
            asyncio.ensure_future(self._one(request, home, parameters, rule))
            for home, request in enumerate(requests, start=rank())
            for _ in range(request.count)
        ]
        try:
            samples = iter(await asyncio.gather(*tasks))
        except BaseException:
            for task in tasks:
                task.cancel()
            await asyncio.gather(*tasks, return_exceptions=True)
            raise
        return [[next(samples) for _ in range(request.count)] for request in requests]

    async def _one(self, request: Request, home: int, parameters: Mapping[str, Any], rule: EndRule) -> Sample:
        """One response. Those of a group have one home, which then has the prompt in its cache."""
        prompt = request.problem.prompt_ids

        async def ask(client: ServerClient) -> Completion:
            rid = uuid.uuid4().hex  # of a fixed length: servers abort by prefix
            completion = await client.generate(rid, prompt, parameters, self._config.request_timeout_seconds)
            if completion.versions != (str(self._version),):
                versions = ", ".join(completion.versions)
                raise ServerError(client.url, f"answers with weights of version {versions}, not {self._version}")
            return completion

        completion = await self._fleet.ask(home, ask)
        tokens = completion.token_ids
        # A server calls it `length` when the limit falls on the end token.
        finish: FinishReason = "stop" if completion.finish == "stop" or rule.ends(tokens) else "length"
        return Sample(
            problem_id=request.problem.id,
            group=request.group,
            prompt_ids=np.array(prompt, dtype=np.int64),
            response_ids=np.array(tokens, dtype=np.int64),
            response_mask=np.ones(len(tokens), dtype=np.bool_),
            rollout_log_probs=np.array(completion.log_probs, dtype=np.float32),
            weight_version=self._version,
            finish_reason=finish,
        )

    def _names(self) -> str:
        return ", ".join(client.url for client in self._fleet.clients)


def _sampling_parameters(sampling: SamplingConfig, end_ids: frozenset[int]) -> dict[str, Any]:
    top_p, top_k = sampling.top_p, sampling.top_k or -1
    if top_k == 1 and sampling.temperature:
        # Servers take this for greedy, and would give log-probs at temperature 1.
        top_p, top_k = _LIKELIEST_ONLY, -1
    return {
        "max_new_tokens": sampling.max_response_tokens,
        "temperature": sampling.temperature,
        "top_p": top_p,
        "top_k": top_k,
        "stop": list(sampling.stop),
        "stop_token_ids": sorted(end_ids),
        "skip_special_tokens": False,
    }
