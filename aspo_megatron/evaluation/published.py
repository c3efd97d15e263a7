"""Results that were published, in percent, to stand beside one's own. What was not published is left out.

`PAPER` is the ASPO paper, whose setting `aspo eval --benchmark` takes over. `ARCHER` is the paper before it, by the
same authors in the same setting, and `ARCHER_README` the page of its code, which alone has FastCuRL. "Nemotron-1.5B" is
Nemotron-Research-Reasoning-Qwen-1.5B; the papers do not say which of its two versions.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

from aspo_megatron.data.thinking import Thinking

PAPER = "arXiv 2510.06062v2, tables 1 to 3"
ABLATIONS = "arXiv 2510.06062v2, table 4"
ARCHER = "arXiv 2507.15778, tables 1 and 2"
ARCHER_README = "github.com/wizard-III/ArcherCodeR, README"

MATH = ("aime24", "aime25", "amc23", "math500", "minerva", "olympiad")
CODE = ("livecodebench-v5", "livecodebench-v6")
CHOICE = ("arc-c", "gpqa-diamond", "mmlu-pro")

UNCERTAIN = (
    "of table 3, which does not say how it asked and graded; on GPQA-Diamond its base models are below guessing, so "
    "often no answer can have been found"
)
ODD_GPQA = f"{UNCERTAIN}; the average printed for this row would need half of this figure"
_ODD = ("GRPO-8B", "ASPO-Math-8B")

_THINKING: dict[str, Thinking] = {"1.5B": "on", "4B": "off", "8B": "off", "30B": "off"}
"""By size: Qwen3 without thinking (section 7.1, footnote 1; Archer's GRPO rows are the same); R1's models always do."""


@dataclass(frozen=True)
class Published:
    """A row of a published table.

    Attributes:
        model: as the source calls it.
        base: size of the model that it was trained from.
        source: where it stands.
        average: avg@K by benchmark, K as in `benchmarks.BENCHMARKS`; of `CHOICE` K is not published.
        passed: pass@K by benchmark, where it was published.
        doubts: what to know before a benchmark's figure is compared with, by benchmark.
    """

    model: str
    base: str
    source: str
    average: Mapping[str, float]
    passed: Mapping[str, float]
    doubts: Mapping[str, str] = field(default_factory=dict)

    @property
    def thinking(self) -> Thinking:
        """Whether the model was asked to think."""
        return _THINKING[self.base]


def _row(model: str, base: str, source: str, math: str = "", code: str = "", choice: str = "") -> Published:
    """From a table's row: avg@K and pass@K of each benchmark in turn; of `choice` the averages alone."""
    average: dict[str, float] = {}
    passed: dict[str, float] = {}
    for names, text in ((MATH, math), (CODE, code)):
        numbers: Sequence[float] = [float(word) for word in text.split()]
        if numbers:
            average |= zip(names, numbers[0::2], strict=True)
            passed |= zip(names, numbers[1::2], strict=True)
    if not choice:
        return Published(model, base, source, average, passed)
    average |= zip(CHOICE, map(float, choice.split()), strict=True)
    doubts = dict.fromkeys(CHOICE, UNCERTAIN) | ({"gpqa-diamond": ODD_GPQA} if model in _ODD else {})
    return Published(model, base, source, average, passed, doubts)


def _ablation(model: str, math: str) -> Published:
    """From a row of table 4, of Qwen3-4B: averages alone. Its first and last row are those of table 1."""
    return Published(model, "4B", ABLATIONS, dict(zip(MATH, map(float, math.split()), strict=True)), {})


PUBLISHED: tuple[Published, ...] = (
    _row(
        "DeepSeek-R1-Distill-Qwen-1.5B", "1.5B", PAPER,
        "30.6 80.0  23.5 63.3  70.7 100.0  83.6 92.4  27.6 48.2  44.6 59.4", "16.7 29.0  17.2 34.4",
    ),
    _row(
        "GRPO-1.5B", "1.5B", PAPER,
        "42.1 80.0  28.6 56.7  80.3 97.5  87.6 94.6  29.2 46.3  53.2 65.8", "26.0 40.5  27.6 43.5",
    ),
    _row("DeepScaleR-1.5B", "1.5B", PAPER, "42.0 83.3  29.0 63.3  81.3 100.0  87.7 93.6  30.3 51.1  50.7 61.0"),
    _row("DeepCoder-1.5B", "1.5B", PAPER, code="23.3 39.1  22.6 42.0"),
    _row(
        "FastCuRL-1.5B-V3", "1.5B", ARCHER_README,
        "48.1 80.0  32.7 60.0  86.4 95.0  89.8 94.0  33.6 50.0  55.3 64.3",
    ),
    _row(
        "Nemotron-1.5B", "1.5B", PAPER,
        "48.0 76.7  33.1 60.0  86.1 97.5  90.6 93.6  35.3 47.8  59.2 66.8", "26.1 35.5  29.5 42.8",
    ),
    _row("Archer-Math-1.5B", "1.5B", ARCHER, "48.7 83.3  33.8 70.0  86.0 97.5  90.8 94.4  35.7 51.1  59.3 67.1"),
    _row("Archer-Code-1.5B", "1.5B", ARCHER, code="29.4 43.7  30.2 45.8"),
    _row("ASPO-Math-1.5B", "1.5B", PAPER, "49.0 80.0  35.1 70.0  87.2 95.0  90.5 94.4  35.1 50.4  58.8 66.9"),
    _row("ASPO-Code-1.5B", "1.5B", PAPER, code="31.5 47.0  30.5 46.0"),
    _row(
        "Qwen3-4B", "4B", PAPER,
        "23.6 56.7  18.3 63.3  67.7 95.0  84.5 92.4  41.5 56.3  54.1 66.6", "23.8 35.8  24.0 35.1", "74.7 14.3 31.5",
    ),
    _row(
        "GRPO-4B", "4B", PAPER,
        "43.4 83.3  35.5 70.0  84.3 97.5  91.7 95.8  47.2 58.5  67.4 75.8", "40.8 55.2  36.6 45.0", "90.1 29.2 49.6",
    ),
    _ablation("GRPO-4B without importance sampling", "46.4 36.3 88.9 92.9 49.3 67.2"),
    _ablation("GRPO-4B with positive responses' mean ratio", "46.5 42.3 87.4 92.0 48.6 67.1"),
    _row("Archer-Math-4B", "4B", ARCHER, "51.4 83.3  43.1 70.0  91.0 97.5  95.1 97.4  51.2 60.7  71.6 79.4"),
    _row("Archer-Code-4B", "4B", ARCHER, code="42.1 57.0  37.5 48.1"),
    _row(
        "ASPO-Math-4B", "4B", PAPER,
        "50.5 83.3  40.9 70.0  87.4 97.5  93.4 97.0  49.0 60.7  68.8 78.5", choice="87.6 37.3 53.5",
    ),
    _row("ASPO-Code-4B", "4B", PAPER, code="44.8 58.1  38.3 47.3"),
    _row(
        "Qwen3-8B", "8B", PAPER,
        "27.0 63.3  19.1 56.7  68.9 97.5  83.6 92.4  43.9 58.1  55.7 69.6", choice="52.9 8.6 29.6",
    ),
    _row(
        "GRPO-8B", "8B", PAPER,
        "50.3 83.3  34.1 66.7  84.1 95.0  92.7 96.0  50.2 61.4  68.2 76.1", choice="62.4 33.0 42.9",
    ),
    _row("Archer-Math-8B", "8B", ARCHER, "56.1 76.7  43.6 73.3  91.8 97.5  94.8 97.8  51.5 62.1  69.4 77.3"),
    _row(
        "ASPO-Math-8B", "8B", PAPER,
        "52.4 83.3  38.9 80.0  89.1 97.5  93.6 96.4  50.6 60.7  69.8 77.9", choice="88.6 56.3 57.4",
    ),
    _row("Qwen3-30B-A3B", "30B", PAPER, "30.1 70.0  19.9 56.7  74.3 100.0  88.4 96.0  47.7 59.6  59.6 71.2"),
    _row("GRPO-30B", "30B", PAPER, "59.5 80.0  43.1 73.3  91.9 97.5  95.3 97.8  51.9 61.8  71.0 79.2"),
    _row("Archer-Math-30B", "30B", ARCHER, "70.3 90.0  53.9 86.7  94.4 97.5  96.4 99.0  55.5 64.7  77.4 84.0"),
    _row("ASPO-Math-30B", "30B", PAPER, "61.7 90.0  50.3 80.0  94.9 97.5  95.7 98.4  54.3 64.3  74.3 81.5"),
)  # fmt: skip

BASES = tuple(dict.fromkeys(row.base for row in PUBLISHED))
