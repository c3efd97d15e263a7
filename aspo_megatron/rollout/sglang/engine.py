"""Generation by SGLang servers. Each rank asks for its own prompts' responses; the leader sends the weights."""

from __future__ import annotations

import asyncio
import uuid
from collections.abc import Iterable, Mapping, Sequence
from functools import partial
from typing import Any

import aiohttp
from torch import Tensor
from transformers import PreTrainedTokenizerBase

from aspo_megatron.config import SamplingConfig, ServersConfig
from aspo_megatron.data.samples import Sample, VersionSpan
from aspo_megatron.errors import AgreedError, UserError
from aspo_megatron.foreign_text import plain_logger
from aspo_megatron.parallel.grid.exchange import from_leader, rank
from aspo_megatron.rollout.client import Completion, ServerClient, ServerError
from aspo_megatron.rollout.engine import MemoryTag, Request, ServersLostError, WhenComplete, checked
from aspo_megatron.rollout.loop_thread import LoopThread
from aspo_megatron.rollout.rounds import in_rounds
from aspo_megatron.rollout.sglang.generation import SGLangGeneration
from aspo_megatron.rollout.sglang.in_flight import InFlight, Response
from aspo_megatron.rollout.sglang.memory import ServerMemory
from aspo_megatron.rollout.sglang.partial_response import empty_response, extend
from aspo_megatron.rollout.sglang.router import RouterClient
from aspo_megatron.rollout.sglang.server_pool import ServerPool
from aspo_megatron.rollout.stop_rule import StopRule
from aspo_megatron.rollout.weight_sync.checksums import disagreement
from aspo_megatron.rollout.weight_sync.session import SyncResult, Transport, sync_weights

logger = plain_logger(__name__)

_PATIENCE_SECONDS = 1.0
_LIKELIEST_ONLY = 1e-9


class SGLangEngine:
    """A `RolloutEngine` of one or many servers. A response's seed has no say here: servers draw as they please.

    All methods but `start` are collectives of the ranks, where there are several.
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
        self._session, self._pool = self._loop.run(self._connect(urls, api_key))
        # What the servers call their weights, and which version these are, in order. `_newest` is the place of those
        # that they have; one more may be on its way.
        self._weight_versions: list[tuple[str, int]] = [("-1", -1)]
        self._newest = 0
        self._run = ""  # in the names of versions: another run on these servers calls its weights otherwise
        self._in_flight: list[InFlight] = []
        self._memory = ServerMemory(self._loop)

    def close(self) -> None:
        """End the connections; what is in flight is given up."""
        for generation in self._in_flight:
            generation.cancel()
        self._loop.run(self._session.close())
        self._loop.close()

    def update_weights(self, tensors: Iterable[tuple[str, Tensor]], version: int) -> dict[str, float]:
        """See `RolloutEngine`. A server that failed before is given another chance.

        Responses in flight go on: what comes of them from now on is made by the new weights. Those of a server that
        does not take these are asked for elsewhere.
        """
        self._run = self._run or from_leader(uuid.uuid4().hex[:8])
        name = f"{self._run}-{version}"
        self._weight_versions.append((name, version))
        result = SyncResult((), 0)
        drawn = checked(tensors, self._sizes)
        if rank() == 0:
            bucket_bytes = self._config.bucket_mib << 20
            result = sync_weights(self._loop, self._pool.clients, self._transport, drawn, name, bucket_bytes)
        else:
            for _ in drawn:
                pass
        result = from_leader(result)
        self._mark_up(result.urls)
        self._newest = len(self._weight_versions) - 1
        if not result.urls:
            raise ServersLostError(f"none of {self._names()} accepted the weights; their answers are above")
        return {"sync/bytes": float(result.weight_bytes), "sync/servers": float(len(result.urls))}

    def adopt(self) -> str:
        """Ask the servers as they are, in place of `update_weights`. A collective.

        Returns:
            The version that they name their weights by; an answer by others is not used.

        Raises:
            ServersLostError: none answers.
            UserError: they do not all name the same version.
        """

        async def ask() -> tuple[dict[str, str], list[str]]:
            clients = self._pool.clients
            found = await asyncio.gather(*(client.version() for client in clients), return_exceptions=True)
            versions: dict[str, str] = {}
            faults: list[str] = []
            for client, answer in zip(clients, found, strict=True):
                if isinstance(answer, str):
                    versions[client.url] = answer
                elif isinstance(answer, ServerError):
                    faults.append(str(answer))
                else:
                    raise answer
            return versions, faults

        versions, faults = from_leader(self._loop.run(ask()) if rank() == 0 else ({}, []))
        if not versions:
            raise ServersLostError("; ".join(faults))
        if len(set(versions.values())) > 1:
            named = ", ".join(f"{url} {version}" for url, version in versions.items())
            raise UserError(f"the servers have weights of different versions: {named}")
        self._mark_up(list(versions))
        name = next(iter(versions.values()))
        self._weight_versions.append((name, 0))
        self._newest = len(self._weight_versions) - 1
        return name

    def generate(self, requests: Sequence[Request], sampling: SamplingConfig) -> list[list[Sample]]:
        """See `RolloutEngine`."""
        return self.start(requests, sampling).finish()

    def start(
        self,
        requests: Sequence[Request],
        sampling: SamplingConfig,
        enough: int | None = None,
        when_complete: WhenComplete | None = None,
    ) -> SGLangGeneration:
        """See `RolloutEngine`."""
        for request in requests:
            wrong = [token for token in request.problem.prompt_ids if not 0 <= token < self._vocab_size]
            if wrong:
                raise UserError(
                    f"problem {request.problem.id}: its prompt has token {wrong[0]}, the model has {self._vocab_size}"
                )
        rule = StopRule(self._end_ids, sampling.stop, self._tokenizer)
        # Those of a group have one home, which then has the prompt in its cache.
        responses = [
            [Response(request, home, so_far) for so_far in request.begun or [empty_response(request)] * request.count]
            for home, request in enumerate(requests, start=rank())
        ]
        self._in_flight = [generation for generation in self._in_flight if not generation.done]
        generate = partial(self._one, sampling=sampling, rule=rule)
        generation = InFlight(self._loop, responses, generate, enough, when_complete)
        self._in_flight.append(generation)
        return SGLangGeneration(generation, self._config.attempts, self._names())

    def release_memory(self) -> None:
        """See `RolloutEngine`. A server that does not is left out until the next sync."""
        released = from_leader(self._memory.release(self._pool.up) if rank() == 0 else [])
        self._mark_up(released)

    def resume_memory(self, what: MemoryTag) -> None:
        """See `RolloutEngine`. Servers that were started anew since have theirs."""
        if rank() == 0:
            self._memory.resume(what, self._weight_versions[self._newest][0])
        from_leader(None)

    def prompt_log_probs(self, token_ids: Sequence[int]) -> dict[str, list[float]]:
        """See `RolloutEngine`."""

        async def one(client: ServerClient) -> list[float] | None:
            try:
                return await client.prompt_log_probs(token_ids, self._config.request_timeout_seconds)
            except ServerError as error:
                logger.warning("%s; it gets no more requests until it was given weights again", error)
                return None

        async def ask() -> tuple[dict[str, list[float]], str | None]:
            clients = self._pool.up
            found = await asyncio.gather(*map(one, clients))
            answers = {c.url: log_probs for c, log_probs in zip(clients, found, strict=True) if log_probs is not None}
            return answers, await disagreement(clients, self._config.sync_timeout_seconds)

        answers, odd = from_leader(self._loop.run(ask()) if rank() == 0 else ({}, None))
        if odd is not None:
            raise AgreedError(odd)
        self._mark_up(list(answers))
        if not answers:
            raise ServersLostError(f"none of {self._names()} computes log-probs; their answers are above")
        return answers

    def await_servers(self, seconds: float) -> bool:
        """Whether some server answers within `seconds`."""

        async def wait(seconds: float) -> bool:
            async def one(client: ServerClient) -> None:
                await asyncio.sleep(_PATIENCE_SECONDS)  # one that answers may refuse all the same
                while not await client.ready():
                    await asyncio.sleep(_PATIENCE_SECONDS)

            waiting = [asyncio.ensure_future(one(client)) for client in self._pool.clients]
            done, pending = await asyncio.wait(waiting, timeout=seconds, return_when=asyncio.FIRST_COMPLETED)
            for task in pending:
                task.cancel()
            return bool(done)

        return in_rounds(lambda most: from_leader(self._loop.run(wait(most)) if rank() == 0 else False), seconds)

    async def _connect(self, urls: Sequence[str], api_key: str | None) -> tuple[aiohttp.ClientSession, ServerPool]:
        # A connection for each request: one that is kept may be closed by the server just as it is used again.
        session = aiohttp.ClientSession(connector=aiohttp.TCPConnector(limit=0, force_close=True))
        clients = [ServerClient(url, session, api_key) for url in urls]
        config = self._config
        router = RouterClient(config.router, session, api_key, clients) if config.router else None
        return session, ServerPool(clients, config.concurrency, config.max_failures, config.attempts, router)

    def _mark_up(self, urls: Sequence[str]) -> None:
        async def mark_up() -> None:
            self._pool.mark_up(urls)

        self._loop.run(mark_up())

    async def _one(self, response: Response, sampling: SamplingConfig, rule: StopRule) -> Sample:
        """A response, made whole; or more of it, if it is cut off meanwhile."""
        prompt = [*response.request.problem.prompt_ids, *response.so_far.response_ids.tolist()]
        parameters = _sampling_parameters(sampling, self._end_ids, len(response.so_far.response_ids))

        async def ask(client: ServerClient) -> tuple[Completion, list[VersionSpan]]:
            asked_at = self._newest
            rid = uuid.uuid4().hex  # of a fixed length: servers abort by prefix
            with response.asking(client, rid):
                completion = await client.generate(rid, prompt, parameters, self._config.request_timeout_seconds)
            if completion.finish == "abort" and not response.cut:
                raise ServerError(client.url, "a response was aborted")
            return completion, self._versions(completion, asked_at, client.url)

        completion, spans = await self._pool.ask(response.home, ask)
        return extend(response.so_far, completion, spans, rule, sampling.max_response_tokens)

    def _versions(self, completion: Completion, asked_at: int, url: str) -> list[VersionSpan]:
        """The versions of a response's tokens: that in which it was asked for, and those that came meanwhile.

        Raises:
            ServerError: others made them, or it is not said which made which.
        """
        possible = self._weight_versions[asked_at:]
        spans = completion.spans
        if spans is None:
            if len(set(possible)) > 1:
                raise ServerError(url, "does not say which weights have made which token of a response")
            spans = ((completion.version, len(completion.token_ids)),)
        known = dict(possible)
        if not all(name in known for name, _ in spans):
            named = ", ".join(name for name, _ in spans)
            raise ServerError(url, f"answers with weights of version {named}, not {' or '.join(known)}")
        return [(known[name], count) for name, count in spans]

    def _names(self) -> str:
        return ", ".join(client.url for client in self._pool.clients)


def _sampling_parameters(sampling: SamplingConfig, end_ids: frozenset[int], done: int) -> dict[str, Any]:
    """As servers name them, for a response of which `done` tokens are there."""
    top_p, top_k = sampling.top_p, sampling.top_k or -1
    if top_k == 1 and sampling.temperature:
        # Servers take this for greedy, and would give log-probs at temperature 1.
        top_p, top_k = _LIKELIEST_ONLY, -1
    return {
        "max_new_tokens": sampling.max_response_tokens - done,
        "temperature": sampling.temperature,
        "top_p": top_p,
        "top_k": top_k,
        "stop": list(sampling.stop),
        "stop_token_ids": sorted(end_ids),
        "skip_special_tokens": False,
    }
