"""Faults in the order of rows in Megatron parameters, and the names of tensors."""

from __future__ import annotations

from benchmarks.mutants.mutant import Mutant

MUTANTS: tuple[Mutant, ...] = (
    Mutant(
        "models/mapping.py",
        "qkv.order",
        "for source in (1, 2)",
        "for source in (2, 1)",
        ("models/test_mapping_by_hand.py",),
    ),
    Mutant(
        "models/mapping.py",
        "gate_up.order",
        "for rank in range(tp) for source in (0, 1)",
        "for source in (0, 1) for rank in range(tp)",
        ("models/test_mapping_by_hand.py",),
    ),
    Mutant(
        "models/mapping.py",
        "vocab.order",
        "Slice(PADDING, shape.vocab_size",
        "Slice(PADDING, shape.vocab_size + 1",
        ("models/test_mapping_by_hand.py",),
    ),
    Mutant(
        "models/mapping.py",
        "import_shard",
        "start + offset, stop + offset",
        "start, stop",
        ("models/test_mapping_by_hand.py",),
    ),
    Mutant(
        "models/mapping.py",
        "export_tensors",
        "-(-end // size)",
        "end // size",
        ("models/test_mapping_by_hand.py",),
    ),
    Mutant(
        "models/hf_names.py",
        "by_checkpoint_name",
        '("gate_proj", "up_proj")',
        '("up_proj", "gate_proj")',
        ("models/test_mapping_by_hand.py",),
    ),
)
