r"""The signs of sets of real numbers, one for each meaning: `<=` and `\leqslant` are `≤`, `or` and `\vee` are `∨`."""

from __future__ import annotations

import re

from aspo_megatron.rewards.mathematics.forms.tidy import tidied
from aspo_megatron.rewards.mathematics.forms.words import says_all

NAME = r"(?:(?![ei](?![a-zA-Z_]))[A-Za-z]|\\(?:alpha|beta|theta|lambda|mu|omega|phi|varphi))(?:_\{?\w\}?)?"
"""A variable; e and i are numbers."""

_LONGEST = 400
_GROUP = r"\\(?:text|textrm|textbf|textit|mathrm|mbox)\s*"
_OR, _AND = r"or|\u6216\u8005?", r"and|\u5e76?\u4e14"
_MARKED = tuple(
    (re.compile(rf"{_GROUP}\{{[\s,]*(?:{word})[\s,]*\}}|(?<![A-Za-z\\])(?:{word})(?![A-Za-z])"), sign)
    for word, sign in ((_OR, r" \\lor "), (_AND, r" \\land "))
)
_JOIN = re.compile(r"\\(lor|vee|land|wedge)(?![a-zA-Z])")
_RELATION = re.compile(r"[<>\u2264\u2265\u2260\u2208]|\\(?:(?:l|g|n)(?:e|eq|eqslant|t)|in|not)(?![a-zA-Z])")
_HINT = re.compile(rf"{_RELATION.pattern}|\\(?:infty|cup|bigcup|mid)(?![a-zA-Z])|R|[\u211d\u221e\u222a]|(?i:real)")
_BRACKETS = frozenset("[(])")
_REALS = r"[aA]ll reals?(?: numbers?)?(?: [a-z])?,?"
_SIGNS = tuple(
    (re.compile(pattern), sign)
    for pattern, sign in (
        (r"\\(?:left|right|middle|displaystyle|[bB]igg?[lrm]?)(?![a-zA-Z])", ""),
        (r"(?:\\[,;:! ]|\\q?quad(?![a-zA-Z])|[~\s])+", " "),
        (r"\A\\text ?\{([^{}]*[<>][^{}]*)\}\Z", r"\1"),
        (r"\\(?:lor|vee)(?![a-zA-Z])", "\u2228"),
        (r"\\(?:land|wedge)(?![a-zA-Z])", "\u2227"),
        (r"\\(?:big)?cup(?![a-zA-Z])|(?<=[\])\[]) ?U ?(?=[\[(\]\\])", "\u222a"),
        (r"\\(?:leqslant|leqq|leq|le)(?![a-zA-Z])|<=|=<", "\u2264"),
        (r"\\(?:geqslant|geqq|geq|ge)(?![a-zA-Z])|>=", "\u2265"),
        (r"\\(?:neq|ne)(?![a-zA-Z])|\\not ?=|!=", "\u2260"),
        (r"\\lt(?![a-zA-Z])", "<"),
        (r"\\gt(?![a-zA-Z])", ">"),
        (r"(?:\+ ?)?\\infty(?![a-zA-Z])", "\u221e"),
        (r"\\mathbb ?(?:\{ ?R ?\}|R)|\\Re(?![a-zA-Z])|(?<=\\in )R(?![a-zA-Z])|\AR\Z", "\u211d"),
        (r"\\in(?![a-zA-Z])", "\u2208"),
        (r"\\(?:mid|[lr]?vert)(?![a-zA-Z])", "|"),
        (r"\\(?:setminus|backslash)(?![a-zA-Z])|(?<=[\u211d)]) ?[-\\] ?(?=\\\{)", "\u2216"),
        (r" ?\\subset(?:eq)?(?![a-zA-Z]) ?\u211d ?\Z", ""),
        (r"\A(?:\\text ?\{ ?(?:for )?all ?\}|\\forall|all(?= [a-zA-Z] ?[<>\u2264\u2265\u2260]))", ""),
        (rf"\A ?{NAME} ?\\text ?\{{ ?such that ?\}}", ""),
        (
            rf"\A ?(?:\\text ?\{{ ?)?{_REALS} (?:except(?: for)?|other than) ?\}}?([^a-zA-Z]+)\Z",
            "\u211d\u2216\\\\{\\1\\\\}",
        ),
        (r"(?:\A|(?<=[\u2208\u222a\u2216,;\u2228\u2227])) ?\]", "("),
        (r"\[ ?(?=\Z|[\u222a\u2216\u2228\u2227,;])", ")"),
        (r"(?:[,;] ?)?([\u2228\u2227])(?: ?[,;])?", r"\1"),
        (rf"({NAME}) ?\u2260 ?\\pm ?([^,;<>\u2264\u2265\u2260=\u2227\u2228]+)", "\\1\u2260\\2,\\1\u2260-(\\2)"),
    )
)


def may_be_set(formula: str) -> bool:
    """Whether a formula has something of a set of real numbers in it, which takes no time to tell."""
    if len(formula) > _LONGEST:
        return False
    is_list = ("," in formula or ";" in formula) and not _BRACKETS.isdisjoint(formula)
    return is_list or _HINT.search(formula) is not None


def plain_signs(formula: str) -> str:
    """A formula with one sign for each relation and join, without what is only looks; "" if it is too long."""
    if len(formula) > _LONGEST:
        return ""
    if says_all(formula):
        return "\u211d"
    text = tidied(_marked(formula))
    for pattern, sign in _SIGNS:
        text = pattern.sub(sign, text)
    return text.strip()


def joins(formula: str) -> list[str]:
    """Which of `and` and `or` stand between relations, in turn; nothing if there are no relations."""
    if not _RELATION.search(formula):
        return []
    return ["or" if each in ("lor", "vee") else "and" for each in _JOIN.findall(_marked(formula))]


def joined_otherwise(reference: str, answer: str) -> bool:
    """Whether one has `and` between relations where the other one has `or`."""
    first, second = joins(reference), joins(answer)
    return bool(first and second and first != second)


def _marked(formula: str) -> str:
    for pattern, sign in _MARKED:
        formula = pattern.sub(sign, formula)
    return formula
