"""Add runs to tests/metrics/recorded_runs.json.gz: what the alarms look at of their metrics, to four digits.

    python tools/record_runs.py --compared runs/aspo_vs_grpo/runs --ruined runs/collapse/runs

after examples/aspo_vs_grpo/compare.py and collapse.py. Runs of the same name are replaced, the others stay.
"""

from __future__ import annotations

import argparse
import gzip
import json
from collections.abc import Iterable, Mapping
from pathlib import Path

from aspo_megatron.api import read_metrics

DATA = Path(__file__).parents[1] / "tests" / "metrics" / "recorded_runs.json.gz"
KEPT = (
    "step", "reward/mean", "reward/failed", "groups/asked", "groups/all_agree", "response_tokens/mean",
    "response_tokens/cut", "repetition/mean", "approx_kl", "kl_ref", "clip/fraction", "entropy", "grad_norm",
    "eval/avg@4", "eval/problems", "eval/sampling_error",
)  # fmt: skip


def main() -> None:
    """Read the runs and write the file anew."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--compared", nargs="+", type=Path, default=[], metavar="RUNS", help="of compare.py")
    parser.add_argument("--ruined", nargs="+", type=Path, default=[], metavar="RUNS", help="of collapse.py")
    given = parser.parse_args()
    runs = json.loads(gzip.decompress(DATA.read_bytes())) | _recorded(given.compared, "")
    runs |= _recorded(given.ruined, "collapse/")
    content = json.dumps(dict(sorted(runs.items())), separators=(",", ":")).encode()
    DATA.write_bytes(gzip.compress(content, mtime=0))


def _recorded(folders: Iterable[Path], before: str) -> dict[str, list[dict[str, float]]]:
    """By the run's name, with `before` in front of it."""
    return {
        f"{before}{run.name}": [_kept(line) for line in read_metrics(run)]
        for folder in folders
        for run in sorted(folder.iterdir())
    }


def _kept(line: Mapping[str, float]) -> dict[str, float]:
    return {name: float(f"{line[name]:.4g}") for name in KEPT if name in line}


if __name__ == "__main__":
    main()
