"""The figure as text: scale, alignment, and terminals that have ASCII alone."""

from __future__ import annotations

import io
from pathlib import Path

from plots.made_runs import make_run, write_run
from rich.console import Console

from aspo_megatron.plots.series import Series, read_series
from aspo_megatron.plots.text import print_figure


def printed(series: list[Series], width: int = 80, encoding: str = "utf-8") -> list[str]:
    raw = io.BytesIO()
    file = io.TextIOWrapper(raw, encoding=encoding)
    print_figure(series, Console(file=file, width=width), smooth=1)
    file.flush()
    return raw.getvalue().decode(encoding).splitlines()


def test_curves_of_a_panel_share_scale_and_steps(tmp_path: Path) -> None:
    write_run(tmp_path / "up", "entropy", {step: step / 8 for step in range(9)})
    write_run(tmp_path / "short", "entropy", dict.fromkeys(range(4, 7), 1.0))
    lines = printed(read_series([tmp_path / "up", tmp_path / "short"], {}), width=38)
    assert lines[0] == "steps 0 to 8; first value, curve, final figure"
    assert lines[2] == "Entropy  nats per token, 0 to 1.000"
    assert lines[3].startswith("  up        0 ▁")
    assert lines[3].endswith("█ 1.000")
    first, last = lines[3].index("▁"), lines[3].rindex("█")
    curve = lines[4][first : last + 1]
    assert curve.strip() == "█" * len(curve.strip())
    assert curve.startswith("     ")  # it begins in the middle
    assert curve.endswith("  ")
    assert "not recorded: Held-out accuracy, Training reward" in lines[-1]


def test_everything_fits_in_80_columns(tmp_path: Path) -> None:
    runs = {name: [make_run(tmp_path / f"{name}{seed}", seed=seed) for seed in (1, 2)] for name in ("aspo", "n" * 70)}
    lines = printed(read_series([make_run(tmp_path / "one")], runs))
    assert max(map(len, lines)) <= 80
    assert any("…" in line for line in lines)
    assert sum("±" in line for line in lines) == 28


def test_a_constant_and_a_single_step(tmp_path: Path) -> None:
    write_run(tmp_path / "flat", "entropy", {step: 0.5 + 1e-12 * step for step in range(80)})  # but for rounding
    lines = printed(read_series([tmp_path / "flat"], {}))
    assert lines[2] == "Entropy  nats per token, 0.5000 throughout"
    assert set(lines[3].split()[1]) == {"▄"}
    write_run(tmp_path / "single", "entropy", {7: 0.5})
    line = printed(read_series([tmp_path / "single"], {}))[3]
    assert line.count("▄") == 1


def test_runs_of_a_group_without_a_common_step(tmp_path: Path) -> None:
    runs = [write_run(tmp_path / name, "entropy", {step: 1.0}) for name, step in (("a", 1), ("b", 2))]
    assert "no step that all runs have" in "\n".join(printed(read_series([], {"g": runs})))


def test_ascii_terminal(tmp_path: Path) -> None:
    write_run(tmp_path / "run", "entropy", {step: float(step) for step in range(40)})
    line = printed(read_series([tmp_path / "run"], {}), encoding="ascii")[3]
    assert line.split()[1][0] == "_"
    assert line.split()[1][-1] == "#"


def test_log_scale(tmp_path: Path) -> None:
    write_run(tmp_path / "run", "engine_log_prob_diff/mean", {1: 1e-6, 2: 1e-4, 3: 1e-2})
    lines = printed(read_series([tmp_path / "run"], {}), width=200)
    assert "1e-06 to 0.01000 (log)" in lines[2]
    middle = lines[3][lines[3].index("▁") : lines[3].index("█") + 1]
    assert middle[len(middle) // 2] in "▄▅"


def test_settings_that_differ_are_listed(tmp_path: Path) -> None:
    for name in ("aspo", "grpo"):
        write_run(tmp_path / name, "entropy", {1: 1.0})
        (tmp_path / name / "config.yaml").write_text(f"loss: {{name: {name}}}\n")
    lines = printed(read_series([tmp_path / "aspo", tmp_path / "grpo"], {}))
    assert lines[-4:] == ["Settings that differ", " loss.name", "  aspo aspo", "  grpo grpo"]
