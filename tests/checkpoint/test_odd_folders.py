"""States that are not what their folder says, or out of sight, and odd things in their places."""

from __future__ import annotations

import os
import re
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest
from thorough import one_in

from aspo_megatron.checkpoint.states.folders import listed, publish, saved_steps, set_aside, step_folder, tidy
from aspo_megatron.config.io import load_config, save_config
from distributed import Ranks

from .test_whole_states import go_on, ranks, refusal, run, saved, settings, sign

__all__ = ["ranks", "run", "saved", "settings"]

pytestmark = [pytest.mark.distributed, pytest.mark.timeout(240)]


# ---- states that are another's --------------------------------------------------------------------------------------


def copied(source: str, *targets: str) -> Callable[[Path], None]:
    def copy(states: Path) -> None:
        shutil.copytree(states / source, states / "kept")
        for target in targets:
            shutil.rmtree(states / target, ignore_errors=True)
            shutil.copytree(states / "kept", states / target)
        shutil.rmtree(states / "kept")

    return copy


def linked(states: Path) -> None:
    shutil.rmtree(states / "step-000002")
    (states / "step-000002").symlink_to("step-000001")


MISPLACED: dict[str, Callable[[Path], None]] = {
    "over a later one": copied("step-000001", "step-000002"),
    "beyond the last": copied("step-000001", "step-000003"),
    "far beyond the last": copied("step-000001", "step-999999"),
    "with seven digits": copied("step-000001", "step-1000000"),
    "a later one, beyond": copied("step-000002", "step-000007"),
    "twice": copied("step-000001", "step-000002", "step-000003"),
    "a link": linked,
}


@pytest.mark.parametrize("how", one_in(2, MISPLACED))
def test_a_state_under_another_name_is_refused(ranks: Ranks, settings: list[str], run: Path, how: str) -> None:
    states = run / "checkpoints"
    MISPLACED[how](states)
    if "beyond" in how or "seven" in how:
        shutil.rmtree(states / "step-000002")
    for said in ranks.run(2, go_on, settings):
        (line,) = said
        assert "is the state after step" in line
        assert line.endswith("resuming from step-000001 instead")
    assert saved_steps(run) == [1]
    assert (states / "latest").read_text() == "step-000001\n"


def test_states_whose_names_are_swapped_are_refused(ranks: Ranks, settings: list[str], run: Path) -> None:
    for source, target in (("000001", "3"), ("000002", "000001"), ("3", "000002")):
        (run / "checkpoints" / f"step-{source}").rename(run / "checkpoints" / f"step-{target}")
    for said in ranks.run(2, refusal, settings):
        assert re.search(r"no saved state of .* can be used: .* under the wrong name", said), said


OTHERS = [
    "seed=7",
    "optimizer.lr=0.5",
    "optimizer.weight_decay=0.5",
    "optimizer.schedule=linear",
    "loss.name=cispo",
    "loss.kl_coef=0.5",
    "rollout.responses_per_prompt=32",
    "train.epochs=3",
    "data.train.path=other.jsonl",
    "reward.kind=code",
]


@pytest.mark.parametrize("other", one_in(3, OTHERS))
def test_a_state_of_another_run_is_refused(ranks: Ranks, settings: list[str], run: Path, other: str) -> None:
    folder = run / "checkpoints" / "step-000002"
    save_config(load_config(folder / "config.yaml", [other]), folder / "config.yaml")
    sign(folder)
    for said in ranks.run(2, go_on, settings):
        (line,) = said
        assert f"is of another run, which differs in {other.partition('=')[0]}" in line


@pytest.mark.parametrize("what", ["train.steps=999", "checkpoint.keep=7", "output_dir=elsewhere", "log.wandb=offline"])
def test_a_state_of_this_run_with_what_may_change_is_used(
    ranks: Ranks, settings: list[str], run: Path, what: str
) -> None:
    shutil.rmtree(run / "checkpoints" / "step-000002")
    folder = run / "checkpoints" / "step-000001"
    save_config(load_config(folder / "config.yaml", [what]), folder / "config.yaml")
    sign(folder)
    assert ranks.run(2, go_on, settings) == [[], []]


# ---- states out of sight --------------------------------------------------------------------------------------------


def emptied(states: Path) -> None:
    for folder in states.glob("step-*"):
        shutil.rmtree(folder)


def replaced(by: Callable[[Path], object]) -> Callable[[Path], None]:
    def replace(states: Path) -> None:
        shutil.rmtree(states)
        by(states)

    return replace


def renamed(states: Path) -> None:
    for folder in states.glob("step-*"):
        folder.rename(folder.with_name(folder.name.replace("-", "_")))


def pointer(change: Callable[[Path], object]) -> Callable[[Path], None]:
    def point(states: Path) -> None:
        emptied(states)
        (states / "latest").unlink()
        change(states / "latest")

    return point


HIDDEN: dict[str, Callable[[Path], object]] = {
    "removed, but for latest": emptied,
    "renamed": renamed,
    "copies of another form": lambda states: [p.rename(f"{p} (copy)") for p in states.glob("step-*")] and None,
    "a link to nowhere": replaced(lambda states: states.symlink_to("/nowhere/at/all")),
    "a link to itself": replaced(lambda states: states.symlink_to(states)),
    "a file": replaced(lambda states: states.write_text("")),
    "latest is empty": pointer(lambda latest: latest.touch()),
    "latest is garbage": pointer(lambda latest: latest.write_bytes(b"\0\xff")),
    "latest is a folder": pointer(lambda latest: latest.mkdir()),
    "latest is a link": pointer(lambda latest: latest.symlink_to("step-000002")),
}


@pytest.mark.parametrize("how", one_in(3, HIDDEN))
def test_a_run_whose_states_are_out_of_sight_does_not_begin_again(
    ranks: Ranks, settings: list[str], run: Path, how: str
) -> None:
    HIDDEN[how](run / "checkpoints")
    for said in ranks.run(2, refusal, settings):
        assert re.search(r"/checkpoints.*, or remove .*/checkpoints to begin again", said), said


@pytest.mark.parametrize("how", ["no folder", "an empty one", "the weights after a warm-up alone"])
def test_a_run_that_has_no_state_begins(tmp_path: Path, how: str) -> None:
    if how != "no folder":
        (tmp_path / "checkpoints").mkdir()
    if how == "the weights after a warm-up alone":
        (tmp_path / "checkpoints" / "start").mkdir()
    assert listed(tmp_path) == ([], None)


# ---- odd things where folders are -----------------------------------------------------------------------------------


def as_file(path: Path) -> None:
    path.write_text("")


def as_folder(path: Path) -> None:
    (path / "parts").mkdir(parents=True)
    (path / "parts" / "file").touch()


def as_link(path: Path) -> None:
    as_folder(path.parents[2] / "elsewhere" / path.name)
    path.symlink_to(path.parents[2] / "elsewhere" / path.name)


KINDS: dict[str, Callable[[Path], None]] = {
    "a file": as_file,
    "a folder": as_folder,
    "a link": as_link,
    "a link to a file": lambda path: path.symlink_to(os.devnull),
    "a link to nowhere": lambda path: path.symlink_to("nowhere"),
    "a pipe": os.mkfifo,
}


@pytest.fixture
def states(tmp_path: Path) -> Path:
    for step in (1, 2, 3):
        step_folder(tmp_path / "run", step).mkdir(parents=True)
    return tmp_path / "run" / "checkpoints"


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("name", ["step-000001", "step-000000.removed", "step-000004.removed"])
def test_an_old_state_goes_whatever_it_is(states: Path, name: str, kind: str) -> None:
    shutil.rmtree(states / name, ignore_errors=True)
    KINDS[kind](states / name)
    assert publish(states.parent, 3, keep=1) is None
    assert sorted(path.name for path in states.iterdir()) == ["latest", "step-000003"]
    assert (
        not list(states.parents[1].glob("elsewhere/*")) or (states.parents[1] / "elsewhere" / name / "parts").is_dir()
    )


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("name", ["step-000001.partial", "step-000009.partial", "start.partial", "step-000001.removed"])
def test_what_is_half_written_goes_whatever_it_is(states: Path, name: str, kind: str) -> None:
    KINDS[kind](states / name)
    tidy(states.parent, pytest.fail)
    assert saved_steps(states.parent) == [3, 2, 1]
    assert not os.path.lexists(states / name)
    if kind == "a link":
        assert (states.parents[1] / "elsewhere" / name / "parts" / "file").exists()


@pytest.mark.parametrize("kind", KINDS)
def test_a_state_is_set_aside_whatever_has_its_new_name(states: Path, kind: str) -> None:
    (states / "step-000003" / "file").touch()
    KINDS[kind](states / "step-000003.refused")
    set_aside(states / "step-000003")
    assert saved_steps(states.parent) == [2, 1]
    assert [path.name for path in (states / "step-000003.refused").iterdir()] == ["file"]


@pytest.mark.parametrize("target", ["step-000002", "step-000009", "nowhere/at/all", "latest", os.devnull])
def test_a_link_that_is_called_latest_is_replaced(states: Path, target: str) -> None:
    (states / "latest").symlink_to(target)
    assert publish(states.parent, 3, keep=3) is None
    assert (states / "latest").read_text() == "step-000003\n"
    assert sorted(path.name for path in states.iterdir()) == ["latest", "step-000001", "step-000002", "step-000003"]


@pytest.mark.parametrize(
    "name",
    ["step-7", "step-00007", "step-0000007", "step-\u0663\u0663\u0663\u0663\u0663\u0663", "step-\u00b2", "step-",
     "step--00007", "step-00000a", "step-000007 ", "step-000007~", "step-000007.bak", "step-000007\n", "Step-000007",
     f"step-{10**20}", "step-+00007", "step-0x0007"],
)  # fmt: skip
def test_folders_of_other_names_are_no_states(states: Path, name: str) -> None:
    (states / name).mkdir()
    assert saved_steps(states.parent) == [3, 2, 1]
    assert publish(states.parent, 3, keep=2) is None
    assert saved_steps(states.parent) == [3, 2]
    assert (states / name).is_dir()
