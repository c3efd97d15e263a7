"""Answers of kinds that are compared without algebra: sets of real numbers, words, numbers in a base."""

from __future__ import annotations

from aspo_megatron.rewards.mathematics.compare.pairs import same_forms
from aspo_megatron.rewards.mathematics.compare.ratios import is_about_ratio, same_ratio, with_colons
from aspo_megatron.rewards.mathematics.compare.real_sets import same_real_sets
from aspo_megatron.rewards.mathematics.forms.numerals import same_in_base, same_separators
from aspo_megatron.rewards.mathematics.forms.set_signs import joined_otherwise
from aspo_megatron.rewards.mathematics.forms.tidy import tidied
from aspo_megatron.rewards.mathematics.forms.words import both_say_none, read_word_reference, read_words


def alike(reference: str, answer: str, question: str) -> tuple[str, str] | None:
    """Both in forms that can be compared; None if they cannot be the same, as one tells an order and one none.

    Args:
        reference: as it is given.
        answer: what is in the box.
        question: the problem.
    """
    wanted = with_colons(reference, reads_to=is_about_ratio(question))
    given = with_colons(answer, reads_to=":" in wanted)
    return same_forms(*same_separators(wanted, given))


def same_in_kind(reference: str, answer: str, question: str) -> bool | None:
    """Whether an answer is the same as a reference of such a kind; None if they are of none, or of different ones.

    Args:
        reference: as it is given.
        answer: what is in the box.
        question: the problem.
    """
    same = same_real_sets(reference, answer, question)
    if same is None:
        same = same_ratio(reference, answer, question)
    if same is not None:
        return same
    if both_say_none(reference, answer):
        return True
    if joined_otherwise(reference, answer):
        return False
    words, given = read_word_reference(reference), read_words(answer)
    if words is not None and given is not None:
        return words == given
    return same_in_base(tidied(reference), tidied(answer))
