"""Supervised training on reference answers, for a model that starts from nothing."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np
from torch import Tensor
from transformers import PreTrainedTokenizerBase

from aspo_megatron.config import RunConfig
from aspo_megatron.data.decoding import encode
from aspo_megatron.data.packing import PackedBatch
from aspo_megatron.data.samples import Problem, Sample
from aspo_megatron.data.split_over_ranks import Dealer
from aspo_megatron.inputs.warmup_answers import imitated, imitated_text
from aspo_megatron.losses import LossOutput, Stat
from aspo_megatron.metrics.progress import ProgressDisplay
from aspo_megatron.parallel.model.policy import PolicyModel
from aspo_megatron.parallel.update.objective import PlainObjective
from aspo_megatron.parallel.update.optimizer import Optimizer
from aspo_megatron.parallel.update.passes import PassLimits
from aspo_megatron.parallel.update.step import update


def warm_up(
    model: PolicyModel,
    config: RunConfig,
    problems: Sequence[Problem] | Dealer,
    tokenizer: PreTrainedTokenizerBase,
    progress: ProgressDisplay,
    stopped: Callable[[], bool],
) -> PolicyModel | None:
    """A copy of `model` after `warmup.updates` supervised updates; `model` itself is used up.

    `stopped` is a collective, asked before each update: whether to give up, which returns None.
    """
    topology = model.topology
    optimizer = Optimizer(
        model,
        config.optimizer.model_copy(update={"lr": config.warmup.lr, "schedule": "constant", "warmup_updates": 0}),
        config.warmup.updates,
        config.parallel,
    )
    limits = PassLimits.of(config.train, temperature=1.0)
    stream = imitated(problems, config.seed)
    loss = 0.0
    for number in range(config.warmup.updates):
        if stopped():
            return None
        progress.phase(f"warm-up {number + 1}/{config.warmup.updates}, loss {loss:.3f}")
        batch = stream.take(config.warmup.batch_size)[topology.dp.rank :: topology.dp.size]
        groups = [[_imitation(problem, config.warmup.response, tokenizer)] for problem in batch]
        loss = update(model, optimizer, groups, _IMITATION, _each_token_counts_one, limits).loss
    return model.copy()


def _negative_log_likelihood(batch: PackedBatch, log_probs: Tensor, entropy: Tensor) -> LossOutput:
    return LossOutput(-log_probs, {"loss/warmup": Stat(-log_probs, batch.mask)})


_IMITATION = PlainObjective(_negative_log_likelihood, token_wise=True)


def _each_token_counts_one(sample: Sample) -> tuple[float, float]:
    return 1.0, float(len(sample.response_ids))


def _imitation(problem: Problem, response: str, tokenizer: PreTrainedTokenizerBase) -> Sample:
    """The reference answer as if it had been sampled, with the end-of-sequence token if there is one."""
    end = [] if tokenizer.eos_token_id is None else [tokenizer.eos_token_id]
    ids = np.array([*encode(tokenizer, imitated_text(problem, response)), *end], dtype=np.int64)
    return Sample(
        problem_id=problem.id,
        group=0,
        prompt_ids=np.array(problem.prompt_ids, dtype=np.int64),
        response_ids=ids,
        response_mask=np.ones(len(ids), dtype=np.bool_),
        rollout_log_probs=np.zeros(len(ids), dtype=np.float32),
        weight_version=0,
        finish_reason="stop",
    )
