"""Faults in what responses are worth."""

from __future__ import annotations

from benchmarks.mutants.mutant import Mutant

MUTANTS: tuple[Mutant, ...] = (
    Mutant(
        "rewards/choice/reward.py",
        "stated",
        "in reversed(statements(read, known, is_formula=ends_in_a_formula(text)))",
        "in statements(read, known, is_formula=ends_in_a_formula(text))",
        ("rewards/test_choice.py::test_the_last_statement_counts",),
    ),
    Mutant(
        "rewards/choice/options.py",
        "Options._goes_with",
        "return own == letter and not _TAKEN_BACK",
        "return not _TAKEN_BACK",
        ("rewards/test_choice.py::test_where_none_is_stated_none_is_found",),
    ),
    Mutant(
        "rewards/choice/options.py",
        "Options._goes_with",
        " or _names_another(letter, clause, named):",
        ":",
        ("rewards/test_choice.py::test_where_none_is_stated_none_is_found",),
    ),
    Mutant(
        "rewards/choice/statements.py",
        "_states",
        "if doubts.governed(before) or",
        "if",
        ("rewards/test_choice.py::test_where_none_is_stated_none_is_found",),
    ),
    Mutant(
        "evaluation/choices.py",
        "_of_place",
        "kept.index(right) if right in kept else -1",
        "right if right in kept else -1",
        ("evaluation/test_choices.py",),
    ),
)
