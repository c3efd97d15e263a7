"""What `aspo quantize` says: quantization.json, and a table for people."""

from __future__ import annotations

import json
import re
from collections import Counter
from collections.abc import Iterable
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from aspo_megatron.files import write_whole
from aspo_megatron.foreign_text import one_line
from aspo_megatron.quantize.change import AccuracyChange, LogProbChange

REPORT_FILE = "quantization.json"


@dataclass(frozen=True)
class Report:
    """All that is known of a quantised model.

    Attributes:
        source: the folder or checkpoint.
        format: name of the format.
        layout: how it is written.
        group_size: weights that share a scale, of int4-awq; None elsewhere.
        modelopt: its version.
        bytes_before: of the weights' files.
        bytes_after: the same.
        quantized: how many layers of each kind are quantised, e.g. {"self_attn.q_proj": 30}.
        kept: tensors that are not, with their precision, by kind.
        calibration: sequences, those with a response, and tokens.
        asked: `held-out` or `training` problems.
        log_probs: their change.
        accuracy: its change.
        largest_difference: between the written weights, read back, and those that were measured, relative to a
            tensor's largest.
    """

    source: str
    format: str
    layout: str
    group_size: int | None
    modelopt: str
    bytes_before: int
    bytes_after: int
    quantized: dict[str, int]
    kept: dict[str, str]
    calibration: dict[str, int]
    asked: str
    log_probs: LogProbChange
    accuracy: AccuracyChange
    largest_difference: float

    def write(self, folder: Path) -> None:
        """As `quantization.json` in a folder."""
        write_whole(folder / REPORT_FILE, json.dumps(self.as_json(), indent=2) + "\n")

    def as_json(self) -> dict[str, Any]:
        """Plain values."""
        return asdict(self)

    def text(self) -> str:
        """A table."""
        accuracy, log_probs = self.accuracy, self.log_probs
        difference = accuracy.difference
        interval = "" if difference.low is None or difference.high is None else (
            f"  ({100 * difference.low:+.1f} to {100 * difference.high:+.1f})"
        )  # fmt: skip
        share = self.bytes_after / self.bytes_before
        rows = [
            (
                "size of weights",
                f"{self.bytes_before / 1e6:,.1f} MB",
                f"{self.bytes_after / 1e6:,.1f} MB  ({share:.1%})",
            ),
            (f"accuracy, {accuracy.problems} {self.asked} problems", str(accuracy.original), str(accuracy.quantized)),
            ("  difference in points", "", f"{100 * difference.value:+.1f}{interval}"),
            (f"log-probs of {log_probs.tokens:,} tokens: mean change", "", f"{log_probs.mean:.4f} nats"),
            ("  largest change", "", f"{log_probs.max:.4f} nats"),
            ("  KL per token (k3)", "", f"{log_probs.kl:.5f} nats"),
            ("weights read back", "", f"{self.largest_difference:.1e} of the largest"),
        ]
        lines = [f"{'':<44} {'original':<26} {self.format}"]
        lines += [f"{name:<44} {before:<26} {after}".rstrip() for name, before, after in rows]
        counted = ", ".join(f"{count} {kind}" for kind, count in self.quantized.items())
        kept = ", ".join(f"{kind} ({dtype})" for kind, dtype in self.kept.items())
        return "\n".join(map(one_line, [*lines, f"quantised: {counted}", f"kept: {kept}"]))


def by_kind(names: Iterable[str]) -> dict[str, int]:
    """How many of each kind: names without their layer's prefix."""
    return dict(Counter(re.sub(r"^model\.layers\.\d+\.", "", name) for name in names))
