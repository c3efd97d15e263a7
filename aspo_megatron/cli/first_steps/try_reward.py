"""`aspo try-reward`: a reward on a few problems, before a run depends on it."""

from __future__ import annotations

import os
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from aspo_megatron.errors import ConfigError
from aspo_megatron.foreign_text import one_line
from aspo_megatron.streams import show

if TYPE_CHECKING:
    from aspo_megatron.config import RunConfig, SourceConfig
    from aspo_megatron.data.samples import Problem
    from aspo_megatron.rewards.tryout import TriedProblem

_QUESTION_SHOWN, _RESPONSE_SHOWN = 200, 60
"""Characters."""


def try_reward(
    config: Annotated[str | None, typer.Argument(metavar="[CONFIG]", help="YAML file of the run.")] = None,
    overrides: Annotated[
        list[str] | None, typer.Argument(metavar="[KEY=VALUE]...", help="Settings that replace the file's.")
    ] = None,
    reward: Annotated[
        str | None, typer.Option(metavar="KIND", help="math, code, choice, module:function and so on.")
    ] = None,
    problems: Annotated[
        Path | None, typer.Option(metavar="FILE", help="Problems in place of the run's: JSONL, JSON, CSV or Parquet.")
    ] = None,
    responses: Annotated[
        Path | None,
        typer.Option(metavar="FILE", help="Responses to score as well: JSONL with `problem` (its id) and `response`."),
    ] = None,
    count: Annotated[int, typer.Option(min=1, help="Problems to try it on.")] = 5,
) -> None:
    """Score right, wrong and empty responses to a few problems with the reward of a run, and show what fails.

    Each response is scored by a worker with the run's time limit, as in training. Each line shows the reward, the
    seconds that scoring took, and, if your own code raises, the lines where it did. Needs no model. Exit code 1 means
    that none could be scored.

    \b
      aspo try-reward run.yaml
      aspo try-reward run.yaml reward.kind=my_rewards:score --count 20
      aspo try-reward --reward my_rewards:score --problems problems.csv
      aspo try-reward run.yaml --responses runs/mine/samples.jsonl
    """
    from aspo_megatron.rewards.tryout import try_on

    words = list(overrides or [])
    if config is not None and "=" in config and not os.path.exists(config):
        words, config = [config, *words], None
    run, key = _settings(config, words, reward, problems)
    given = {} if responses is None else _given(responses)
    chosen = _chosen(run, key, count, list(given))
    tried = try_on(run.reward, chosen, given)
    traces: set[tuple[str, ...]] = set()
    for each in tried:
        _show(each, traces)
    if not _sum_up(tried):
        raise typer.Exit(1)


def _settings(
    config: str | None, words: Sequence[str], reward: str | None, problems: Path | None
) -> tuple[RunConfig, str]:
    """The configuration, and what errors call its problems by."""
    from aspo_megatron.config import SourceConfig
    from aspo_megatron.config.io import config_of, load_config
    from aspo_megatron.data.sources.read import with_likely_fields

    if config is None and (reward is None or problems is None):
        raise ConfigError("which reward? Give a run's file, or --reward KIND and --problems FILE")
    source = None if problems is None else SourceConfig(kind="files", path=str(problems))
    asked = [*words, *([] if reward is None else [f"reward.kind={reward}"])]
    if config is not None:
        run = load_config(Path(config), asked)
    else:  # of which no more is looked at than the reward
        nowhere = {
            "output_dir": "none",
            "model": {"path": "none"},
            "data": {"train": {"kind": "files", "path": "none"}},
        }
        run = config_of(nowhere, asked)
    if source is None:
        return run, "data.train"
    data = run.data.model_copy(update={"train": with_likely_fields(source, "--problems")})
    return run.model_copy(update={"data": data}), "--problems"


def _given(path: Path) -> dict[str, list[str]]:
    """Responses by the id, or number, of their problem.

    Raises:
        ConfigError: the file cannot be read, or a line is no response.
    """
    from collections.abc import Mapping

    from aspo_megatron.data.sources.files import file_rows
    from aspo_megatron.data.sources.read import silent

    found: dict[str, list[str]] = {}
    for where, row in file_rows(path, "--responses", "response", silent):
        if not isinstance(row, Mapping):
            raise ConfigError(row.text)
        problem, response = row.get("problem"), row.get("response")
        if isinstance(problem, bool) or not isinstance(problem, str | int) or not isinstance(response, str):
            raise ConfigError(f"{where}: a response needs `problem`, the id of its problem, and `response`, a text")
        found.setdefault(str(problem), []).append(response)
    return found


def _chosen(run: RunConfig, key: str, count: int, ids: Sequence[str]) -> list[Problem]:
    """The first problems, of a mixture those for each of its parts in turn; or those with these ids."""
    from itertools import chain, zip_longest

    from aspo_megatron.data.samples import Problem
    from aspo_megatron.data.sources.read import paths_shown, read_source
    from aspo_megatron.rewards.trial import of_each

    source: SourceConfig = run.data.train
    if not ids and not run.reward.components:
        source = source.model_copy(update={"limit": min(count, source.limit or count)})
    records = read_source(source, key, on_bad=run.data.on_bad)
    problems = (Problem(one.id, one.question, (), one.answer, one.metadata) for one in records)
    if not ids:
        each = zip_longest(*of_each(run.reward, problems, count))
        return list({one.id: one for one in chain.from_iterable(each) if one is not None}.values())[:count]
    named = {one.id: one for one in problems if one.id in ids}
    if missing := [name for name in ids if name not in named]:
        where = one_line(source.family if source.path is None else paths_shown(source))
        raise ConfigError(f"--responses: there is no problem {missing[0]!r} in {where}; ids are like {records[0].id!r}")
    return [named[name] for name in ids[:count]]


def _show(each: TriedProblem, traces: set[tuple[str, ...]]) -> None:
    """`traces`: those that have been shown."""
    problem = each.problem
    if not each.tried and each.left:
        return
    show(f"problem {one_line(problem.id)}: {one_line(_cut(problem.question, _QUESTION_SHOWN))}")
    if problem.answer is not None:
        show(f"  reference answer: {one_line(_cut(problem.answer, _QUESTION_SHOWN))}")
    if each.unfit is not None:
        show(f"  FAILED  {one_line(each.unfit)}")
    for one in each.tried:
        if one.reward.error is None:
            parts = ", ".join(f"{name} {value:g}" for name, value in one.reward.parts.items())
            shown = repr(_cut(one.response, _RESPONSE_SHOWN)) + (f"  ({parts})" if parts else "")
            show(f"  {one.reward.value:6g}  {one.seconds:6.3f} s  {one_line(one.label)}: {one_line(shown)}")
            continue
        show(f"  FAILED  {one.seconds:6.3f} s  {one_line(one.label)}: {one_line(one.reward.error)}")
        for line in () if one.trace in traces else one.trace:
            show(f"      {one_line(line)}")
        traces.add(one.trace)


def _sum_up(tried: Sequence[TriedProblem]) -> bool:
    """Say how many could be scored, and whether right ones are worth more; whether any could."""
    from aspo_megatron.rewards.tryout import RIGHT, WRONG

    all_tried = [one for each in tried for one in each.tried]
    scored = [one for one in all_tried if one.reward.error is None]
    unfit = sum(each.unfit is not None for each in tried)
    left = sum(each.left for each in tried)
    show(
        f"{len(scored)} of {len(all_tried)} responses scored"
        + f"; problems that cannot be scored: {unfit:d}" * bool(unfit)
        + f"; {left:d} not tried, as several took too long" * bool(left)
    )
    if not scored:
        show("none could be scored: such a run would learn nothing")
        return False
    right = [one.reward.value for one in scored if one.label in RIGHT]
    wrong = [one.reward.value for one in scored if one.label == WRONG]
    if right and wrong:
        best, worst = max(right), sum(wrong) / len(wrong)
        show(f"right answers get up to {best:g}, wrong ones {worst:g} on average")
        if best <= worst:
            show("warning: right answers get no more than wrong ones: does the reward find the answer in the response?")
    return True


def _cut(text: str, most: int) -> str:
    return text if len(text) <= most else f"{text[:most]}..."
