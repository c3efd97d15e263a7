"""What every rollout engine must do, checked against transformers: see `RolloutEngine`.

1. A response's log-probs are log_softmax(logits / T) of the full distribution, whatever top-p and top-k keep.
2. Tokens follow that distribution, cut to what top-p and top-k keep; greedy takes the likeliest.
3. A response depends on its request's seed and on nothing that is generated beside it.
4. It ends with an end token or a stop text, which it includes (`stop`), or at the limit (`length`).
5. Weights are replaced as a whole, or the update is refused.
6. Who wants to know is told of each request as it is complete.
"""

from __future__ import annotations

import math

import pytest
import torch
from thorough import some_of

from aspo_megatron.config import SamplingConfig
from aspo_megatron.data.samples import Sample
from aspo_megatron.errors import CheckpointError
from aspo_megatron.rollout.engine import Request, RolloutEngine
from aspo_megatron.rollout.sglang.engine import SGLangEngine

from .conftest import COUNTS, END, OTHER_END, RAGGED, EngineMaker, Policy, ask

LENGTH = 24


DRAWS_BY_SEED = pytest.mark.parametrize("make_engine", ["embedded"], indirect=True)
"""SGLang draws as it pleases."""


def flat(groups: list[list[Sample]]) -> list[Sample]:
    return [sample for group in groups for sample in group]


def tokens(groups: list[list[Sample]]) -> list[list[int]]:
    return [sample.response_ids.tolist() for sample in flat(groups)]


def assert_log_probs_are_the_references(policy: Policy, samples: list[Sample], temperature: float) -> None:
    for sample in samples:
        expected = policy.log_probs(sample, temperature).gather(1, torch.tensor(sample.response_ids)[:, None])[:, 0]
        torch.testing.assert_close(torch.tensor(sample.rollout_log_probs), expected, rtol=0, atol=1e-5)


# ---- 1. log-probs ----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("temperature", [0.6, 1.0, 1.7])
def test_log_probs_are_those_of_the_reference(engine: RolloutEngine, policy: Policy, temperature: float) -> None:
    sampling = SamplingConfig(max_response_tokens=LENGTH, temperature=temperature)
    assert_log_probs_are_the_references(policy, flat(engine.generate(ask(RAGGED, COUNTS), sampling)), temperature)


@pytest.mark.parametrize(("top_p", "top_k"), [(0.4, 0), (1.0, 5), (0.7, 12), (0.1, 1)])
def test_truncated_sampling_keeps_full_log_probs_and_draws_from_the_kept_tokens(
    engine: RolloutEngine, policy: Policy, top_p: float, top_k: int
) -> None:
    sampling = SamplingConfig(max_response_tokens=LENGTH, temperature=0.8, top_p=top_p, top_k=top_k)
    samples = flat(engine.generate(ask(RAGGED, COUNTS), sampling))
    assert_log_probs_are_the_references(policy, samples, 0.8)
    for sample in samples:
        probs = policy.log_probs(sample, 0.8).exp()
        own = probs.gather(1, torch.tensor(sample.response_ids)[:, None])
        likelier = probs > own
        assert (likelier.sum(dim=1) < (top_k or math.inf)).all()
        # Top-p keeps the fewest likeliest tokens that reach it: those before a kept one fall short of it.
        assert ((probs * likelier).sum(dim=1) < top_p + 1e-6).all()


def test_greedy_takes_the_likeliest_and_gives_log_probs_at_temperature_one(
    engine: RolloutEngine, policy: Policy
) -> None:
    groups = engine.generate(ask(RAGGED, COUNTS), SamplingConfig(max_response_tokens=LENGTH, temperature=0.0))
    assert_log_probs_are_the_references(policy, flat(groups), 1.0)
    for group in groups:
        assert policy.log_probs(group[0], 1.0).argmax(dim=1).tolist() == group[0].response_ids.tolist()
        assert all(sample.response_ids.tolist() == group[0].response_ids.tolist() for sample in group)


# ---- 2. distribution -------------------------------------------------------------------------------------------


DRAWN = [(1.0, 1.0, 0), (0.5, 1.0, 0), (1.0, 0.5, 0), (1.0, 1.0, 8)]


@pytest.mark.parametrize(("temperature", "top_p", "top_k"), some_of(DRAWN, [DRAWN[0], DRAWN[3]]))
def test_tokens_are_drawn_with_their_probabilities(
    engine: RolloutEngine, policy: Policy, temperature: float, top_p: float, top_k: int
) -> None:
    count = 400 if isinstance(engine, SGLangEngine) else 4000  # a response is a request
    sampling = SamplingConfig(max_response_tokens=1, temperature=temperature, top_p=top_p, top_k=top_k)
    (group,) = engine.generate(ask([RAGGED[0]], [count]), sampling)
    probs, order = policy.log_probs(group[0], temperature)[0].double().exp().sort(descending=True)
    kept = probs.cumsum(0) - probs < top_p
    if top_k:
        kept[top_k:] = False
    expected = torch.zeros_like(probs).scatter(0, order, probs * kept) / probs[kept].sum()
    drawn = torch.bincount(torch.tensor([int(s.response_ids[0]) for s in group]), minlength=len(expected))
    possible = expected > 0
    assert drawn[~possible].sum() == 0
    chi_squared = ((drawn - count * expected)[possible] ** 2 / (count * expected[possible])).sum().item()
    freedom = int(possible.sum()) - 1
    assert chi_squared < freedom + 4 * math.sqrt(2 * freedom)  # mean and four standard deviations


# ---- 3. requests, groups, seeds --------------------------------------------------------------------------------


def test_groups_come_in_the_order_of_requests_and_bear_their_numbers(engine: RolloutEngine) -> None:
    requests = ask(RAGGED, COUNTS)
    groups = engine.generate(requests, SamplingConfig(max_response_tokens=LENGTH))
    assert [len(group) for group in groups] == COUNTS
    for request, group in zip(requests, groups, strict=True):
        for sample in group:
            assert (sample.problem_id, sample.group) == (request.problem.id, request.group)
            assert sample.prompt_ids.tolist() == list(request.problem.prompt_ids)
            size = len(sample.response_ids)
            assert 1 <= size <= LENGTH
            assert len(sample.rollout_log_probs) == size
            assert sample.response_mask.tolist() == [True] * size


def test_each_request_is_told_of_once_with_the_list_that_is_given_later(engine: RolloutEngine) -> None:
    told: dict[int, list[Sample]] = {}

    def tell(request: Request, samples: list[Sample]) -> None:
        assert request.group not in told
        told[request.group] = samples

    requests = ask(RAGGED, COUNTS)
    sampling = SamplingConfig(max_response_tokens=LENGTH)
    groups = engine.start(requests, sampling, when_complete=tell).finish()
    for request, group in zip(requests, groups, strict=True):
        assert told[request.group] is group


def test_no_request_gives_no_group(engine: RolloutEngine) -> None:
    assert engine.generate([], SamplingConfig(max_response_tokens=LENGTH)) == []


@DRAWS_BY_SEED
def test_one_seed_gives_one_response_whatever_is_beside_it(make_engine: EngineMaker) -> None:
    requests, sampling = ask(RAGGED, COUNTS), SamplingConfig(max_response_tokens=LENGTH)
    engine = make_engine()
    together = engine.generate(requests, sampling)
    assert tokens(engine.generate(requests, sampling)) == tokens(together)
    assert tokens(engine.generate(requests[::-1], sampling)[::-1]) == tokens(together)
    assert tokens([engine.generate([request], sampling)[0] for request in requests]) == tokens(together)
    # Budgets that fit one prompt's responses, some, and not even one: then it is generated all the same.
    for budget in (150, 60, 1):
        assert tokens(make_engine(budget).generate(requests, sampling)) == tokens(together)
    fewer = [Request(r.problem, 1, r.seed, r.group) for r in requests]
    assert tokens(engine.generate(fewer, sampling)) == [group[0].response_ids.tolist() for group in together]


def test_seeds_and_responses_differ(engine: RolloutEngine) -> None:
    sampling = SamplingConfig(max_response_tokens=LENGTH)
    one = tokens(engine.generate(ask(RAGGED, COUNTS, seed=1), sampling))
    other = tokens(engine.generate(ask(RAGGED, COUNTS, seed=2), sampling))
    assert all(a != b for a, b in zip(one, other, strict=True))
    same_prompt = tokens(engine.generate(ask([RAGGED[0]] * 3, [4, 4, 4]), sampling))
    distinct = {tuple(ids) for ids in same_prompt}
    assert len(distinct) >= 9  # of 12: two may end at once, where servers draw by random numbers of their own


# ---- 4. ends ---------------------------------------------------------------------------------------------------


def test_responses_end_with_an_end_token_or_at_the_limit(engine: RolloutEngine) -> None:
    samples = flat(engine.generate(ask(RAGGED, [20] * 5), SamplingConfig(max_response_tokens=40)))
    for sample in samples:
        ids = sample.response_ids.tolist()
        assert not {END, OTHER_END} & set(ids[:-1])
        assert sample.finish_reason == ("stop" if ids[-1] in (END, OTHER_END) else "length")
        assert sample.finish_reason == "stop" or len(ids) == 40
    last = [sample.response_ids[-1] for sample in samples if sample.finish_reason == "stop"]
    assert {END, OTHER_END} == set(last)
    assert any(sample.finish_reason == "length" for sample in samples)


def test_an_end_token_in_the_last_place_is_a_stop(engine: RolloutEngine) -> None:
    (group,) = engine.generate(ask([RAGGED[0]], [400]), SamplingConfig(max_response_tokens=1))
    assert {s.finish_reason for s in group if s.response_ids[0] in (END, OTHER_END)} == {"stop"}
    assert {s.finish_reason for s in group if s.response_ids[0] not in (END, OTHER_END)} == {"length"}


@DRAWS_BY_SEED
@pytest.mark.parametrize("span", [1, 2, 20])
def test_a_stop_text_ends_the_response_with_the_token_that_completes_it(
    engine: RolloutEngine, policy: Policy, span: int
) -> None:
    """The stop text is the end of token 3 to the start of token 2 + `span` of a response that is known to come."""
    requests = ask(RAGGED, [4] * 5)
    free = flat(engine.generate(requests, SamplingConfig(max_response_tokens=40)))
    chosen = next(s for s in free if len(s.response_ids) > 24).response_ids.tolist()
    pieces = [policy.tokenizer.decode([token]) for token in chosen[3 : 3 + span]]
    stop = "".join([pieces[0][1:], *pieces[1:]])[: -1 if span > 1 else None]
    stopped = flat(engine.generate(requests, SamplingConfig(max_response_tokens=40, stop=("nowhere", stop))))
    for before, after in zip(free, stopped, strict=True):
        ids = before.response_ids.tolist()
        texts = [policy.tokenizer.decode(ids[: i + 1]) for i in range(len(ids))]
        length = next((i + 1 for i, text in enumerate(texts) if stop in text), None)
        assert after.response_ids.tolist() == ids[:length]
        assert after.finish_reason == ("stop" if length else before.finish_reason)
        assert after.rollout_log_probs.tolist() == pytest.approx(before.rollout_log_probs[:length].tolist(), abs=1e-5)
    assert any(len(after.response_ids) == 3 + span for after in stopped)


def test_a_stop_text_is_at_the_end_and_nowhere_before(engine: RolloutEngine, policy: Policy) -> None:
    stops = tuple(policy.tokenizer.decode([token]) for token in range(20, 50))
    samples = flat(engine.generate(ask(RAGGED, [8] * 5), SamplingConfig(max_response_tokens=6, stop=stops)))
    by_text = 0
    for sample in samples:
        ids = sample.response_ids.tolist()
        found = [any(stop in policy.tokenizer.decode(ids[: i + 1]) for stop in stops) for i in range(len(ids))]
        assert not any(found[:-1])
        assert sample.finish_reason == ("stop" if found[-1] or ids[-1] in (END, OTHER_END) else "length")
        by_text += found[-1]
    assert by_text > 10


# ---- 5. weights ------------------------------------------------------------------------------------------------


def test_samples_bear_the_version_of_the_weights_that_made_them(engine: RolloutEngine, policy: Policy) -> None:
    requests, sampling = ask(RAGGED, COUNTS), SamplingConfig(max_response_tokens=LENGTH)
    assert {sample.weight_version for sample in flat(engine.generate(requests, sampling))} == {7}
    engine.update_weights(policy.weights.items(), version=8)
    assert {sample.weight_version for sample in flat(engine.generate(requests, sampling))} == {8}


def test_every_weight_is_replaced(engine: RolloutEngine, policy: Policy) -> None:
    generator = torch.Generator().manual_seed(5)
    other = {n: t + 0.05 * torch.randn(t.shape, generator=generator) for n, t in policy.weights.items()}
    # As the trainer sends them: a stream of tensors, each made as it is asked for, in an order of its own.
    engine.update_weights(((name, other[name].clone()) for name in sorted(other)), version=9)
    sampling = SamplingConfig(max_response_tokens=LENGTH)
    samples = flat(engine.generate(ask(RAGGED, COUNTS), sampling))
    policy.load(other)
    try:
        assert_log_probs_are_the_references(policy, samples, 1.0)
    finally:
        policy.load(policy.weights)


def test_the_engine_keeps_no_hold_on_the_tensors_it_was_given(engine: RolloutEngine, policy: Policy) -> None:
    given = {name: tensor.clone() for name, tensor in policy.weights.items()}
    engine.update_weights(given.items(), version=8)
    for tensor in given.values():
        tensor.zero_()  # the trainer goes on training
    samples = flat(engine.generate(ask(RAGGED, COUNTS), SamplingConfig(max_response_tokens=LENGTH)))
    assert_log_probs_are_the_references(policy, samples, 1.0)


def test_prompt_log_probs_are_the_references(engine: RolloutEngine, policy: Policy) -> None:
    ids = RAGGED[4]
    copies = engine.prompt_log_probs(ids)
    logits = policy.model(input_ids=torch.tensor([ids])).logits[0, :-1].float()
    expected = torch.log_softmax(logits, dim=-1).gather(1, torch.tensor(ids[1:])[:, None])[:, 0]
    assert copies
    for found in copies.values():
        torch.testing.assert_close(torch.tensor(found), expected, rtol=0, atol=1e-5)


@pytest.mark.parametrize("mistake", some_of(["unknown", "missing", "shape", "none"], ["unknown", "shape"]))
def test_weights_that_do_not_fit_are_refused_by_name(engine: RolloutEngine, policy: Policy, mistake: str) -> None:
    name = "model.layers.1.self_attn.k_proj.weight"
    wrong = dict(policy.weights)
    if mistake == "unknown":
        wrong["model.layers.2.self_attn.k_proj.weight"] = wrong[name]
        words = "model.layers.2.self_attn.k_proj.weight"
    elif mistake == "missing":
        del wrong[name]
        words = name
    elif mistake == "shape":
        wrong[name] = wrong[name][:-1]
        words = name
    else:
        wrong = {}
        words = "model.norm.weight"
    with pytest.raises(CheckpointError, match=words.replace(".", r"\.")) as caught:
        engine.update_weights(wrong.items(), version=8)
    assert "\n" not in str(caught.value)
