"""Write tests/metrics/recorded_runs.json.gz: what the alarms look at, of runs that were made.

    python tools/record_runs.py runs/aspo_vs_grpo/runs runs/collapse/runs

after examples/aspo_vs_grpo/compare.py --seeds 12 and collapse.py. Numbers have four digits. Runs of the file that no
command makes any more, `sudden/`, stay.
"""

from __future__ import annotations

import gzip
import json
import sys
from collections.abc import Mapping
from pathlib import Path

from aspo_megatron.api import read_metrics

DATA = Path(__file__).parents[1] / "tests" / "metrics" / "recorded_runs.json.gz"
KEPT = (
    "step", "reward/mean", "reward/failed", "groups/asked", "groups/all_agree", "response_tokens/mean",
    "response_tokens/cut", "repetition/mean", "approx_kl", "kl_ref", "clip/fraction", "entropy", "grad_norm",
    "eval/avg@4", "eval/problems", "eval/sampling_error",
)  # fmt: skip


def recorded(compared: Path, ruined: Path) -> dict[str, list[dict[str, float]]]:
    """By the run's name; those that were made to collapse have `collapse/` before it."""
    before = json.loads(gzip.decompress(DATA.read_bytes()))
    folders = {run.name: run for run in sorted(compared.iterdir())}
    folders |= {f"collapse/{run.name}": run for run in sorted(ruined.iterdir())}
    found = {name: [_kept(line) for line in read_metrics(run)] for name, run in folders.items()}
    return found | {name: run for name, run in before.items() if name.startswith("sudden/")}


def _kept(line: Mapping[str, float]) -> dict[str, float]:
    return {name: float(f"{line[name]:.4g}") for name in KEPT if name in line}


if __name__ == "__main__":
    content = json.dumps(recorded(Path(sys.argv[1]), Path(sys.argv[2])), separators=(",", ":")).encode()
    DATA.write_bytes(gzip.compress(content, mtime=0))
