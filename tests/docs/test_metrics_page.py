"""docs/metrics.md has every metric that a run can log, and no other; other pages name none that it has not."""

from __future__ import annotations

import ast
import re
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
import torch
import torch.distributed as dist

from aspo_megatron import losses
from aspo_megatron.config import LossConfig
from aspo_megatron.data.packing import pack
from aspo_megatron.data.samples import Sample

ROOT = Path(__file__).parents[2]
PACKAGE = ROOT / "aspo_megatron"
PAGE = ROOT / "docs" / "metrics.md"

_NAME = re.compile(r"[a-z]\w*/[^\s/()]+")
_ROOMS = ("train", "parallel", "losses", "rollout", "metrics", "evaluation/evaluator.py", "plots/panels.py")
_NO_METRIC = {"application/json", "tokens/s", "loss/warmup"}
"""A header, a unit; and of the supervised updates before the first step, which log nothing."""
_PLACEHOLDERS = {"eval/avg@K", "eval/pass@K", "reward/part/<name>"}


def on_the_page() -> list[str]:
    """Names in the first cells of the tables."""
    rows = re.findall(r"^\| (`[^|]+`) \|", PAGE.read_text(encoding="utf-8"), flags=re.MULTILINE)
    return [name for row in rows for name in re.findall(r"`([^`]+)`", row)]


def sources() -> Iterator[tuple[Path, ast.Module]]:
    for room in _ROOMS:
        path = PACKAGE / room
        for file in [path] if path.is_file() else sorted(path.rglob("*.py")):
            yield file, ast.parse(file.read_text(encoding="utf-8"))


def texts() -> set[str]:
    """Every text in the rooms that has the form of a metric's name; `{}` for a value in it."""
    found = set()
    for _, tree in sources():
        inside = {id(part) for node in ast.walk(tree) if isinstance(node, ast.JoinedStr) for part in node.values}
        for node in ast.walk(tree):
            if isinstance(node, ast.JoinedStr):
                text = "".join(str(part.value) if isinstance(part, ast.Constant) else "{}" for part in node.values)
            elif isinstance(node, ast.Constant) and isinstance(node.value, str) and id(node) not in inside:
                text = node.value
            else:
                continue
            if _NAME.fullmatch(text) and not text.endswith(("/", ".json", ".py", ".jsonl", ".md")):
                found.add(text)
    return found - _NO_METRIC


def logged_by_name() -> set[str]:
    """Keys of what functions of train/ return as metrics, and what they set in `metrics`."""
    found: set[object] = set()
    for file, tree in sources():
        if file.parent.name != "train":
            continue
        for function in ast.walk(tree):
            if not isinstance(function, ast.FunctionDef):
                continue
            gives = function.returns is not None and ast.unparse(function.returns) == "dict[str, float]"
            names: set[object] = set()
            dropped: set[object] = set()
            for node in ast.walk(function):
                if isinstance(node, ast.Dict) and gives:
                    names |= {key.value for key in node.keys if isinstance(key, ast.Constant)}
                elif isinstance(node, ast.Subscript) and ast.unparse(node.value) == "metrics":
                    names |= {node.slice.value} if isinstance(node.slice, ast.Constant) else set()
                elif isinstance(node, ast.Call) and ast.unparse(node.func) in ("metrics.pop", "metrics.setdefault"):
                    text = ast.literal_eval(node.args[0])
                    (dropped if ast.unparse(node.func) == "metrics.pop" else names).add(text)
            found |= names - dropped
    return {name for name in found if isinstance(name, str)}


def phases() -> set[str]:
    """Of a step; those of saving and exporting are between steps, and are not logged."""
    found = {"seconds/step"}
    for file, tree in sources():
        for node in ast.walk(tree):
            timed = isinstance(node, ast.Call) and ast.unparse(node.func) in ("self._phase", "self._phases")
            if timed and file.parent.name == "train" and file.name != "save_and_resume.py":
                assert isinstance(node, ast.Call)
                label = ast.literal_eval(node.args[0])
                found.add(f"seconds/{label.replace(' ', '_').replace('-', '_')}")
    return found


def a_sample(group: int, advantage: float) -> Sample:
    return Sample(
        problem_id="p",
        group=group,
        prompt_ids=np.array([1, 2]),
        response_ids=np.array([3, 4, 5]),
        response_mask=np.ones(3, dtype=np.bool_),
        rollout_log_probs=np.full(3, -1.0, dtype=np.float32),
        weight_version=0,
        finish_reason="stop",
        advantage=advantage,
        old_log_probs=np.full(3, -1.1, dtype=np.float32),
        ref_log_probs=np.full(3, -1.2, dtype=np.float32),
    )


def of_loss(name: str) -> set[str]:
    """What an update with this loss measures, with all that the configuration can add."""
    from aspo_megatron.parallel.update.objective import PolicyObjective

    config = LossConfig(name=name, kl_coef=0.1, entropy_coef=0.1, rollout_correction="tis")
    batch = pack([[a_sample(0, 1.0), a_sample(0, -1.0)]], [[1.0, 1.0]])
    log_probs, entropy = torch.full((2, 6), -1.05).unbind(0)
    output = PolicyObjective(losses.build(name, {}), config)(batch, log_probs, -entropy)
    return {*output.stats, *output.peaks}


def of_a_rollout(folder: Path) -> set[str]:
    """What the responses of a step give, on one rank."""
    from aspo_megatron.data.prompt_sampler import PromptSlot
    from aspo_megatron.data.samples import Problem
    from aspo_megatron.parallel.update.step import UpdateResult
    from aspo_megatron.rewards.scoring import ScoredGroup
    from aspo_megatron.rewards.workers.pool import Reward
    from aspo_megatron.train.collector import Rollout
    from aspo_megatron.train.step_metrics import rollout_metrics, staleness_metrics, update_metrics

    group = [a_sample(0, 1.0), a_sample(0, -1.0)]
    problem = Problem("p", "", (1, 2))
    rewards = [Reward(1.0, parts={"<name>": 1.0}), Reward(0.0)]
    scored = ScoredGroup(problem, group, ["a", "b"], rewards)
    rollout = Rollout([scored], [group], [PromptSlot(1, 1, problem, (group[0],))])
    update = UpdateResult(loss=1.0, grad_norm=1.0, lr=1.0, skipped=False, stats={})
    dist.init_process_group("gloo", init_method=f"file://{folder}/store", rank=0, world_size=1)
    try:
        return {*rollout_metrics(rollout), *staleness_metrics(rollout, 1), *update_metrics([update])}
    finally:
        dist.destroy_process_group()


def pattern(text: str) -> re.Pattern[str]:
    return re.compile(".+".join(map(re.escape, text.split("{}"))))


def test_each_metric_stands_there_once() -> None:
    names = on_the_page()
    assert len(names) > 50
    assert sorted(set(names)) == sorted(names)


def test_each_metric_that_is_logged_is_on_the_page(tmp_path: Path) -> None:
    names = set(on_the_page())
    for loss in losses.names():
        assert of_loss(loss) <= names, loss
    assert of_a_rollout(tmp_path) <= names
    assert phases() <= names
    assert logged_by_name() <= names | texts()  # those that hold a value are looked at next
    for text in texts():
        assert any(pattern(text).fullmatch(name) for name in names), text


def test_each_metric_on_the_page_is_logged(tmp_path: Path) -> None:
    logged = phases() | logged_by_name() | of_a_rollout(tmp_path) | set().union(*map(of_loss, losses.names()))
    logged |= {text for text in texts() if "{}" not in text}
    assert set(on_the_page()) - _PLACEHOLDERS - logged == set()


def test_each_metric_of_a_whole_run_is_on_the_page() -> None:
    tree = ast.parse((ROOT / "tests" / "e2e" / "test_runs.py").read_text(encoding="utf-8"))
    found = {
        name
        for node in tree.body
        if isinstance(node, ast.Assign) and ast.unparse(node.targets[0]) in ("ALWAYS", "SIGNED")
        for name in ast.literal_eval(node.value)
    }
    assert len(found) > 30
    assert found <= set(on_the_page())


PAGES = sorted(
    str(path.relative_to(ROOT)) for form in ("*.md", "docs/*.md", "examples/*/*.md") for path in ROOT.glob(form)
)


@pytest.mark.parametrize("page", PAGES)
def test_each_metric_that_a_page_names_is_on_the_page_of_metrics(page: str) -> None:
    names = set(on_the_page())
    groups = {name.partition("/")[0] for name in names if "/" in name} - {"eval"}  # a folder's name, too
    text = (ROOT / page).read_text(encoding="utf-8")
    for span in re.findall(r"`([a-z]\w*/[\w.@]+)`", text):
        assert span.endswith("...") or span.partition("/")[0] not in groups or span in names, span
