r"""Pairs and longer tuples of numbers, in whatever form: `(3,-4)`, `P(3,-4)`, `\{(3,-4)\}`, `y=-4, x=3`."""

from __future__ import annotations

import re
from typing import NamedTuple

from aspo_megatron.rewards.mathematics.forms.tidy import split_list, tidied

_LONGEST = 400
_LOOKS = re.compile(r"\\(?:left|right|[bB]igg?[lrm]?)(?![a-zA-Z])|\\(?:[,;:! ]|q?quad(?![a-zA-Z]))")
_SYSTEM = re.compile(
    r"\s*(?:\\\{\s*)?\\begin\s*\{(?P<kind>cases|array|aligned)\}(?:\s*\{[lcr]+\})?(?P<lines>.*)\\end\s*\{(?P=kind)\}[\s.]*\Z",
    re.DOTALL,
)
_LINE = re.compile(r"\\\\|\\newline")
_POINT = re.compile(
    r"\s*(?:(?P<name>[A-Z])|\\(?:text|textrm|mathrm)\s*\{\s*[Pp]oints?\s*\}|[Pp]oint\s)\s*(?P<pair>\(.*\))\s*\Z",
    re.DOTALL,
)
_TOGETHER = re.compile(r"\((?P<names>[A-Za-z](?:\s*,\s*[A-Za-z])+)\)\s*=\s*(?P<pair>\(.*\))\Z", re.DOTALL)
_SET = re.compile(r"\s*\\\{(?P<inside>.*)\\\}\s*\Z", re.DOTALL)
_NAMED = re.compile(r"\s*(?P<name>[A-Za-z])\s*=(?P<value>[^=]+)\Z")
_COMPARED = re.compile(r"[=<>]|\\(?:l|g|n)(?:e|eq|t)(?![a-zA-Z])|\\infty")


class _Form(NamedTuple):
    """What a formula is: a `pair` in round brackets, perhaps a point's; `named` values; a `set` or a `list`."""

    kind: str
    members: tuple[str, ...]
    names: str = ""


def same_forms(reference: str, answer: str) -> tuple[str, str] | None:
    """Both in one form, as pairs; as they are if one of them is none; and None if only one is in a certain order.

    Values that are named are in the order of their names, and so are those of the pair that they are compared with. Of
    a set and of a list in another order no pair can be told.

    Args:
        reference: as it is given.
        answer: what is in the box.
    """
    first, second = _form(reference), _form(answer)
    if first is None or second is None or len(first.members) != len(second.members):
        return reference, answer
    kinds = {first.kind, second.kind}
    if "pair" not in kinds and "named" not in kinds:
        return reference, answer
    if "set" in kinds:
        return None
    if (
        kinds == {"pair", "list"}
        or first.kind == "list"
        or (first.names and second.names and first.names != second.names)
    ):
        return reference, answer
    return _as_pair(first), _as_pair(second)


def _as_pair(form: _Form) -> str:
    return f"({','.join(form.members)})"


def _form(formula: str) -> _Form | None:
    """A pair, a set, a list or named values, where nothing else is in the formula."""
    if len(formula) > _LONGEST:
        return None
    text = _in_line(_LOOKS.sub(" ", tidied(formula)))
    if "," not in text and ";" not in text:
        return None
    point = _POINT.fullmatch(text)
    name, text = (point["name"] or "", point["pair"]) if point else ("", text.strip())
    together = _TOGETHER.fullmatch(text)
    if together is not None and sorted(letters := re.findall("[A-Za-z]", together["names"])) == letters:
        text = together["pair"]
    braces = _SET.fullmatch(text)
    if braces is not None:
        inside = _form(braces["inside"])
        return None if inside is None or inside.kind not in ("pair", "list") else _in_braces(inside)
    members = _members(text[1:-1]) if text[:1] == "(" and text[-1:] == ")" else ()
    if len(members) > 1:
        return _Form("pair", members, name)
    return None if name else _named_or_list(_members(text))


def _in_braces(inside: _Form) -> _Form:
    """A set; but one of one pair is the pair."""
    return inside if inside.kind == "pair" else inside._replace(kind="set")


def _named_or_list(members: tuple[str, ...]) -> _Form | None:
    if len(members) < 2:
        return None
    named = [_NAMED.fullmatch(member) for member in members]
    values = {match["name"]: match["value"].strip() for match in named if match is not None}
    if len(values) == len(members) and not any(map(_COMPARED.search, values.values())):
        return _Form("named", tuple(values[name] for name in sorted(values)), "".join(sorted(values)))
    if None not in named and len(values) == 1:
        return _Form("set", members)
    return _Form("list", members) if not any(map(_COMPARED.search, members)) else None


def _members(text: str) -> tuple[str, ...]:
    """What commas separate; nothing if brackets do not match, so that they are of several pairs, or of intervals."""
    depth = 0
    for character in text:
        depth += (character in "([{") - (character in ")]}")
        if depth < 0:
            return ()
    parts = tuple(part.strip() for part in split_list(text) if part not in (",", ";"))
    return parts if all(parts) and depth == 0 else ()


def _in_line(text: str) -> str:
    """A system of equations, one in each line, as a list of them."""
    system = _SYSTEM.fullmatch(text)
    lines = _LINE.split(system["lines"] if system else text)
    if len(lines) == 1 or (system is None and "\\begin" in text):
        return text
    return ", ".join(line.replace("&", " ").strip(" ,;") for line in lines if line.strip())
