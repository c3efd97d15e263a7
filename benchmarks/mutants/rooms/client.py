"""Faults in the client of SGLang servers."""

from __future__ import annotations

from benchmarks.mutants.mutant import Mutant

_CLIENT = "rollout/test_client_in_process.py::"

MUTANTS: tuple[Mutant, ...] = (
    Mutant(
        "rollout/client.py",
        "ServerClient.generate",
        "if fault.status is None:",
        "if fault.status is not None:",
        (_CLIENT + "test_a_request_that_takes_too_long_is_aborted",),
    ),
    Mutant(
        "rollout/client.py",
        "ServerClient.prompt_log_probs",
        '["input_token_logprobs"][1:]',
        '["input_token_logprobs"][:-1]',
        (_CLIENT + "test_prompt_log_probs",),
    ),
    Mutant(
        "rollout/client.py",
        "ServerClient.version",
        "fault.status != 404",
        "fault.status == 404",
        (_CLIENT + "test_the_version_is_asked_for_by_its_older_name_too",),
    ),
    Mutant(
        "rollout/client.py",
        "ServerClient._request",
        "status in (401, 403)",
        "status == 403",
        (_CLIENT + "test_what_every_server_would_refuse_is_the_users_error",),
    ),
    Mutant(
        "rollout/client.py",
        "ServerClient._completion",
        'meta["id"] == rid and scored',
        "scored",
        (_CLIENT + "test_what_is_no_answer_is_an_error_of_the_server",),
    ),
    Mutant(
        "rollout/client.py",
        "_spans",
        'int(span["end"]) - end',
        'int(span["end"])',
        (_CLIENT + "test_what_is_in_flight_goes_on_with_new_weights",),
    ),
    Mutant(
        "rollout/sglang/engine.py",
        "_sampling_parameters",
        "sampling.max_response_tokens - done",
        "sampling.max_response_tokens",
        (_CLIENT + "test_what_is_cut_off_goes_on_later",),
    ),
    Mutant(
        "rollout/sglang/engine.py",
        "_sampling_parameters",
        "if top_k == 1 and sampling.temperature:",
        "if top_k == 0 and sampling.temperature:",
        (_CLIENT + "test_settings_of_sampling_are_sent",),
    ),
    Mutant(
        "rollout/sglang/engine.py",
        "SGLangEngine._one",
        ", *response.so_far.response_ids.tolist()]",
        "]",
        (_CLIENT + "test_what_is_cut_off_goes_on_later",),
    ),
    Mutant(
        "rollout/sglang/engine.py",
        "SGLangEngine._versions",
        "self._weight_versions[asked_at:]",
        "self._weight_versions[asked_at + 1 :]",
        (_CLIENT + "test_responses_are_complete_and_each_group_has_one_home",),
    ),
    Mutant(
        "rollout/sglang/in_flight.py",
        "InFlight._cut_off",
        "aborts.append(client.abort(rid))",
        "aborts.append(asyncio.sleep(0))",
        (_CLIENT + "test_what_is_cut_off_goes_on_later",),
    ),
    Mutant(
        "rollout/sglang/partial_response.py",
        "extend",
        'if len(tokens) == max_tokens else "abort"',
        'if len(tokens) > max_tokens else "abort"',
        (
            _CLIENT + "test_responses_are_complete_and_each_group_has_one_home",
            "rollout/test_in_flight.py",
        ),
    ),
    Mutant(
        "rollout/sglang/partial_response.py",
        "extend",
        "[so_far.rollout_log_probs, log_probs]",
        "[log_probs, so_far.rollout_log_probs]",
        (_CLIENT + "test_what_is_cut_off_goes_on_later",),
    ),
    Mutant(
        "rollout/sglang/server_pool.py",
        "ServerPool.ask",
        "stop_after_attempt(self.attempts)",
        "stop_after_attempt(1)",
        (_CLIENT + "test_what_has_failed_is_asked_of_another_server",),
    ),
    Mutant(
        "rollout/sglang/server_pool.py",
        "ServerPool._slot",
        "if choice is failed and len(up) > 1:",
        "if choice is failed and len(up) > 2:",
        (_CLIENT + "test_what_has_failed_is_asked_of_another_server",),
    ),
    Mutant(
        "rollout/sglang/memory.py",
        "ServerMemory.resume",
        "await client.version() != version",
        "await client.version() == version",
        (_CLIENT + "test_memory_is_given_up_by_idle_servers_and_taken_again",),
    ),
    Mutant(
        "rollout/sglang/router.py",
        "RouterClient.abort",
        "await asyncio.gather(*(server.abort(rid) for server in self._servers))",
        "await super().abort(rid)",
        (_CLIENT + "test_an_abort_gives_what_there_is_also_behind_a_router",),
    ),
)
