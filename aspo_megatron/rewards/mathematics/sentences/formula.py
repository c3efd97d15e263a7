r"""The whole plain formula in a sentence that a number is part of: `The answer is 3x + 1.` says 3x + 1, and not 3.

Also what words around a number make of it: `3 million`, `negative 3`, `at least 3`, `3 or more`, `not 3`.
"""

from __future__ import annotations

from aspo_megatron.rewards.mathematics.sentences.latex import as_formula
from aspo_megatron.rewards.mathematics.sentences.tokens import Tokens, words
from aspo_megatron.rewards.mathematics.sentences.words import (
    JOINING,
    is_after_is,
    is_bound,
    is_changed,
    is_negative,
    scale_ends,
)

_JOINING_TWO = frozenset({("out", "of"), ("divided", "by"), ("multiplied", "by")})
_OF_LISTS = words("and or & \u548c \u6216 \u6216\u8005")
_BEFORE_NO_LIST = words(
    "in on at by with for after before from of since step day year case when if as to part line about june july"
)
_RELATION = words(r"< > / ^ _ <= >= != \le \leq \ge \geq \ne \neq \lt \gt \in \notin \mid \equiv")
_FORMULA = frozenset(
    ("number", "formula", "command", "variable", "function", "sign", "open", "close", "comma", "after")
)
_OPERAND = frozenset(("number", "formula", "command", "variable", "function"))
_LOOKED_AT = 40
_LONGEST = 200

REFUSED = ""
"""What is said cannot be told from the formula alone."""


def said(tokens: Tokens, first: int, last: int, *, from_here: bool = False, lists: bool = True) -> str | None:
    """The formula that tokens are part of, as LaTeX; `REFUSED` if it cannot be told; None if they are all of it.

    Args:
        tokens: of a text.
        first: the first one that is known to be part of the formula.
        last: the last one.
        from_here: no formula goes on before the first one.
        lists: commas may join members of a list.
    """
    text, start, end = tokens.text, first, last
    for _ in range(_LONGEST):
        around = None if from_here else _brackets_around(tokens, start, end)
        start, end = around or (start, end)
        right = _right(tokens, end, lists)
        left = start if from_here else _left(tokens, start, end, lists)
        if right is None or left is None:
            return REFUSED
        if (left, right) == (start, end) and around is None:
            break
        start, end = left, right
    opens = tokens[start].start
    before = "" if from_here else text[max(0, opens - _LOOKED_AT) : opens].rpartition("\n")[2]
    is_equation = _has_equals(tokens, start, end)
    if not is_equation and is_bound(before):
        return REFUSED
    if (start, end) == (first, last):
        return None
    if is_equation:
        start = _last_side(tokens, start, end)
    return as_formula(text[tokens[start].start : tokens[end].end])


def _has_equals(tokens: Tokens, first: int, last: int) -> bool:
    return any(tokens[index].text == "=" for index in range(first, last + 1))


def _last_side(tokens: Tokens, first: int, last: int) -> int:
    """Where the last side of an equation begins if the first one is all numbers; else where the equation does."""
    equals = [index for index in range(first, last + 1) if tokens[index].text == "="]
    kinds = {tokens[index].kind for index in range(first, equals[0])}
    is_list = any(tokens[index].kind in ("comma", "word") for index in range(first, last + 1))
    return first if is_list or not kinds <= {"number", "sign", "open", "close", "after"} else equals[-1] + 1


def _right(tokens: Tokens, last: int, lists: bool) -> int | None:
    """The last token of the formula; None if words behind it change what it says."""
    comma = None
    for _ in range(_LONGEST):
        token, end = tokens[last + 1], None
        if token.kind in ("word", "after"):
            end = _behind(tokens, last)
            if end is None:
                return None
            if end == last and token.kind == "word" and comma is not None:
                return comma
        if end is None or end == last:
            end = _joined(tokens, last)
        if end is None or end == last:
            if token.kind == "comma" and lists and tokens[last + 2].spaced:
                end = _operand(tokens, last + 2 + (tokens[last + 2].text in _OF_LISTS))
                comma = last if comma is None else comma
            elif token.kind in ("open", *_OPERAND):
                end = _beside(tokens, last)
                if end is None:
                    return None
        if end is None or end == last:
            return None if _is_open_ended(tokens, last) else last
        last = end
    return None


def _joined(tokens: Tokens, last: int) -> int | None:
    """The last token of an operand that a sign or a word joins."""
    token, following = tokens[last + 1], tokens[last + 2]
    if token.kind == "sign":
        if token.text == ":" and following.spaced and not token.spaced:
            return None
        return _operand(tokens, last + 2)
    if (token.text.lower(), following.text.lower()) in _JOINING_TWO:
        return _operand(tokens, last + 3)
    return _operand(tokens, last + 2) if token.text.lower() in JOINING else None


def _is_open_ended(tokens: Tokens, last: int) -> bool:
    """Whether a sign is left without anything behind it that it could be with: `3+`, `3 >`, `3-digit`."""
    token, following = tokens[last + 1], tokens[last + 2]
    if token.text == "'" and not token.spaced:
        return tokens[last].kind == "variable"
    if token.kind != "sign":
        return token.text == "." and following.kind == "variable" and not token.spaced and not following.spaced
    if token.text in ("-", "/") and not token.spaced and not following.spaced and following.kind == "word":
        return token.text == "-"
    return token.text == "+" or (token.text in _RELATION and token.text not in ("/", "_"))


def _beside(tokens: Tokens, last: int) -> int | None:
    """The last token of what stands right behind; the same if that is another thing; None if two numbers do."""
    token, following = tokens[last], tokens[last + 1]
    if following.kind == "number":
        return last + 1 if token.kind in ("command", "function", "variable") else None
    if following.kind != "open":
        return last + 1
    end = tokens.pairs.get(last + 1)
    if end is None:
        return last
    is_argument = "{" in following.text and (token.kind in ("command", "close") or token.text in "^_")
    is_modulus = tokens[last + 2].text in ("mod", "modulo")
    goes_on = is_argument or is_modulus or not following.spaced
    return end if goes_on and (is_argument or _is_formula(tokens, last + 1, end)) else last


def _operand(tokens: Tokens, first: int) -> int | None:
    """The last token of what starts there if that is a number, a name, or something in brackets."""
    while tokens[first].text in ("-", "+", r"\pm") and tokens[first].kind == "sign":
        first += 1
    if tokens[first].kind in _OPERAND:
        return first
    end = tokens.pairs.get(first) if tokens[first].kind == "open" else None
    return end if end is not None and _is_formula(tokens, first, end) else None


def _behind(tokens: Tokens, last: int) -> int | None:
    """The last token of a word that is a factor; the same if a word is none; None if it makes something else of it."""
    token = tokens[last + 1]
    if token.kind == "after":
        is_shout = token.text == "!" and (tokens[last + 2].spaced or tokens[last + 2].text == "")
        return last if is_shout else last + 1
    text = tokens.text[token.start : token.start + 2 * _LOOKED_AT]
    scale = scale_ends(text) if tokens[last].kind in ("number", "formula") else 0
    if scale:
        return tokens.starting_before(token.start + scale)
    return None if is_changed(text) else last


def _left(tokens: Tokens, first: int, last: int, lists: bool) -> int | None:
    """The first token of the formula; None if what is before it makes something else of it."""
    after_comma = None
    for _ in range(_LONGEST):
        start = _before(tokens, first, lists)
        if start is None:
            return first if _has_equals(tokens, first, last) else None
        if start == first:
            break
        if after_comma is None and tokens[first - 1].kind == "comma":
            after_comma = first
            if _has_equals(tokens, first, last) and tokens[start - 1].text != "=":
                break
        first = start
    is_no_list = after_comma is not None and tokens[first - 1].text.lower() in _BEFORE_NO_LIST
    return after_comma if is_no_list else first


def _before(tokens: Tokens, first: int, lists: bool) -> int | None:
    """The first token of what is joined to a formula from the left; the same if nothing is."""
    token = tokens[first - 1]
    if token.kind == "sign":
        return _before_sign(tokens, first)
    if token.kind == "word":
        return _before_word(tokens, first, lists)
    if token.kind == "comma":
        start = _operand_before(tokens, first - 2) if lists and tokens[first].spaced else None
        return first if start is None else start
    if token.kind == "number":
        return None if tokens[first].kind == "number" else first - 1
    if token.kind in _OPERAND:
        return first - 1
    start = tokens.pairs.get(first - 1) if token.kind == "close" and not tokens[first].spaced else None
    return start if start is not None and _is_formula(tokens, start, first - 1) else first


def _before_word(tokens: Tokens, first: int, lists: bool) -> int:
    """The first token of what `and`, `plus` or another word joins; the minus that a word is; the same if it is none."""
    token, before = tokens[first - 1], tokens[first - 2]
    two = (before.text.lower(), token.text.lower()) in _JOINING_TWO
    two = two or (lists and before.kind == "comma" and token.text in _OF_LISTS)
    is_joined = two or token.text.lower() in JOINING
    start = _operand_before(tokens, first - 3 if two else first - 2) if is_joined else None
    if start is not None and tokens[start].kind == "formula" and tokens[first].kind == "number":
        return first
    text = tokens.text[max(0, tokens[first].start - _LOOKED_AT) : tokens[first].start]
    return start if start is not None else first - 1 if is_negative(text) else first


def _before_sign(tokens: Tokens, first: int) -> int | None:
    sign = tokens[first - 1]
    is_label = sign.text == ":" and not sign.spaced and tokens[first].spaced
    start = None if is_label else _operand_before(tokens, first - 2)
    if start is not None:
        return start
    if sign.text in _RELATION:
        return None
    if sign.text in (r"\pm", "+/-", r"\mp"):
        return first - 1
    if sign.text != "-":
        return first
    before = tokens.text[max(0, sign.start - _LOOKED_AT) : sign.start]
    is_sign = not tokens[first].spaced or is_after_is(before) or not tokens.text[: sign.start].strip()
    return first - 1 if is_sign else first


def _operand_before(tokens: Tokens, last: int) -> int | None:
    """The first token of what ends there if that is a number, a name, or something in brackets."""
    if tokens[last].kind == "after":
        last -= 1
    if tokens[last].kind in _OPERAND:
        return last
    start = tokens.pairs.get(last) if tokens[last].kind == "close" else None
    return start if start is not None and _is_formula(tokens, start, last) else None


def _brackets_around(tokens: Tokens, first: int, last: int) -> tuple[int, int] | None:
    """The brackets around part of a list, or of a formula that goes on before or behind them."""
    start = first - 1
    while start >= max(0, first - _LONGEST):
        end = tokens.pairs.get(start, -1)
        if tokens[start].kind == "open" and end > last:
            break
        if tokens[start].kind not in _FORMULA:
            return None
        start -= 1
    else:
        return None
    if start < 0 or not _is_formula(tokens, start, end):
        return None
    before, behind = tokens[start - 1], tokens[end + 1]
    is_list = any(tokens[index].kind == "comma" for index in range(start, end))
    goes_on = before.kind == "sign" or behind.kind == "sign" or (before.kind in _OPERAND and not tokens[start].spaced)
    return (start, end) if is_list or goes_on or "{" in tokens[start].text else None


def _is_formula(tokens: Tokens, first: int, last: int) -> bool:
    """Whether there are no words between brackets."""
    return last - first <= _LONGEST and all(
        tokens[index].kind in _FORMULA or tokens[index].text in JOINING for index in range(first, last + 1)
    )
