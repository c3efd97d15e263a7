"""Which runs are compared with which, and every reason to refuse."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import yaml
from comparison.made_groups import STEPS, make_groups, make_run, settings

from aspo_megatron.comparison.quantities import measured
from aspo_megatron.comparison.runs import read_comparison
from aspo_megatron.errors import UserError
from aspo_megatron.metrics.record import Recorder

TWO = {"aspo": [0.5, 0.6, 0.7], "grpo": [0.4, 0.5, 0.6]}


def change(run: Path, **changes: Any) -> None:
    """Settings of a run, by section or name; None removes one."""
    tree = yaml.safe_load((run / "config.yaml").read_text())
    for key, value in changes.items():
        tree[key] = tree.get(key, {}) | value if isinstance(value, dict) else value
    (run / "config.yaml").write_text(yaml.safe_dump(tree))


def refused(*places: Path, **options: Any) -> str:
    with pytest.raises(UserError) as caught:
        read_comparison(places, **options)
    return str(caught.value)


def test_a_folder_of_runs_and_the_runs_themselves_are_the_same(tmp_path: Path) -> None:
    runs = make_groups(tmp_path / "rivals", TWO)
    (tmp_path / "rivals" / "start-1").mkdir()
    (tmp_path / "rivals" / "comparison.png").write_text("")
    (tmp_path / "rivals" / "newest").symlink_to("grpo-3")
    whole = read_comparison([tmp_path / "rivals"])
    named = read_comparison([*reversed(runs[3:]), tmp_path / "rivals"])
    assert whole.names == ("aspo", "grpo")
    assert named.names == ("grpo", "aspo")
    for one in (whole, named):
        assert one.pairs == ("1", "2", "3")
        assert one.baseline == "grpo"
        assert {group.name: [folder.name for folder in group.folders] for group in one.groups} == {
            loss: [f"{loss}-{seed}" for seed in (1, 2, 3)] for loss in ("aspo", "grpo")
        }
        assert one.settings["optimizer.lr"] == "1e-06"
        assert not {"seed", "loss.name"} & one.settings.keys()
        assert one.variations == ()


def test_seeds_are_in_the_order_of_their_numbers(tmp_path: Path) -> None:
    for loss in ("aspo", "dapo"):
        for seed in (10, 9, 2):
            make_run(tmp_path / f"{loss}{seed}", settings(loss, seed))
    found = read_comparison([tmp_path])
    assert found.pairs == ("2", "9", "10")
    assert found.baseline == "aspo"  # the first, as there is no grpo


def test_groups_by_another_setting(tmp_path: Path) -> None:
    for rate in (1e-6, 2e-6):
        for seed in (1, 2):
            make_run(tmp_path / f"{rate}-{seed}", settings("aspo", seed, optimizer={"lr": rate}))
    found = read_comparison([tmp_path], by="optimizer.lr", against="2e-6")
    assert found.names == ("lr=1e-06", "lr=2e-06")
    assert found.baseline == "lr=2e-06"
    assert read_comparison([tmp_path], by="optimizer.lr", against="lr=1e-06").baseline == "lr=1e-06"
    assert found.settings["loss.name"] == "aspo"


def test_quantities_are_those_of_the_metrics(tmp_path: Path) -> None:
    make_groups(tmp_path, TWO)
    with Recorder(tmp_path / "aspo-1", tensorboard=False) as recorder:  # the last step once more, with a spike
        line = {"eval/avg@2": 0.1, "eval/avg@4": 0.5, "eval/pass@1": 0.5, "eval/pass@4": 0.75}
        recorder.log(STEPS, line | {"reward/mean": 0.25, "entropy": 2.0, "repetition/mean": 0.5, "grad_norm": 9.0})
    found = measured(read_comparison([tmp_path]))
    assert found.left_out == ()
    final, mean, passed, reward, entropy, repetition, spikes = found.every
    assert final is found.final
    assert final.name == "final held-out accuracy (avg@4)"
    assert list(final.values["grpo"]) == pytest.approx([0.4, 0.5, 0.6])
    assert mean.values["grpo"][0] == pytest.approx((0.75 * 0.4 + 0.4) / 2)  # at steps 5 and 10, not at 0
    values = [float(one.values["aspo"][0]) for one in (passed, reward, entropy, repetition)]
    assert values == [0.75, 0.25, 2.0, 0.5]
    assert 9.0 / 0.4 < 10 ** spikes.values["aspo"][0] < 9.0 / 0.2
    assert 1.0 <= 10 ** spikes.values["grpo"][0] <= 2.0
    assert [one.is_share for one in found.every] == [True, True, True, False, False, True, False]


def test_what_is_no_number_or_missing_is_named_and_not_compared(tmp_path: Path) -> None:
    make_groups(tmp_path, TWO)
    for run, metric, value in (("aspo-2", "entropy", float("nan")), ("grpo-1", "grad_norm", float("inf"))):
        with Recorder(tmp_path / run, tensorboard=False) as recorder:
            others = dict.fromkeys(("reward/mean", "entropy", "repetition/mean", "grad_norm"), 0.3)
            scores = {"eval/avg@4": 0.5, "eval/pass@4": 0.6} | ({"eval/avg@2": 0.1} if run == "grpo-1" else {})
            recorder.log(STEPS, scores | others | {metric: value})
    found = measured(read_comparison([tmp_path]))
    assert found.left_out == (
        f"entropy over the last tenth of the steps, nats per token: {tmp_path}/aspo-2 has no number as entropy at "
        "step 10",
        f"spikes of the gradient norm, log10 of the largest over the median: {tmp_path}/grpo-1 has no number as "
        "grad_norm at step 10",
    )
    assert len(found.every) == 5


def test_without_evaluations_there_is_no_accuracy(tmp_path: Path) -> None:
    for loss in ("aspo", "grpo"):
        for seed in (1, 2):
            make_run(tmp_path / f"{loss}{seed}", settings(loss, seed), evaluated=())
    found = measured(read_comparison([tmp_path]))
    assert (found.final, found.mean) == (None, None)
    assert found.left_out == ("held-out accuracy: no run recorded eval/avg@K",)
    assert len(found.others) == 4


# ---- what is refused ------------------------------------------------------------------------------------------------


def test_places_that_hold_no_run(tmp_path: Path) -> None:
    (tmp_path / "empty").mkdir()
    (tmp_path / "file").write_text("")
    assert "empty: neither a run folder nor one that holds some: no metrics.jsonl" in refused(tmp_path / "empty")
    assert "file: not a folder" in refused(tmp_path / "file")
    assert "none: no such folder" in refused(tmp_path / "none")
    assert "no run given" in refused()


def test_a_run_without_configuration(tmp_path: Path) -> None:
    make_groups(tmp_path, TWO)
    (tmp_path / "aspo-2" / "config.yaml").unlink()
    assert f"{tmp_path}/aspo-2/config.yaml: no such file" in refused(tmp_path)


def test_settings_that_no_run_has(tmp_path: Path) -> None:
    make_groups(tmp_path, TWO)
    assert refused(tmp_path, by="los.name") == "--by los.name: no run has this setting; did you mean loss.name?"
    assert refused(tmp_path, pair="seeds") == "--pair seeds: no run has this setting; did you mean seed?"
    assert refused(tmp_path, also=["xyz"]) == "--also xyz: no run has this setting"
    assert "--by seed: --pair is the same setting" in refused(tmp_path, by="seed")
    assert refused(tmp_path, against="ppo") == "--against ppo: no such group; there are aspo, grpo"
    change(tmp_path / "grpo-2", loss={"delta": 0.1})
    assert "aspo-1/config.yaml: it has no loss.delta, which other runs have" in refused(tmp_path, by="loss.delta")


def test_one_group_alone(tmp_path: Path) -> None:
    make_groups(tmp_path, {"aspo": [0.5, 0.6]})
    assert refused(tmp_path) == "--by loss.name: aspo in all runs, so there are no groups to compare"


def test_a_seed_twice(tmp_path: Path) -> None:
    make_groups(tmp_path, TWO)
    shutil.copytree(tmp_path / "aspo-2", tmp_path / "aspo-2-again")
    assert f"{tmp_path}/aspo-2 and {tmp_path}/aspo-2-again: both have loss.name=aspo and seed=2" in refused(tmp_path)


def test_too_few_pairs(tmp_path: Path) -> None:
    make_groups(tmp_path, {"aspo": [0.5], "grpo": [0.5]})
    assert refused(tmp_path) == "seed: 1 value in all groups; an interval needs two pairs, and a claim 6"


@pytest.mark.parametrize(
    ("spoil", "reason"),
    [
        (shutil.rmtree, "aspo has no run with seed=2, which others have"),
        (
            lambda run: (shutil.rmtree(run), make_run(run, settings("aspo", 2), steps=4)),
            "aspo-2: not finished, at step 4 of 10",
        ),
        (lambda run: (run / "metrics.jsonl").write_text(""), "aspo-2: not finished, at step 0 of 10"),
    ],
)
def test_a_run_that_is_missing_or_not_finished(tmp_path: Path, spoil: Callable[[Path], None], reason: str) -> None:
    make_groups(tmp_path, TWO)
    spoil(tmp_path / "aspo-2")
    told = refused(tmp_path)
    assert reason in told
    assert told.endswith("--incomplete compares without seed 2, in all groups")
    found = read_comparison([tmp_path], incomplete=True)
    assert found.pairs == ("1", "3")
    assert [folder.name for folder in found.groups[1].folders] == ["grpo-1", "grpo-3"]
    assert len(found.left_out) == 1
    assert found.left_out[0].startswith("seed 2: ")
    assert reason in found.left_out[0]


def test_runs_without_an_end(tmp_path: Path) -> None:
    make_groups(tmp_path, TWO)
    change(tmp_path / "grpo-1", train={"steps": None})
    assert "grpo-1/config.yaml: it has no train.steps" in refused(tmp_path)


def test_every_other_setting_that_differs_is_named(tmp_path: Path) -> None:
    make_groups(tmp_path, TWO)
    change(tmp_path / "grpo-2", optimizer={"lr": 2e-6}, loss={"kl_coef": 0.0})
    for seed in (1, 2, 3):
        change(tmp_path / f"aspo-{seed}", loss={"dual_clip": 3.0})
    assert refused(tmp_path).splitlines() == [
        "the runs differ in more than loss.name and seed:",
        f"loss.dual_clip: 3.0 in {tmp_path}/aspo-1, not given in {tmp_path}/grpo-1",
        f"loss.kl_coef: 0.001 in {tmp_path}/aspo-1, 0.0 in {tmp_path}/grpo-2",
        f"optimizer.lr: 1e-06 in {tmp_path}/aspo-1, 2e-06 in {tmp_path}/grpo-2",
        "make runs that do not, or name each of these by --also, if it belongs to what is compared",
    ]


def test_a_setting_that_belongs_to_the_groups_or_to_the_pairs_may_be_allowed(tmp_path: Path) -> None:
    make_groups(tmp_path, TWO)
    for seed in (1, 2, 3):
        change(tmp_path / f"aspo-{seed}", loss={"dual_clip": 3.0}, data={"seed": seed})
        change(tmp_path / f"grpo-{seed}", data={"seed": seed})
    found = read_comparison([tmp_path], also=["loss.dual_clip", "data.seed"])
    data, clip = found.variations
    assert (clip.key, clip.kind, clip.values) == ("loss.dual_clip", "given", {"aspo": "3.0", "grpo": "-"})
    assert (data.key, data.kind, data.values) == ("data.seed", "given", {"1": "1", "2": "2", "3": "3"})
    change(tmp_path / "aspo-2", loss={"dual_clip": 4.0})
    told = refused(tmp_path, also=["loss.dual_clip", "data.seed"])
    assert told.startswith("--also loss.dual_clip: it has several values within a group, and with one seed: 3.0 in ")


def test_each_seed_may_have_its_start_and_all_groups_the_same(tmp_path: Path) -> None:
    make_groups(tmp_path, TWO)
    for loss in TWO:
        for seed in (1, 2, 3):
            change(tmp_path / f"{loss}-{seed}", model={"path": f"start-{seed}"})
    (start,) = read_comparison([tmp_path]).variations
    assert (start.key, start.kind) == ("model.path", "start")
    assert start.values == {"1": "start-1", "2": "start-2", "3": "start-3"}
    change(tmp_path / "grpo-3", model={"path": "other"})
    assert refused(tmp_path) == (
        "model.path: with seed=3 the groups do not start from the same model: "
        f"start-3 in {tmp_path}/aspo-3, other in {tmp_path}/grpo-3"
    )


def test_settings_without_a_result_may_differ_and_are_kept(tmp_path: Path) -> None:
    make_groups(tmp_path, TWO)
    change(tmp_path / "grpo-3", log={"wandb": "offline"}, slurm={"partition": "long"})
    found = read_comparison([tmp_path]).variations
    assert [(one.key, one.kind, one.values) for one in found] == [
        ("log.wandb", "without result", {}),
        ("slurm.partition", "without result", {}),
    ]


def test_other_steps_and_other_evaluations(tmp_path: Path) -> None:
    make_groups(tmp_path, TWO)
    shutil.rmtree(tmp_path / "grpo-2")
    make_run(tmp_path / "grpo-2", settings("grpo", 2), evaluated=(0, 4, STEPS))
    assert refused(tmp_path) == (
        f"{tmp_path}/grpo-2/metrics.jsonl: its evaluations are not those of {tmp_path}/aspo-1: "
        "it has step 4 and it lacks step 5"
    )
    lines = (tmp_path / "aspo-3" / "metrics.jsonl").read_text().splitlines(keepends=True)
    (tmp_path / "aspo-3" / "metrics.jsonl").write_text("".join(lines[:3] + lines[5:]))
    assert refused(tmp_path) == (
        f"{tmp_path}/aspo-3/metrics.jsonl: its steps are not those of {tmp_path}/aspo-1: it lacks steps 3 to 4"
    )


def test_files_of_others_are_not_read_through_links(tmp_path: Path) -> None:
    make_groups(tmp_path / "runs", TWO)
    for name in ("config.yaml", "metrics.jsonl"):
        kept = tmp_path / name
        shutil.move(tmp_path / "runs" / "aspo-1" / name, kept)
        (tmp_path / "runs" / "aspo-1" / name).symlink_to(kept)
        assert f"aspo-1/{name}: a link out of its folder" in refused(tmp_path / "runs")
        (tmp_path / "runs" / "aspo-1" / name).unlink()
        shutil.move(kept, tmp_path / "runs" / "aspo-1" / name)
    assert read_comparison([tmp_path / "runs"]).pairs == ("1", "2", "3")
