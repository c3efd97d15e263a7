"""The run file that `aspo init` writes: what a newcomer sets, with reasons; other settings are commented out."""

from __future__ import annotations

import json
from dataclasses import dataclass

MATH_TEMPLATE = "{prompt}\n\nPlease reason step by step, and put your final answer within \\boxed{}."
CHOICE_TEMPLATE = (
    "{prompt}\n\nPlease reason step by step, and put the letter of your answer, and only that, within \\boxed{}."
)
CODE_TEMPLATE = "{prompt}\n\nWrite the program in Python, in one block between ```python and ```."

_FEW = 10
"""Problems, of fewer than which a tenth is none."""


@dataclass(frozen=True)
class Answers:
    """What a run file is made of.

    Attributes:
        output_dir: the run folder.
        model: the model's folder.
        download: the command that fetches it.
        chat: whether the model has a chat template.
        data: the file of problems.
        prompt_field: its field with the question.
        answer_field: its field with the answer; None if there is none.
        columns: the fields it has, in one line; none if it was not read.
        problems: how many it has, if they are few; else None.
        reward: as `reward.kind`.
        loss: as `loss.name`.
    """

    output_dir: str
    model: str
    download: str
    chat: bool
    data: str
    prompt_field: str
    answer_field: str | None
    columns: str
    problems: int | None
    reward: str
    loss: str

    @property
    def heldout_fraction(self) -> float:
        """Such that at least one problem is held out, if there are two."""
        if self.problems is None or self.problems >= _FEW:
            return 0.1
        return 0.5 if self.problems > 1 else 0.0


def run_file(answers: Answers, name: str) -> str:
    """The text of the file called `name`. A setting that is commented out has no space after its `#`."""
    return "\n".join(
        [_head(answers, name), _model(answers), _data(answers), _rollout(), _reward(answers), _learning(answers), ""]
    )


def scalar(text: str) -> str:
    """A text as YAML has it: as it is, where YAML and this program take that for the same text."""
    is_plain = text.isascii() and all(letter.isalnum() or letter in "_./-" for letter in text)
    return text if is_plain and text[:1].isalpha() and text.lower() not in _WORDS else json.dumps(text)


_WORDS = ("null", "true", "false", "yes", "no", "on", "off", "y", "n")


def _head(answers: Answers, name: str) -> str:
    return f"""\
# A run of aspo. What to do with it, in this order:
#   aspo doctor {name}        what is this machine missing for it?
#   aspo try-reward {name}    what does the reward give right and wrong answers?
#   aspo plan {name}          does it fit in memory, and how long does a step take?
#   aspo train {name}         train; the same command resumes a run that was stopped
# A line that begins with # and a word is a setting that you can switch on: remove the #. `aspo train --help` lists
# all settings. Any of them may follow the command, too: aspo train {name} optimizer.lr=2e-6 output_dir=runs/other

output_dir: {scalar(answers.output_dir)}  # everything that the run writes; each run has its own folder
#seed: 2  # the same seed gives the same curve
"""


def _model(answers: Answers) -> str:
    return f"""\
model:
  # A Hugging Face folder: config.json, tokenizer, safetensors. To download one:
  #   {answers.download}
  path: {scalar(answers.model)}
  #dtype: bfloat16  # on a GPU: half the memory; the optimizer stays in float32
  #recompute: full  # less memory for activations, about a third more computation

#parallel: {{tp: 2, dp: 1}}  # ranks are tp x dp (x pp x cp): one for each GPU; `aspo plan` suggests layouts
#platform: {{device: cpu}}  # even if there is a GPU
"""


def _data(answers: Answers) -> str:
    fields = f"  # Fields in this file: {answers.columns}\n" if answers.columns else ""
    template = {"math": MATH_TEMPLATE, "code": CODE_TEMPLATE, "choice": CHOICE_TEMPLATE}.get(answers.reward, "{prompt}")
    answer = "null" if answers.answer_field is None else scalar(answers.answer_field)
    form = (
        "chat  # the model's chat template; raw: plain text that the model continues"
        if answers.chat
        else "raw  # plain text that the model continues: this model has no chat template"
    )
    return f"""\
data:
  train:
    kind: files  # JSONL, JSON, CSV or Parquet; docs/data.md
    path: {scalar(answers.data)}
    prompt_field: {scalar(answers.prompt_field)}  # the question: text, or a list of messages
    answer_field: {answer}  # the reference answer; null if there is none. All other fields reach the reward
    #limit: 1000  # only this many, from the start
{fields.replace("  #", "    #")}\
  heldout_fraction: {answers.heldout_fraction}  # never trained on: evaluation uses them
  format: {form}
  # The text around each problem. The reward must find the answer in what the model then writes.
  template: {json.dumps(template)}
  #max_prompt_tokens: 2048  # a longer problem cannot be used
  #on_bad: drop  # leave out problems that cannot be used, instead of refusing to start
"""


def _rollout() -> str:
    return """\
rollout:
  prompts_per_step: 16
  responses_per_prompt: 8  # they are compared with each other: more give a better estimate, and cost more
  sampling:
    max_response_tokens: 512  # a longer response is cut off, and mostly wrong: leave room to think
    #temperature: 1.0  # below 1 the responses differ less, and there is less to compare
  #engine: sglang  # generation by SGLang servers: much faster on GPUs; docs/sglang.md
"""


def _reward(answers: Answers) -> str:
    meaning = {
        "math": "the answer, often in \\boxed{}, is compared with the reference as mathematics",
        "choice": "the letter that is stated, often in \\boxed{}, is compared with the reference",
        "code": "the program is run on the problem's tests, in a sandbox",
    }.get(answers.reward, "your function (problem, response) -> number, in a file in the current folder")
    return f"""\
reward:
  kind: {json.dumps(answers.reward) if ":" in answers.reward else answers.reward}  # {meaning}; docs/rewards.md
  #timeout_seconds: 10.0  # a response whose scoring takes longer gets 0
"""


def _learning(answers: Answers) -> str:
    return f"""\
loss:
  name: {json.dumps(answers.loss) if ":" in answers.loss else answers.loss}  # `aspo losses` lists them, grpo among them
  kl_coef: 0.001  # keeps the model close to where it began; 0: no such limit, and no second model in memory

optimizer:
  lr: 1.0e-6  # the first thing to tune

train:
  steps: 50
  # A step has prompts_per_step / prompts_per_update x epochs updates, here 8. With one, ASPO is GRPO.
  prompts_per_update: 4
  epochs: 2
  #max_tokens_per_micro_batch: 4096  # less memory

eval:
  every: 10  # steps; also before the first and after the last one
  samples: 4  # responses per held-out problem
  pass_k: [1, 4]

#checkpoint: {{every: 10}}  # steps between saved states, from which the same command resumes
#log: {{wandb: online}}  # also to Weights & Biases; TensorBoard's files are always written"""
