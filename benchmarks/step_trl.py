"""TRL's side of `step.py`: `python step_trl.py TASK.json RESULT.json`, by a Python that has TRL.

It needs nothing of this project, and writes the tokens of each step and its seconds by phase.
"""

from __future__ import annotations

import json
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from datasets import Dataset
from transformers import TrainerCallback
from transformers.utils import logging
from trl import GRPOConfig, GRPOTrainer


def vowels(completions: list[str], **_: Any) -> list[float]:
    """As step_reward.vowels."""
    return [sum(text.count(letter) for letter in "aeiou") / max(len(text), 1) for text in completions]


class Clock(TrainerCallback):
    """Seconds of each optimizer step, and of phases inside it."""

    def __init__(self) -> None:
        self.steps: list[dict[str, float]] = []
        self.phases: dict[str, float] = {}
        self._began = 0.0

    def on_step_begin(self, *_: Any, **__: Any) -> None:
        """See TrainerCallback."""
        self._began = time.perf_counter()
        self.phases = dict.fromkeys(("generate", "generate_and_score"), 0.0)

    def on_step_end(self, *_: Any, **__: Any) -> None:
        """See TrainerCallback."""
        self.steps.append({"step": time.perf_counter() - self._began, **self.phases})

    def timed(self, name: str, function: Callable[..., Any]) -> Callable[..., Any]:
        """`function`, with its time added to a phase."""

        def run(*args: Any, **kwargs: Any) -> Any:
            began = time.perf_counter()
            try:
                return function(*args, **kwargs)
            finally:
                self.phases[name] = self.phases.get(name, 0.0) + time.perf_counter() - began

        return run


def main(task_path: str, result_path: str) -> None:
    """Run the task's steps, each of two optimizer steps."""
    task = json.loads(Path(task_path).read_text(encoding="utf-8"))
    torch.set_num_threads(task["threads"])
    logging.disable_progress_bar()
    problems = [json.loads(line) for line in Path(task["problems"]).read_text(encoding="utf-8").splitlines()]
    samples = task["prompts"] * task["responses"]
    config = GRPOConfig(
        output_dir=str(Path(result_path).parent / "trl"),
        use_cpu=True,
        bf16=False,
        per_device_train_batch_size=samples // 2,
        gradient_accumulation_steps=1,
        steps_per_generation=2,
        num_generations=task["responses"],
        num_iterations=1,
        max_steps=2 * task["steps"],
        max_completion_length=task["tokens"],
        temperature=1.0,
        beta=task["kl_coef"],
        learning_rate=task["lr"],
        lr_scheduler_type="constant",
        loss_type="grpo",
        gradient_checkpointing=False,
        shuffle_dataset=False,
        dataloader_pin_memory=False,
        model_init_kwargs={"dtype": "float32"},
        report_to="none",
        save_strategy="no",
        logging_steps=1,
        disable_tqdm=True,
        seed=1,
    )
    clock = Clock()
    trainer = GRPOTrainer(
        model=task["model"],
        reward_funcs=vowels,
        args=config,
        train_dataset=Dataset.from_list(problems),
        callbacks=[clock],
    )
    trainer._generate_and_score_completions = clock.timed("generate_and_score", trainer._generate_and_score_completions)
    trainer._generate = clock.timed("generate", trainer._generate)
    trainer.train()
    lengths = [
        entry["completions/mean_length"] for entry in trainer.state.log_history if "completions/mean_length" in entry
    ]
    steps = []
    for number in range(task["steps"]):
        first, second = clock.steps[2 * number : 2 * number + 2]
        both = {name: first[name] + second[name] for name in first}
        steps.append(
            {
                "tokens": round(samples * lengths[number]),  # logged once a generation, of all its samples
                "step": both["step"],
                "generate": both["generate"],
                "score": both["generate_and_score"] - both["generate"],
                "update": both["step"] - both["generate_and_score"],
            }
        )
    Path(result_path).write_text(json.dumps(steps), encoding="utf-8")


if __name__ == "__main__":
    main(*sys.argv[1:])
