"""`aspo compare` as a user calls it: what it prints, the page and its pictures."""

from __future__ import annotations

import re
from pathlib import Path

import pytest
import typer
from comparison.made_groups import CLEAR, make_groups, make_run, settings
from plots.made_runs import write_run
from text.hostile import HOSTILE, faults
from typer.testing import CliRunner, Result

from aspo_megatron.cli.views import compare
from aspo_megatron.errors import ConfigError, UserError

app = typer.Typer(rich_markup_mode=None)
app.command()(compare.compare)

PNG = b"\x89PNG"


def run_cli(*arguments: object) -> Result:
    return CliRunner().invoke(app, [str(argument) for argument in arguments], catch_exceptions=False)


def section(page: str, heading: str) -> str:
    """What stands below a heading."""
    return page.partition(f"\n## {heading}\n")[2].partition("\n## ")[0]


@pytest.fixture(scope="module")
def clear(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Result]:
    """A comparison in which aspo is higher, and dapo not told apart."""
    folder = tmp_path_factory.mktemp("clear")
    make_groups(folder / "rivals", CLEAR)
    return folder, run_cli(folder / "rivals", "--out", folder / "pages" / "page.md", "--title", "Rivals")


def test_the_files(clear: tuple[Path, Result]) -> None:
    folder, result = clear
    assert result.exit_code == 0
    names = {"page.md", "page-curves.png", "page-differences.png", "page-weights.png"}
    assert {path.name for path in (folder / "pages").iterdir()} == names
    page = (folder / "pages" / "page.md").read_text()
    assert page.startswith("# Rivals\n\n3 groups of runs that differ in loss.name: aspo, dapo, grpo. Each has 8 seeds ")
    shown = re.findall(r"!\[[^\]]+\]\(([^)]+)\)", page)
    assert set(shown) == names - {"page.md"}
    assert all((folder / "pages" / name).read_bytes().startswith(PNG) for name in shown)
    assert [line for line in result.output.splitlines() if line.startswith(("picture:", "page:"))] == [
        *(f"picture: {folder}/pages/page-{name}.png" for name in ("curves", "differences", "weights")),
        f"page:    {folder}/pages/page.md",
    ]


def test_what_is_clear_is_claimed_and_what_is_not_is_not(clear: tuple[Path, Result]) -> None:
    folder, result = clear
    shown = section((folder / "pages" / "page.md").read_text(), "What the runs show")
    aspo = (
        "aspo is higher than grpo by 9.9 points (95 % interval +9.0 to +10.7, adjusted p = 0.016, higher with 8 of 8 "
    )
    dapo = "These runs do not tell dapo and grpo apart. The mean difference is 0 points (95 % interval -1.4 to +1.4, "
    for text in (shown, result.output):
        assert f"{aspo}seeds)." in text
        assert (
            f"{dapo}adjusted p = 1, higher with 4 of 8 seeds); one larger than 1.4 points either way is unlikely."
            in text
        )
        assert "It takes at least" not in text
        assert not re.search(r"dapo is (higher|lower)", text)
    assert "aspo and grpo are equal with every seed." in shown  # entropy and others are made alike


def test_the_tables(clear: tuple[Path, Result]) -> None:
    folder, result = clear
    page = (folder / "pages" / "page.md").read_text()
    main = "| aspo | 50.1% (44.1% to 56.2%) | +9.9 | +9.0 to +10.7 | 0.0078 | 0.016 | 8 of 8 |"
    assert main in result.output
    final = "Final held-out accuracy (avg@4)"
    assert f"| {final} | aspo | +9.9 | +9.0 to +10.7 | 0.0078 | 0.016 | 8 of 8 |" in section(page, "Paired differences")
    assert f"| {final} | 50.1% (44.1% to 56.2%) | 40.2% (" in section(page, "Means")
    accuracies = section(page, "Final accuracy by seed")
    assert "| 2 | 51.0% | 40.0% | 42.0% |" in accuracies
    assert "| mean | 50.1% | 40.2% | 40.2% |" in accuracies
    weights = section(page, "Weights of tokens by their probability")
    assert "| aspo, A &#62; 0 | 2.00 (0%, 8) | - | 1.00 (0%, 8) | - | 1.50 (0%, 8) | - | 0.00 (100%, 8) |" in weights
    compared = section(page, "What was compared")
    assert "among them model.path=start, train.steps=10, optimizer.lr=1e-06, loss.kl_coef=0.001." in compared
    assert f"{folder}/rivals/grpo-8" in compared
    assert "Student-t" in section(page, "How to read this")


def test_against_another_group(clear: tuple[Path, Result]) -> None:
    folder, _ = clear
    result = run_cli(folder / "rivals", "--against", "aspo", "--out", folder / "other.md")
    assert "grpo is lower than aspo by 9.9 points (95 % interval -10.7 to -9.0, adjusted p = 0.016," in result.output
    assert "dapo is lower than aspo by 9.9 points" in result.output
    assert "# Comparison by loss.name\n" in (folder / "other.md").read_text()


def test_with_few_seeds_nothing_is_claimed_however_large(tmp_path: Path) -> None:
    make_groups(tmp_path / "few", {name: row[:3] for name, row in CLEAR.items()})
    result = run_cli(tmp_path / "few", "--out", tmp_path / "few.md")
    page = (tmp_path / "few.md").read_text()
    for text in (result.output, section(page, "What the runs show")):
        assert "With 3 seeds and 2 comparisons the adjusted p-value is at least 0.5, however large" in text
        assert "It takes at least 7 seeds." in text
        assert "do not tell aspo and grpo apart, though the interval excludes 0: the adjusted p does not bear" in text
        assert not re.search(r"is (higher|lower) than", text)


def test_equal_spread_is_no_interval(tmp_path: Path) -> None:
    make_groups(tmp_path / "runs", {"aspo": [0.5] * 6, "grpo": [0.25] * 6})
    result = run_cli(tmp_path / "runs", "--out", tmp_path / "page.md")
    told = "do not tell aspo and grpo apart: the difference is +25.0 points with every seed, and without any spread"
    assert told in result.output
    assert not re.search(r"is (higher|lower) than", result.output)


def test_runs_without_log_probs_get_no_picture_of_weights(tmp_path: Path) -> None:
    runs = make_groups(tmp_path / "runs", {"aspo": [0.5, 0.6], "grpo": [0.5, 0.7]})
    lines = (runs[0] / "samples.jsonl").read_text()
    (runs[0] / "samples.jsonl").write_text(lines.replace('"log_probs"', '"other"'))
    assert run_cli(tmp_path / "runs", "--out", tmp_path / "page.md").exit_code == 0
    assert not (tmp_path / "page-weights.png").exists()
    why = section((tmp_path / "page.md").read_text(), "Weights of tokens by their probability")
    assert "its samples have no log_probs, which earlier versions did not record" in why


def test_without_accuracy_there_is_no_picture_of_differences(tmp_path: Path) -> None:
    for loss in ("aspo", "grpo"):
        for seed in (1, 2):
            make_run(tmp_path / "runs" / f"{loss}-{seed}", settings(loss, seed), evaluated=())
    result = run_cli(tmp_path / "runs", "--out", tmp_path / "page.md")
    assert "left out: held-out accuracy: no run recorded eval/avg@K" in result.output
    assert not (tmp_path / "page-differences.png").exists()
    page = (tmp_path / "page.md").read_text()
    assert "Not compared:\n\n- held-out accuracy: no run recorded" in page
    assert "## Final accuracy" not in page


def test_left_out_pairs_are_on_the_page(tmp_path: Path) -> None:
    make_groups(tmp_path / "runs", {"aspo": [0.5, 0.6, 0.7], "grpo": [0.5, 0.7]})
    result = run_cli(tmp_path / "runs", "--incomplete", "--out", tmp_path / "page.md")
    assert "left out: seed 3: grpo has no run with seed=3" in result.output
    assert "- seed 3: grpo has no run" in section((tmp_path / "page.md").read_text(), "What was compared")


def test_the_default_place_and_mistakes(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    make_groups(tmp_path / "runs", {"aspo": [0.5, 0.6], "grpo": [0.5, 0.7]})
    assert "page:    comparison.md" in run_cli("runs").output
    (tmp_path / "comparison.md").unlink()
    own = tmp_path / "own"
    own.write_text("of the user")
    for name in ("comparison.md", "comparison-curves.png", "comparison-differences.png", "comparison-weights.png"):
        (tmp_path / name).unlink(missing_ok=True)
        (tmp_path / name).symlink_to(own)
        with pytest.raises(ConfigError, match=rf"^--out: {name}: a link"):
            run_cli("runs")
        (tmp_path / name).unlink()
    assert own.read_text() == "of the user"
    with pytest.raises(UserError, match=r"^--out x.html: this is a page in Markdown"):
        run_cli("runs", "--out", "x.html")
    write_run(tmp_path / "alone", "entropy", {1: 1.0})
    with pytest.raises(UserError, match=r"^alone/config.yaml: no such file"):
        run_cli("alone")
    assert run_cli().exit_code == 2


@pytest.mark.filterwarnings("ignore:Glyph")  # letters that the font lacks
def test_names_of_others_are_text(tmp_path: Path) -> None:
    name = f"<b>$x$|_{HOSTILE}"
    make_groups(tmp_path / "runs", {"grpo": [0.5, 0.6]})
    for seed in (1, 2):
        make_run(tmp_path / "runs" / f"odd-{seed}", settings(name, seed))
    result = run_cli(tmp_path / "runs", "--out", tmp_path / "page.md", "--title", name)
    page = (tmp_path / "page.md").read_text()
    assert faults(page, own=False) == []
    assert faults(result.output, own=False) == []
    assert "<b>" not in page
