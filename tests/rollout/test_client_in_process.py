"""The client of servers over a stand-in in this process: each of its functions, in a second or two altogether.

1. A client takes an answer that is one to its request, says what is wrong with any other, and has a late one aborted.
2. An engine's responses have the log-probs of the weights that they claim, also across an update and in parts.
3. Weights arrive bit for bit by each way; a server that lacks them gets no prompt.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Iterator
from contextlib import ExitStack
from dataclasses import replace
from pathlib import Path
from typing import Any

import aiohttp
import pytest
import torch
from stand_in.sglang import generating

from aspo_megatron.config import SamplingConfig
from aspo_megatron.errors import UserError
from aspo_megatron.rollout.client import Completion, ServerClient, ServerError
from aspo_megatron.rollout.engine import ServersLostError
from aspo_megatron.rollout.sglang.engine import SGLangEngine
from aspo_megatron.rollout.sglang.router import RouterClient
from aspo_megatron.rollout.weight_sync.checksums import weight_checksums
from aspo_megatron.rollout.weight_sync.transports import DistributedTransport

from .conftest import COUNTS, KEY, RAGGED, Policy, ask, assert_complete, sglang_engine
from .in_process import InProcessServer, in_process_servers
from .proxy import Proxy
from .test_across_updates import assert_tokens_are_of_their_versions, flat
from .test_weight_sync import WAYS, other_weights, served

pytestmark = pytest.mark.parametrize("policy", ["llama"], indirect=True)

SHORT = SamplingConfig(max_response_tokens=6)
LONG = SamplingConfig(max_response_tokens=60)
SAMPLING = {"max_new_tokens": 3, "temperature": 1.0, "stop_token_ids": []}
PROMPT = RAGGED[0]
RID = "c" * 32


@pytest.fixture(scope="module")
def running(policy: Policy) -> Iterator[list[InProcessServer]]:
    """Two servers, with the policy's weights."""
    policy.tokenizer.save_pretrained(policy.folder)
    with in_process_servers([policy.folder] * 2, KEY) as servers:
        yield servers
    assert [server.died for server in servers] == [0, 0]


@pytest.fixture
def proxies(running: list[InProcessServer]) -> Iterator[list[Proxy]]:
    """One before each."""
    with ExitStack() as stack:
        made = [Proxy(server.url) for server in running]
        for proxy in made:
            stack.callback(proxy.close)
        yield made


@pytest.fixture
def slow(monkeypatch: pytest.MonkeyPatch) -> pytest.MonkeyPatch:
    """Tokens take a tenth of a second each, until this is undone: whatever a test does comes before the end."""
    monkeypatch.setattr(generating, "_SECONDS", 0.1)
    return monkeypatch


def await_tokens(running: list[InProcessServer], proxies: list[Proxy], count: int) -> None:
    """Wait until `count` requests have come, and each that is open has a token."""
    until = time.monotonic() + 60
    while time.monotonic() < until:
        rows = [row for server in running for row in list(server.server._generating._rows)]
        if sum(len(proxy.bodies) for proxy in proxies) >= count and rows and all(row.tokens for row in rows):
            return
        time.sleep(0.02)


@pytest.fixture
def engine(policy: Policy, proxies: list[Proxy]) -> Iterator[SGLangEngine]:
    """Over the proxies, with the policy's weights as version 7."""
    engine = sglang_engine(policy, [proxy.url for proxy in proxies], max_failures=1)
    try:
        engine.update_weights(policy.weights.items(), version=7)
        yield engine
    finally:
        engine.close()


def asked(url: str, call: Any, key: str = KEY) -> Any:
    """What `call` gives of a client."""

    async def run() -> Any:
        async with aiohttp.ClientSession() as session:
            return await call(ServerClient(url, session, key))

    return asyncio.run(run())


def generated(url: str, seconds: float = 20.0, **sampling: Any) -> Completion:
    found: Completion = asked(url, lambda client: client.generate(RID, PROMPT, SAMPLING | sampling, seconds))
    return found


# ---- 1. one client ---------------------------------------------------------------------------------------------


def test_a_completion_is_what_was_asked_for(proxies: list[Proxy]) -> None:
    found = generated(proxies[0].url + "/")
    (body,) = proxies[0].bodies
    assert (body["rid"], body["input_ids"], body["sampling_params"]) == (RID, PROMPT, SAMPLING)
    assert (len(found.token_ids), len(found.log_probs), found.finish) == (3, 3, "length")
    assert found.spans == ((found.version, 3),)
    every = list(range(97))
    assert generated(proxies[0].url, stop_token_ids=every).finish == "stop"
    proxies[0].fault = "aborted"
    assert generated(proxies[0].url).finish == "abort"
    proxies[0].fault = "older"
    assert generated(proxies[0].url).spans is None


WRONG = ["short", "reordered", "foreign", "gap", "few", "prompt", "empty", "list", "refused", "500", "drop"]


@pytest.mark.parametrize("fault", WRONG)
def test_what_is_no_answer_is_an_error_of_the_server(proxies: list[Proxy], fault: str) -> None:
    proxies[0].fault = fault
    with pytest.raises(ServerError, match=r"^http://127\.0\.0\.1:\d+: ") as caught:
        generated(proxies[0].url)
    assert caught.value.status == {"500": 500, "refused": 200}.get(fault)


def test_a_request_that_takes_too_long_is_aborted(proxies: list[Proxy]) -> None:
    proxies[0].fault = "hang"
    with pytest.raises(ServerError, match=r"no answer to /generate within 0\.2 s"):
        generated(proxies[0].url, 0.2)
    assert proxies[0].paths == ["/generate", "/abort_request"]
    proxies[0].fault, proxies[0].paths = "500", []
    with pytest.raises(ServerError):
        generated(proxies[0].url)
    assert proxies[0].paths == ["/generate"]  # a server that has answered has nothing left to abort


def test_what_every_server_would_refuse_is_the_users_error(proxies: list[Proxy]) -> None:
    with pytest.raises(UserError, match=r"a generation request was refused by .* answered 400: .*top_p"):
        generated(proxies[0].url, top_p=2.0)
    for key in ("", "another"):
        with pytest.raises(UserError, match="api_key_file"):
            asked(proxies[0].url, lambda client: client.version(), key)


def test_the_version_is_asked_for_by_its_older_name_too(proxies: list[Proxy]) -> None:
    proxies[0].version = "three"
    assert asked(proxies[0].url, lambda client: client.version()) == "three"
    proxies[0].version, proxies[0].fault, proxies[0].at = "", "404", "/model_info"
    with pytest.raises(ServerError, match="is not an SGLang server"):
        asked(proxies[0].url, lambda client: client.version())
    assert proxies[0].paths[-2:] == ["/model_info", "/get_model_info"]
    assert not asked(proxies[0].url, lambda client: client.ready())
    proxies[0].fault, proxies[0].paths = "500", []
    with pytest.raises(ServerError, match="500"):
        asked(proxies[0].url, lambda client: client.version())
    assert proxies[0].paths == ["/model_info"]


def test_an_abort_gives_what_there_is_also_behind_a_router(
    running: list[InProcessServer], proxies: list[Proxy], slow: pytest.MonkeyPatch
) -> None:
    proxies[1].fault, proxies[1].at = "404", "/abort_request"

    async def run(session: aiohttp.ClientSession) -> Completion:
        servers = [ServerClient(server.url, session, KEY) for server in running]
        front = RouterClient(proxies[1].url, session, KEY, servers)
        asking = asyncio.create_task(front.generate("a" * 32, PROMPT, SAMPLING | {"max_new_tokens": 200}, 20.0))
        while not any(row.tokens for row in running[1].server._generating._rows):
            await asyncio.sleep(0.01)
        await front.abort("b" * 32)
        assert not asking.done()
        await front.abort("a" * 32)
        return await asking

    async def connected() -> Completion:
        async with aiohttp.ClientSession() as session:
            return await run(session)

    found = asyncio.run(connected())
    assert found.finish == "abort"
    assert 0 < len(found.token_ids) == len(found.log_probs) < 200


# ---- 2. an engine ----------------------------------------------------------------------------------------------


def test_responses_are_complete_and_each_group_has_one_home(
    engine: SGLangEngine, proxies: list[Proxy], policy: Policy
) -> None:
    assert_complete(engine.generate(ask(RAGGED, COUNTS), SHORT), policy, version=7)
    assert sorted(len(proxy.answered) for proxy in proxies) == [5, 7]


def test_settings_of_sampling_are_sent(engine: SGLangEngine, proxies: list[Proxy], policy: Policy) -> None:
    sampling = replace_in(SHORT, temperature=0.8, top_p=0.9, top_k=1, stop=("zz",))
    groups = engine.generate(ask([PROMPT], [2]), sampling)
    expected = policy.log_probs(groups[0][0], 0.8)
    assert expected.argmax(dim=1).tolist() == groups[0][0].response_ids.tolist()
    found = torch.tensor(groups[0][0].rollout_log_probs)
    torch.testing.assert_close(found, expected.max(dim=1).values, rtol=0, atol=1e-5)
    sent = [body["sampling_params"] for proxy in proxies for body in proxy.bodies]
    assert [(s["stop"], s["stop_token_ids"], s["skip_special_tokens"]) for s in sent] == [(["zz"], [2, 5], False)] * 2
    engine.generate(ask([PROMPT], [1]), replace_in(SHORT, top_p=0.5))
    last = next(s for proxy in proxies for s in (body["sampling_params"] for body in proxy.bodies) if s not in sent)
    assert (last["max_new_tokens"], last["top_p"], last["top_k"]) == (6, 0.5, -1)


def replace_in(sampling: SamplingConfig, **settings: Any) -> SamplingConfig:
    return SamplingConfig.model_validate(sampling.model_dump() | settings)


@pytest.mark.parametrize("fault", ["500", "aborted", "stale", "mixed"])
def test_a_wrong_answer_is_asked_for_elsewhere(
    engine: SGLangEngine, proxies: list[Proxy], policy: Policy, fault: str
) -> None:
    proxies[0].fault = fault
    assert_complete(engine.generate(ask(RAGGED, COUNTS), SHORT), policy, version=7)
    assert len(set(proxies[1].answered)) == sum(COUNTS)
    asked_before = len(proxies[0].bodies)
    assert_complete(engine.generate(ask(RAGGED, COUNTS), SHORT), policy, version=7)
    assert len(proxies[0].bodies) == asked_before  # it is left out


def test_what_has_failed_is_asked_of_another_server(policy: Policy, proxies: list[Proxy]) -> None:
    engine = sglang_engine(policy, [proxy.url for proxy in proxies], max_failures=1000, attempts=2)
    try:
        engine.update_weights(policy.weights.items(), version=7)
        proxies[1].fault = "500"
        assert_complete(engine.generate(ask(RAGGED, COUNTS), SHORT), policy, version=7)
        proxies[0].fault = "500"
        with pytest.raises(ServersLostError, match=r"asked for 2 times, .* answered 500"):
            engine.generate(ask(RAGGED, COUNTS), SHORT)
    finally:
        engine.close()


def test_what_is_in_flight_goes_on_with_new_weights(
    engine: SGLangEngine,
    running: list[InProcessServer],
    proxies: list[Proxy],
    policy: Policy,
    slow: pytest.MonkeyPatch,
) -> None:
    weights = {7: policy.weights, 8: other_weights(policy, 8)}
    generation = engine.start(ask(RAGGED, [4] * 5), LONG)
    await_tokens(running, proxies, 20)
    engine.update_weights(weights[8].items(), version=8)
    slow.undo()
    samples = flat(generation.finish())
    assert_tokens_are_of_their_versions(policy, samples, weights)
    assert {version for sample in samples for version, _ in sample.versions} >= {8}
    assert sum(len(proxy.answered) for proxy in proxies) == 20  # none was asked for twice
    assert any(len(sample.versions) == 2 for sample in samples)


def test_a_server_that_does_not_tell_versions_apart_is_asked_again(
    engine: SGLangEngine,
    running: list[InProcessServer],
    proxies: list[Proxy],
    policy: Policy,
    slow: pytest.MonkeyPatch,
) -> None:
    for proxy in proxies:
        proxy.fault = "older"
    assert_versions(engine, 7)
    generation = engine.start(ask([PROMPT], [6]), LONG)
    await_tokens(running, proxies, 3 + 6)
    engine.update_weights(policy.weights.items(), version=8)
    slow.undo()
    assert all(len(sample.versions) == 1 for sample in flat(generation.finish()))
    assert sum(len(proxy.bodies) for proxy in proxies) > 3 + 6


def assert_versions(engine: SGLangEngine, version: int) -> None:
    samples = flat(engine.generate(ask(RAGGED[:3], [1] * 3), SHORT))
    assert {sample.versions for sample in samples} == {((version, len(sample.response_ids)),) for sample in samples}


def test_what_is_cut_off_goes_on_later(
    engine: SGLangEngine,
    running: list[InProcessServer],
    proxies: list[Proxy],
    policy: Policy,
    slow: pytest.MonkeyPatch,
) -> None:
    requests = ask(RAGGED, [3] * 5)
    generation = engine.start(requests, LONG, enough=0)
    await_tokens(running, proxies, 15)
    groups = generation.finish()
    slow.undo()
    begun = [sample for group in groups for sample in group if sample.finish_reason == "abort"]
    assert len(begun) > 10
    assert sum(len(part.response_ids) > 0 for part in begun) > 5
    assert_tokens_are_of_their_versions(policy, [s for s in flat(groups) if len(s.response_ids)], {7: policy.weights})
    again = [replace(request, begun=tuple(group)) for request, group in zip(requests, groups, strict=True)]
    weights = {7: policy.weights, 8: other_weights(policy, 8)}
    engine.update_weights(weights[8].items(), version=8)
    finished = engine.generate(again, LONG)
    for one, other in zip(flat(groups), flat(finished), strict=True):
        assert other.response_ids[: len(one.response_ids)].tolist() == one.response_ids.tolist()
        assert other.finish_reason in ("stop", "length")
        assert len(other.response_ids) <= 60
    assert_tokens_are_of_their_versions(policy, flat(finished), weights)


def test_prompt_log_probs(engine: SGLangEngine, proxies: list[Proxy], policy: Policy) -> None:
    ids = RAGGED[4]
    logits = policy.model(input_ids=torch.tensor([ids])).logits[0, :-1].float()
    expected = torch.log_softmax(logits, dim=-1).gather(1, torch.tensor(ids[1:])[:, None])[:, 0]
    found = engine.prompt_log_probs(ids)
    assert sorted(found) == sorted(proxy.url for proxy in proxies)
    for log_probs in found.values():
        torch.testing.assert_close(torch.tensor(log_probs), expected, rtol=0, atol=1e-5)
    proxies[0].fault = "500"
    assert list(engine.prompt_log_probs(ids)) == [proxies[1].url]
    proxies[0].fault, proxies[0].answered = "", []
    assert flat(engine.generate(ask(RAGGED, COUNTS), SHORT))
    assert proxies[0].answered == []  # it is left out until the next sync


def test_memory_is_given_up_by_idle_servers_and_taken_again(
    engine: SGLangEngine, proxies: list[Proxy], running: list[InProcessServer], policy: Policy
) -> None:
    engine.release_memory()
    assert [server.server._released for server in running] == [{"weights", "kv_cache"}] * 2
    engine.resume_memory("weights")
    assert [server.server._released for server in running] == [{"kv_cache"}] * 2
    engine.update_weights(policy.weights.items(), version=8)
    engine.resume_memory("kv_cache")
    engine.resume_memory("kv_cache")  # which they have
    assert [server.server._released for server in running] == [set()] * 2
    assert_versions(engine, 8)
    engine.release_memory()
    for server in running:
        server.server._released = set()  # started anew
    proxies[0].version = proxies[1].version = "default"
    engine.resume_memory("weights")
    engine.resume_memory("kv_cache")
    assert [server.died for server in running] == [0, 0]


def test_servers_as_they_are(engine: SGLangEngine, proxies: list[Proxy], policy: Policy) -> None:
    other = sglang_engine(policy, [proxy.url for proxy in proxies])
    try:
        assert other.adopt() == engine._weight_versions[-1][0]
        assert_versions(other, 0)
        proxies[1].version = "another"
        with pytest.raises(UserError, match=r"different versions: .* another"):
            other.adopt()
        proxies[1].fault, proxies[1].at, proxies[1].version = "500", "/model_info", ""
        assert other.adopt() == engine._weight_versions[-1][0]
        proxies[1].answered = []
        assert_versions(other, 0)
        assert proxies[1].answered == []
    finally:
        other.close()


# ---- 3. weights ------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("way", list(WAYS))
def test_weights_arrive_bit_for_bit_in_small_buckets(
    policy: Policy, running: list[InProcessServer], way: str, tmp_path: Path
) -> None:
    engine = sglang_engine(policy, [server.url for server in running], WAYS[way](policy, tmp_path))
    engine._config = engine._config.model_copy(update={"bucket_mib": 0})  # a tensor in each
    try:
        for version in (8, 9):
            weights = other_weights(policy, version)
            assert engine.update_weights(weights.items(), version) == {
                "sync/bytes": float(sum(tensor.nbytes for tensor in weights.values())),
                "sync/servers": 2.0,
            }
            for server in running:
                assert server.server._version == f"{engine._run}-{version}"
                for name, tensor in weights.items():
                    assert torch.equal(server.server._weights._tensors[name], tensor), name
            assert served(engine)[0] == served(engine)[1]
    finally:
        engine.close()


def test_a_server_that_was_started_without_weights_gets_them_from_a_folder(policy: Policy, tmp_path: Path) -> None:
    server = InProcessServer(policy.folder, KEY, random=True)
    engine = sglang_engine(policy, [server.url], WAYS["disk"](policy, tmp_path))
    try:
        engine.update_weights(policy.weights.items(), version=8)
        for name, tensor in policy.weights.items():
            assert torch.equal(server.server._weights._tensors[name], tensor), name
    finally:
        engine.close()
        server.close()


@pytest.mark.parametrize(
    ("at", "fault"),
    [
        ("/pause_generation", "500"),
        ("/begin_weight_update", "500"),
        ("/update_weights_from_distributed", "500"),
        ("/end_weight_update", "500"),
        ("/update_weight_version", "refused"),
        ("/continue_generation", "drop"),
        ("/model_info", "500"),
    ],
)
def test_a_server_without_the_weights_gets_no_prompt_until_it_has_them(
    policy: Policy, proxies: list[Proxy], at: str, fault: str
) -> None:
    transport = DistributedTransport("gloo", 1, 10.0)
    engine = sglang_engine(policy, [proxy.url for proxy in proxies], transport)
    try:
        proxies[0].fault, proxies[0].at = fault, at
        assert engine.update_weights(policy.weights.items(), version=8)["sync/servers"] == 1
        assert_versions(engine, 8)
        assert proxies[0].answered == []
        proxies[0].fault = ""
        assert engine.update_weights(policy.weights.items(), version=9)["sync/servers"] == 2
        assert_versions(engine, 9)
        assert proxies[0].answered
        assert not transport._groups
    finally:
        engine.close()


def test_a_server_that_names_another_version_is_not_asked(policy: Policy, proxies: list[Proxy]) -> None:
    engine = sglang_engine(policy, [proxy.url for proxy in proxies])
    try:
        proxies[1].version = "another"
        assert engine.update_weights(policy.weights.items(), version=8)["sync/servers"] == 1
        proxies[0].version = "another"
        with pytest.raises(ServersLostError, match=r"none of .* accepted the weights"):
            engine.update_weights(policy.weights.items(), version=9)
    finally:
        engine.close()


def test_one_bit_of_one_weight_is_found_out(engine: SGLangEngine, running: list[InProcessServer]) -> None:
    assert len(engine.prompt_log_probs(PROMPT)) == 2
    name = "model.layers.1.mlp.down_proj.weight"
    running[1].server._weights._tensors[name].view(torch.int32)[3, 5] ^= 1
    with pytest.raises(UserError, match=r"have other weights after the same sync, .*layers\.1\.mlp\.down_proj"):
        engine.prompt_log_probs(PROMPT)
    assert asked(running[1].url, lambda client: weight_checksums(client, 9.0)) != []
