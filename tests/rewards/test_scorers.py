"""What counts as a right answer, and the errors for rewards that cannot work."""

from __future__ import annotations

import subprocess
import sys

import pytest
import reasoning_gym

from aspo_megatron.config import RewardConfig
from aspo_megatron.data.samples import Problem
from aspo_megatron.errors import ConfigError
from aspo_megatron.rewards.scorers import build, check
from aspo_megatron.rewards.text import extract_answer


def problem(answer: str | None, **metadata) -> Problem:
    return Problem("p-0", "?", (1,), answer, metadata)


def evaluate(kind: str, asked: Problem, response: str) -> float:
    return build(RewardConfig(kind=kind))(asked, response).value


@pytest.mark.parametrize(
    ("reference", "response", "reward"),
    [
        ("7", " 7\n", 1.0),
        ("7", "3 + 4 = 7", 1.0),
        ("7", "3 + 4 = 8", 0.0),
        ("7", "", 0.0),
        ("7", "no idea", 0.0),
        ("7", r"First 8, so \boxed{7}. Done in 2 steps", 1.0),
        ("7", r"\boxed{6} or \boxed{7}", 0.0),
        ("7", r"<think>maybe \boxed{9}</think> It is 7.", 1.0),
        ("7", r"\boxed{7", 0.0),
        ("1/2", r"so \boxed{\frac{1}{2}}", 1.0),
        ("1/2", "the answer is 0.5", 1.0),
        (r"\frac{3}{4}", "$0.75$", 1.0),
        (r"\frac{3}{4}", r"\boxed{\frac{4}{3}}", 0.0),
        (r"\boxed{\sqrt{8}}", r"\boxed{2\sqrt{2}}", 1.0),
        ("2x+1", r"\boxed{1+2x}", 1.0),
        ("2x+1", r"\boxed{2}", 0.0),
        ("1,000", "1000", 1.0),
        ("50%", r"\boxed{\frac12}", 1.0),
        ("x=3", r"\boxed{3}", 1.0),
        ("B", r"\boxed{B}", 1.0),
        ("B", r"\boxed{C}", 0.0),
        ("He buys 3 of them.\n#### 72", "That makes 72 dollars", 1.0),
    ],
)
def test_math(reference, response, reward):
    assert evaluate("math", problem(reference), response) == reward


@pytest.mark.parametrize(
    ("response", "reference", "answer"),
    [
        (" 7\n", "7", "7"),
        ("7\n\nQ: 3 + 3 = 6", "7", "7"),
        ("\n\n 7 \n8", "7", "7"),
        ("6 <answer> 7 </answer>", "7", "7"),
        ("<answer>6</answer> no, <answer>7</answer> 8", "7", "7"),
        ("<think><answer>6</answer></think>7", "7", "7"),
        ("1 2\n3 4\n", "1 2\n3 4", "1 2\n3 4"),
        ("<answer>\n1 2\n3 4\n</answer>", "1 2\n3 4", "1 2\n3 4"),
        ("a\nb", None, "a\nb"),
        ("", "7", ""),
    ],
)
def test_extract_answer(response, reference, answer):
    assert extract_answer(response, reference) == answer


@pytest.mark.parametrize("family", ["chain_sum", "mini_sudoku", "binary_matrix", "fraction_simplification"])
def test_reasoning_gym_gives_one_for_its_own_answer(family):
    entry = reasoning_gym.create_dataset(family, size=1, seed=5)[0]
    asked = problem(entry["answer"], family=family, entry=entry)
    assert evaluate("reasoning_gym", asked, f" {entry['answer']}\n") == 1.0
    assert evaluate("reasoning_gym", asked, f"Let me see.\n<answer>{entry['answer']}</answer>") == 1.0
    assert evaluate("reasoning_gym", asked, "none") < 0.2


def test_reasoning_gym_gives_part_of_the_credit():
    entry = {"question": "3 + 4 =", "answer": "7", "metadata": {}}
    asked = problem("7", family="chain_sum", entry=entry)
    assert [evaluate("reasoning_gym", asked, text) for text in ["7", "07.0", "17", "8"]] == [1.0, 1.0, 0.5, 0.0]


EXITS = {
    "zero": "sys.exit(0)",
    "bare": "sys.exit()",
    "one": "sys.exit(1)",
    "text": "sys.exit('wrong usage')",
    "raised": "raise SystemExit",
    "parser": "import argparse; argparse.ArgumentParser().parse_args(['--help'])",
    "usage": "import argparse; argparse.ArgumentParser().parse_args(['--no-such'])",
    "builtin": "exit()",
    "true": "sys.exit(True)",
    "object": "sys.exit(object())",
}
"""Scripts that do their work, or ask for arguments, when they are imported."""

USER_MODULE = """
def length(problem, response):
    return len(response)

def gives_text(problem, response):
    return "good"

def gives_nan(problem, response):
    return float("nan")

def one_argument(problem):
    return 1.0

async def later(problem, response):
    return 1.0

number = 3
"""


@pytest.fixture
def user_module(tmp_path, monkeypatch):
    (tmp_path / "user_rewards_a.py").write_text(USER_MODULE)
    (tmp_path / "broken_rewards_a.py").write_text("import no_such_module_anywhere\n")
    for name, code in EXITS.items():
        (tmp_path / f"exits_a_{name}.py").write_text(f"import sys\ndef f(problem, response): ...\n{code}\n")
    monkeypatch.chdir(tmp_path)
    return "user_rewards_a"


def test_user_function_in_the_current_directory(user_module):
    check(RewardConfig(kind=f"{user_module}:length"))
    assert evaluate(f"{user_module}:length", problem(None), "four") == 4.0
    for name, shown in [("gives_text", "'good'"), ("gives_nan", "nan")]:
        with pytest.raises(ValueError, match=f"{user_module}:{name}' gave {shown} for problem p-0"):
            evaluate(f"{user_module}:{name}", problem(None), "four")


@pytest.mark.parametrize(
    ("kind", "message"),
    [
        ("maths", r"reward\.kind: unknown reward 'maths'; did you mean 'math'\?"),
        (
            "xyz",
            r"unknown reward 'xyz'; it can be math, code, choice, reasoning_gym, mixture or package\.module:func",
        ),
        ("user_rewards_a:", r"unknown reward"),
        ("rewards.py:f", r"reward\.kind: 'rewards\.py:f': a module is named without \.py; use rewards:f"),
        ("no_such_module_b:f", r"reward\.kind: .*cannot import 'no_such_module_b' \(ModuleNotFoundError"),
        ("broken_rewards_a:f", r"cannot import 'broken_rewards_a' .*no_such_module_anywhere"),
        *((f"exits_a_{code}:f", r"cannot import 'exits_a_\w+' \(SystemExit") for code in EXITS),
        ("user_rewards_a:lenght", r"user_rewards_a\.py has no 'lenght'; did you mean 'length'\?"),
        ("user_rewards_a:number", r"is a int, not a function"),
        ("user_rewards_a:later", r"^reward\.kind: 'user_rewards_a:later' is an async function; give a plain one"),
        ("user_rewards_a:one_argument", r"takes \(problem\), but is called with \(problem, response\)"),
    ],
)
def test_kinds_that_cannot_work(user_module, kind, message):
    with pytest.raises(ConfigError, match=message):
        check(RewardConfig(kind=kind))


def test_rewards_that_do_not_fit_the_problems():
    with pytest.raises(ConfigError, match=r"math needs reference answers, and problem p-0 has none"):
        check(RewardConfig(kind="math"), [problem(None)])
    with pytest.raises(
        ConfigError, match=r"reasoning_gym scores problems of reasoning-gym only, which problem p-0 is not"
    ):
        check(RewardConfig(kind="reasoning_gym"), [problem("7")])
    check(RewardConfig(kind="math"), [problem("7")])
    check(RewardConfig(kind="reasoning_gym"), [problem("7", family="chain_sum", entry={})])


@pytest.mark.parametrize(
    ("reward", "message"),
    [
        ({"kind": "math"}, "math needs reference answers"),
        ({"kind": "reasoning_gym"}, "scores problems of reasoning-gym only"),
        ({"kind": "code"}, "code needs tests"),
        ({"kind": "mixture", "components": {"a": {"kind": "math", "when": {"x": "1"}}}}, "none applies to"),
    ],
)
def test_a_problems_name_is_plain_and_short_in_messages(reward, message):
    odd = Problem("\x1b[31m\nerror: " + "long" * 1000, "?", (1,))
    with pytest.raises(ConfigError, match=message) as caught:
        check(RewardConfig.model_validate(reward), [odd])
    said = str(caught.value)
    assert len(said) < 400
    assert said.isprintable()


def test_workers_do_not_load_torch():
    code = """
import sys
import aspo_megatron.rewards.workers.worker
from aspo_megatron.config import RewardConfig
from aspo_megatron.rewards.scorers import build
for kind in ("math", "code", "choice", "reasoning_gym"):
    build(RewardConfig(kind=kind))
print(sorted({"torch", "transformers", "datasets", "megatron"} & set(sys.modules)))
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"
