"""The model card of an exported model: where it comes from, in numbers."""

from __future__ import annotations

import json
import re

import yaml

from aspo_megatron import __version__
from aspo_megatron.config import RunConfig
from aspo_megatron.folders import checkpoint_around
from aspo_megatron.foreign_text import markdown, one_line

_TEXT = """---
library_name: transformers
pipeline_tag: text-generation
base_model: {yaml_base}
tags:
- {loss}
- reinforcement-learning
---

# {name}

{base} after {step} of {steps} steps of reinforcement learning with aspo-megatron {version}.

| | |
|---|---|
| loss | {loss} |
| problems | {problems} |
| responses a step | {prompts} prompts x {responses} |
| learning rate | {lr:g} |
| KL to the starting model | {kl:g} |
| tokens trained on | {tokens:,} |
| weights | {dtype} |
| layout | {layout} |
| seed | {seed} |
{heldout}
The run's whole configuration:

```json
{config}
```
"""


def model_card(
    config: RunConfig, step: int, tokens: int, heldout_before: float | None, heldout_after: float | None
) -> str:
    """README.md of the model after `step` steps. Accuracies are from 0 to 1."""
    accuracies = {"held-out accuracy before": heldout_before, "held-out accuracy at the last evaluation": heldout_after}
    base = one_line((checkpoint_around(config.model.path) or config.model.path).name)
    source, parallel = config.data.train, config.parallel
    return _TEXT.format(
        name=markdown(f"{base}, {config.loss.name}, step {step}"),
        yaml_base=_yaml(base),
        base=markdown(base) if "`" in base else f"`{one_line(base)}`",
        step=step,
        steps=config.train.steps,
        version=__version__,
        loss=config.loss.name,
        problems=markdown(f"{source.kind} {source.family or source.path}"),
        prompts=config.rollout.prompts_per_step,
        responses=config.rollout.responses_per_prompt,
        lr=config.optimizer.lr,
        kl=config.loss.kl_coef,
        tokens=tokens,
        dtype=config.model.dtype,
        layout=f"tp {parallel.tp}, pp {parallel.pp}, cp {parallel.cp}, dp {parallel.dp}, ep {parallel.ep}",
        seed=config.seed,
        heldout="".join(f"| {name} | {value:.1%} |\n" for name, value in accuracies.items() if value is not None),
        config=json.dumps(config.model_dump(mode="json", exclude={"output_dir", "platform", "log"}), indent=1),
    )


def _yaml(text: str) -> str:
    """A text as a value in YAML, without quotes where it needs none."""
    plain = re.fullmatch(r"[A-Za-z][\w.-]*", text, re.ASCII) and isinstance(yaml.safe_load(text), str)
    return text if plain else json.dumps(one_line(text), ensure_ascii=False)
