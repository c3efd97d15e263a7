"""Ranks and model folders that all tests of the parallel core share."""

from __future__ import annotations

import math
from collections import defaultdict
from collections.abc import Callable
from pathlib import Path

import pytest


@pytest.fixture(scope="session")
def folders(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """Tiny random models, by name."""
    from tiny_models import llama_folder, qwen2_folder, qwen3_folder, qwen3_moe_folder

    root = tmp_path_factory.mktemp("models")
    return {
        "llama-tied": llama_folder(root / "llama-tied", tied=True, num_hidden_layers=4),
        "llama": llama_folder(root / "llama", tied=False),
        "qwen2": qwen2_folder(root / "qwen2", tied=False),
        "qwen3": qwen3_folder(root / "qwen3", tied=True),
        "qwen3-moe": qwen3_moe_folder(root / "qwen3-moe", num_hidden_layers=4),
        "qwen3-moe-unscaled": qwen3_moe_folder(root / "qwen3-moe-unscaled", norm_topk_prob=False),
        "two-kv-heads": qwen2_folder(root / "two-kv-heads", tied=False, num_attention_heads=4, num_key_value_heads=2),
        "one-kv-head": llama_folder(root / "one-kv-head", tied=True, num_attention_heads=4, num_key_value_heads=1),
    }


MatrixRow = Callable[[str, float, float], None]
_ROW = "layout against one process"


@pytest.fixture
def matrix_row(record_property: Callable[[str, object], None]) -> MatrixRow:
    """Notes a layout's worst differences for the table at the end."""

    def note(layout: str, gradient: float, weight: float) -> None:
        record_property(_ROW, (layout, gradient, weight))

    return note


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter) -> None:
    """The table of layouts, and the rows that need GPUs which are not there."""
    skipped = [
        report.longrepr[2] for report in terminalreporter.stats.get("skipped", []) if "GPUs" in report.longrepr[2]
    ]
    if skipped:
        terminalreporter.section("layouts not run")
        terminalreporter.write_line("\n".join(reason.removeprefix("Skipped: ") for reason in skipped))
    worst: defaultdict[str, list[tuple[float, float]]] = defaultdict(list)
    for report in (*terminalreporter.stats.get("passed", []), *terminalreporter.stats.get("failed", [])):
        for name, row in report.user_properties:
            if name == _ROW:
                worst[row[0]].append((row[1], row[2]))
    if not worst:
        return
    terminalreporter.section("layouts against one process")
    terminalreporter.write_line(f"{'layout':<34}{'compared':>9}{'gradients':>11}{'weights':>10}")
    for layout, pairs in worst.items():
        gradients, weights = zip(*pairs, strict=True)
        weight = "-" if math.isnan(weights[0]) else f"{max(weights):.1e}"
        terminalreporter.write_line(f"{layout:<34}{len(pairs):>9}{max(gradients):>11.1e}{weight:>10}")
    terminalreporter.write_line(
        "gradients: worst difference relative to the parameter's largest gradient (bf16: error against fp32, relative "
        "to the gradient's norm); weights: absolute, after two updates"
    )
