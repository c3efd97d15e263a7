"""The recipes against the ASPO paper, arXiv 2510.06062 version 2, and the scripts that its authors released.

The scripts are run_archer2.0_qwen2.5_1.5b_math.sh and ..._code.sh of github.com/wizard-III/Archer2.0, commit b08d963;
`code` is what that repository does without a flag. `open` marks what neither says of this model: the value is a choice,
which the recipe's README explains.
"""

from __future__ import annotations

import functools
import os
import subprocess
from pathlib import Path
from typing import Any

import pytest

from aspo_megatron import losses
from aspo_megatron.config import RunConfig
from aspo_megatron.config.io import load_config

EXAMPLES = Path(__file__).parents[2] / "examples"
QWEN3 = ("qwen3_4b/run.yaml", "qwen3_8b/run.yaml", "qwen3_30b_a3b/run.yaml")
MATH, CODE = "deepseek_r1_distill_qwen_1_5b/run.yaml", "deepseek_r1_distill_qwen_1_5b/code.yaml"
Settings = dict[str, tuple[Any, str]]
"""A value and its source, by key."""

EVERY: Settings = {
    "rollout.prompts_per_step": (64, "section 7.1; train_batch_size"),
    "train.prompts_per_update": (16, "section 7.1; ppo_mini_batch_size"),
    "rollout.responses_per_prompt": (16, "appendix B; rollout.n"),
    "rollout.sampling.temperature": (1.0, "appendix B; rollout.temperature"),
    "rollout.sampling.top_p": (1.0, "rollout.top_p"),
    "rollout.sampling.top_k": (0, "rollout.top_k -1, which is all"),
    "data.max_prompt_tokens": (2048, "max_prompt_length"),
    "data.system": (None, "open"),
    "loss.dual_clip": (3.0, "section 6 has no constant; code"),
    "loss.aggregation": ("seq-mean-token-mean", "equation (1); code"),
    "loss.kl_coef": (0.001, "appendix B; kl_loss_coef"),
    "loss.kl_estimator": ("k3", "appendix B; kl_loss_type low_var_kl"),
    "loss.kl_tokens": ("all", "appendix B"),
    "loss.entropy_coef": (0.0, "entropy_coeff"),
    "loss.rollout_correction": ("none", "none is named"),
    "shaping.kl_coef": (0.0, "use_kl_in_reward False"),
    "shaping.mask_truncated": (False, "enable_overlong_filter False"),
    "advantage.baseline": ("group", "section 3.1; adv_estimator grpo"),
    "advantage.scale": ("group", "section 3.1; adv_estimator grpo"),
    "optimizer.lr": (1e-6, "section 7.1; optim.lr"),
    "optimizer.schedule": ("constant", "code: constant after the warm-up"),
    "optimizer.weight_decay": (0.1, "optim.weight_decay"),
    "optimizer.clip_grad": (1.0, "grad_clip"),
    "optimizer.beta1": (0.9, "code: AdamW's default"),
    "optimizer.beta2": (0.999, "code: AdamW's default"),
    "train.old_log_probs": ("auto", "code: by a pass of the trainer, which auto is with SGLang"),
    "rollout.engine": ("sglang", "open; vLLM there"),
    "rollout.overlap": ("none", "code: generation and training take turns"),
    "warmup.updates": (0, "no supervised training is named"),
}
OF_QWEN3: Settings = {
    "data.chat_template_kwargs": ({"enable_thinking": False}, "section 7.1, footnote 1: non-thinking"),
    "data.train.path": ("open-r1/DAPO-Math-17k-Processed", "appendix B: DAPO-Math-17K; which copy is open"),
    "data.train.subset": ("all", "appendix B: directly, hence English and Chinese"),
    "data.train.prompt_field": ("prompt", "the copy's"),
    "data.train.answer_field": ("solution", "the copy's"),
    "reward.kind": ("math", "appendix B"),
    "loss.name": ("aspo", "section 6"),
    "loss.eps_low": (0.2, "appendix B"),
    "loss.eps_high": (0.2, "appendix B"),
    "rollout.dynamic_sampling": ("off", "none is named"),
    "shaping.overlong_tokens": (0, "none is named"),
    "train.epochs": (1, "open: passes are not named, and the scripts' three are of 1.5B"),
    "optimizer.warmup_updates": (40, "open: lr_warmup_steps 10, in rollouts of four updates"),
    "train.steps": (400, "open: figures 2 and 5 to 8"),
}
OF_SCRIPTS: Settings = {
    "data.chat_template_kwargs": ({}, "the model's template has no switch"),
    "data.on_bad": ("drop", "filter_overlong_prompts True"),
    "loss.name": ("aspo-released", "use_archer_policy_loss True"),
    "loss.eps_low_entropy": (0.2, "low_entropy_clip_ratio_low, _high; code"),
    "loss.eps_high_entropy": (0.4, "high_entropy_clip_ratio_low, _high; code"),
    "loss.quantile": (0.8, "token_entropy_quantile; code"),
    "rollout.sampling.max_response_tokens": (32768, "appendix B; max_response_length"),
    "rollout.dynamic_sampling": ("drop", "rejection_sample True; without asking others"),
    "shaping.overlong_tokens": (16, "overlong_buffer.len"),
    "shaping.overlong_penalty": (1.0, "overlong_buffer.penalty_factor"),
    "train.epochs": (3, "ppo_epochs"),
    "optimizer.warmup_updates": (120, "lr_warmup_steps 10, in rollouts of twelve updates"),
}
OF_ONE: dict[str, Settings] = {
    QWEN3[0]: {"rollout.sampling.max_response_tokens": (8192, "appendix B"), "gpus": (8, "appendix B")},
    QWEN3[1]: {"rollout.sampling.max_response_tokens": (6144, "appendix B"), "gpus": (8, "appendix B")},
    QWEN3[2]: {"rollout.sampling.max_response_tokens": (8192, "appendix B"), "gpus": (32, "appendix B")},
    MATH: {
        "reward.kind": ("math", "appendix B"),
        "train.steps": (520, "open: arXiv 2507.15778, table 6"),
        "gpus": (8, "appendix B; nnodes 1, n_gpus_per_node 8"),
    },
    CODE: {
        "reward.kind": ("code", "appendix B"),
        "train.steps": (320, "open: arXiv 2507.15778, table 6"),
        "gpus": (8, "appendix B; nnodes 1, n_gpus_per_node 8"),
    },
}


def settings(recipe: str) -> Settings:
    return EVERY | (OF_QWEN3 if recipe in QWEN3 else OF_SCRIPTS) | OF_ONE[recipe]


def of(run: RunConfig, key: str) -> Any:
    """What a run has for a key; of a loss's hyperparameters with their defaults."""
    if key == "gpus":
        servers = run.rollout.servers
        return run.parallel.world_size + (run.slurm.server_nodes or 1) * servers.count * servers.tp
    section, _, name = key.partition(".")
    if section == "loss" and not hasattr(run.loss, name):
        return getattr(losses.build(run.loss.name, run.loss.hyperparameters), name)
    found: Any = run
    for part in key.split("."):
        found = getattr(found, part)
    return found


@functools.cache
def loaded(recipe: str) -> RunConfig:
    return load_config(EXAMPLES / recipe)


@pytest.mark.parametrize(
    ("recipe", "key"),
    [pytest.param(recipe, key, id=f"{recipe}-{key}") for recipe in OF_ONE for key in settings(recipe)],
)
def test_the_recipe_has_the_paper_s_value(recipe: str, key: str) -> None:
    value, source = settings(recipe)[key]
    assert of(loaded(recipe), key) == value, source


def test_the_baselines_are_evaluated_in_the_paper_s_mode(tmp_path: Path) -> None:
    """Section 7.1, footnote 1: all Qwen3 models without thinking. The templates of the others have no switch."""
    stand_in, told = tmp_path / "aspo", tmp_path / "told"
    stand_in.write_text('#!/bin/sh\n(printf \'%s\\t\' "$@"; echo) >>"$TOLD"\n')
    stand_in.chmod(0o755)
    script = EXAMPLES / "paper_baselines" / "evaluate.sh"
    environment = {**os.environ, "PATH": f"{tmp_path}:{os.environ['PATH']}", "TOLD": str(told)}
    subprocess.run(["sh", script, "eval.samples=1"], env=environment, check=True)
    commands = [line.split("\t") for line in told.read_text().splitlines()]
    evaluated = {words[1]: words for words in commands if words[0] == "eval"}
    assert {model for model in evaluated if "Qwen3" in model} == {
        f"Qwen/Qwen3-{size}" for size in ("4B", "8B", "30B-A3B")
    }
    for model, words in evaluated.items():
        assert ("data.chat_template_kwargs={enable_thinking: false}" in words) == ("Qwen3" in model)
        assert "eval.samples=1" in words
    assert [words[3] for words in commands if words[0] == "table"] == ["on", "off"]
