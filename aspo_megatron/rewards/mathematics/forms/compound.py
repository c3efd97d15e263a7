r"""Units that are formulas: `\mathrm{kg\,m^2/s^2}`, `\frac{\text{m}}{\text{s}}`, `\mu\text{m}`, `M_\odot`."""

from __future__ import annotations

import re

from aspo_megatron.rewards.mathematics.forms import units

GROUP = r"\\(?:text|textrm|textbf|textit|textsf|textnormal|mathrm|mathbf|mathit|mbox|hbox|operatorname|rm)"
SPACE = r"(?:\s|\\[ ,;:!]|~|\\q?quad(?![a-zA-Z])|\\(?:thin|med|thick)space(?![a-zA-Z]))"

_TOKEN = re.compile(
    rf"(?P<space>{SPACE}+)"
    rf"|(?P<group>{GROUP}\s*\{{|\{{\s*\\rm(?![a-zA-Z]))"
    r"|(?P<operator>\\(?:cdot|times|bullet)(?![a-zA-Z])|[*/])"
    r"|(?P<fraction>\\[dtc]?frac(?![a-zA-Z]))"
    r"|(?P<degree>\^\s*(?:\{\s*\\circ\s*\}|\\circ(?![a-zA-Z]))|\\(?:text)?degree(?![a-zA-Z]))"
    r"|(?P<power>\^\s*(?:\{\s*[-+]?\d{1,2}(?:/\d)?\s*\}|[-+]?\d))"
    r"|(?P<sun>(?<=[MRL}])\s?_\s*(?:\{\s*\\(?:odot|oplus)\s*\}|\\(?:odot|oplus)(?![a-zA-Z])))"
    r"|(?P<micro>\\(?:text)?mu(?![a-zA-Z])|\u00b5)"
    r"|(?P<symbol>(?:k|M|m)?(?:\\(?:text)?[Oo]hm(?![a-zA-Z])|\\Omega(?![a-zA-Z])|\u2126)"
    r"|\\(?:AA|mathring\s*\{\s*A\s*\}|mathring\s+A|celsius)(?![a-zA-Z])|[\u00c5\u212b])"
    r"|(?P<word>[A-Za-z]+)"
    rf"|(?P<han>[{units.HAN}]+)"
    r"|(?P<one>1(?=\s*[/}]))"
    r"|(?P<open>\{|\\left\s*\(|\()"
    r"|(?P<close>\}|\\right\s*\)|\))"
)
_BEGIN = re.compile(rf"{SPACE}|\\|[*/^_({{\u00b5\u2126\u00c5\u212b]|[A-Za-z{units.HAN}]")
_NUMBER_ENDS = re.compile(r"(?:[\d)}\]%]|\\pi|(?<![A-Za-z\\])[A-Za-z])\Z")
_NUMBER = r"(?:\d[\d,]{0,400}(?:\.\d{0,400})?|\.\d{1,400})"
MERE_NUMBER = re.compile(
    rf"(?:.*=)?\s*[-+]?(?:(?:{_NUMBER}|\d*\s*\\[dt]?frac\s*(?:\{{\d+\}}\s*\{{\d+\}}|\d\s*\d)|\d+\s*/\s*\d+)"
    rf"(?:\s*\\(?:times|cdot)\s*10\s*\^\s*(?:\{{\s*[-+]?\d+\s*\}}|\d))?|10\s*\^\s*(?:\{{\s*[-+]?\d+\s*\}}|\d))\s*\Z",
    re.DOTALL,
)
r"""A number in digits, as a fraction, or with a power of ten; also with a name before it."""

_LONGEST = 120
_OF_THE_SUN = ("M", "R", "L")
_OF_OHMS = ("k", "M", "m", "G")
_SUN = re.compile(r"\s?\}?\s?_\s?\{?\s?\\(?:odot|oplus)(?![a-zA-Z])")
_OHM = re.compile(r"\s?\}\s?(?:\\Omega(?![a-zA-Z])|\u2126)")
_OF_DEGREES = ("C", "F", "K")


def without_compound(formula: str) -> str:
    """A formula without a unit that is a formula, behind a number; as it is if there is none."""
    start = max(0, len(formula) - _LONGEST)
    for match in _BEGIN.finditer(formula, start):
        before = formula[: match.start()].rstrip()
        ends = _NUMBER_ENDS.search(before[-4:])
        if ends is None:
            continue
        unit = _Unit()
        if unit.reads(formula[match.start() :]) and (unit.is_upright or MERE_NUMBER.fullmatch(before)):
            return before
    return formula


class _Unit:
    """What is read of a unit, from left to right."""

    def __init__(self) -> None:
        self.is_upright = True
        self._brackets: list[str] = []
        self._known = 0
        self._letters = 0
        self._is_of_degrees = False
        self._is_divided = False
        self._last = ""

    def reads(self, text: str) -> bool:
        """Whether all of a text is a unit; `is_upright` says then whether it can be nothing else."""
        position = 0
        while position < len(text):
            match = _TOKEN.match(text, position)
            if match is None or not self._takes(str(match.lastgroup), match[0], text[match.end() :][:12]):
                return False
            position = match.end()
        is_whole = not self._brackets and not self._is_of_degrees and self._last not in ("operator", "micro")
        return is_whole and self._known > 0 and (self._is_divided or self._letters == 0)

    def _takes(self, kind: str, said: str, after: str) -> bool:
        before, self._last = self._last, self._last if kind == "space" else kind
        if kind in ("group", "open"):
            self.is_upright &= kind == "group" or before == "fraction" or self._known > 0 or "group" in self._brackets
            self._brackets.append("group" if kind == "group" else said[-1])
        elif kind == "close":
            opened = self._brackets.pop() if self._brackets else ""
            return opened == "(" if said[-1] == ")" else opened in ("{", "group")
        elif kind in ("operator", "fraction"):
            self._is_divided |= said != "*" and not said.startswith(("\\cdot", "\\times"))
        elif kind == "power":
            return self._known > 0 or self._letters > 0
        elif kind == "word":
            return self._takes_word(said, before, after)
        elif kind == "han":
            self._known += 1
            self.is_upright &= "group" in self._brackets
            return units.is_han_unit(said)
        elif kind in ("micro", "symbol", "sun", "degree"):
            self.is_upright &= "group" in self._brackets or kind == "degree" or (kind == "sun" and self._known > 0)
            self._known += kind in ("symbol", "sun")
            self._is_of_degrees |= kind == "degree"
        return True

    def _takes_word(self, said: str, before: str, after: str) -> bool:
        """A word is a unit by its name, in a text also by its letters alone, and so behind a sign that makes it one."""
        if self._is_of_degrees and said not in _OF_DEGREES:
            return False
        is_in_text, is_of_degrees, self._is_of_degrees = "group" in self._brackets, self._is_of_degrees, False
        is_marked = (
            is_of_degrees
            or (before == "micro" and units.is_upright_unit(said))
            or (said in _OF_THE_SUN and _SUN.match(after) is not None)
            or (said in _OF_OHMS and _OHM.match(after) is not None)
        )
        is_named = said in units.LONG or said in units.NAMED
        self._known += is_named or is_marked or (is_in_text and units.is_upright_unit(said))
        if is_in_text:
            return is_marked or units.is_upright_unit(said) or (len(said) > 1 and said.lower() not in units.CHANGING)
        self.is_upright = False
        self._letters += not (is_marked or is_named)
        return is_marked or is_named or said in units.SHORT
