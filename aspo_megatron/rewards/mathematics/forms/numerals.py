r"""Numbers as people write them, in the one form that is read: `1,000`, `4.5e33`, `17 1/2`, `0.\overline{3}`."""

from __future__ import annotations

import re

_DIGITS = r"\d{1,400}"
_SPACED = re.compile(r"(?<=\d)(?:\{,\}|,\\!|\\[,!; ]|~|\{\\,\})(?=\d{3}(?!\d))")
_GROUPED = re.compile(r"(?<![\d,.])\d{1,3}(?:,\d{3})+(?![\d,])")
_EXPONENT = re.compile(
    rf"(?<![\w.\\}}])(?P<mantissa>(?:{_DIGITS}(?:\.\d{{0,400}})?|\.{_DIGITS}))\s?[eE]\{{?(?P<exponent>[+-]?{_DIGITS})\}}?(?!\w|\.\d)"
)
_TIMES_TEN = re.compile(r"(?<=\d)\s*(?:[xX*]|\\ast)\s*(?=10\s*\^)")
_BARE_EXPONENT = re.compile(rf"(?:\^|\*\*)\s*([+-]\s*{_DIGITS}(?![\d.]))")
_ENDS_IN_A_POINT = re.compile(r"(?<=\d)\.(?![\d.\w(\\])")
_BEGINS_WITH_A_POINT = re.compile(r"(?<![\d.)}\w])\.(?=\d)")
_MIXED = re.compile(
    rf"(?<![\d./^_{{\w}}])(?P<whole>{_DIGITS})(?:\s|\\[ ,;]|~|\\quad|\\text\{{\s*\}})+"
    rf"(?P<above>{_DIGITS})\s*/\s*(?P<below>{_DIGITS})(?![\d/^]|\.\d)"
)
_REPEATING = re.compile(
    rf"(?<![\d.])(?P<whole>{_DIGITS})?\.(?P<once>\d{{0,400}})"
    rf"(?:\\(?:overline|bar)\s*\{{\s*(?P<bar>{_DIGITS})\s*\}}|(?<=\.)\((?P<round>{_DIGITS})\)"
    rf"|\\dot\s*\{{?(?P<first>\d)\}}?(?:(?P<middle>\d{{0,400}})\\dot\s*\{{?(?P<last>\d)\}}?)?)(?![\d.])"
)
_BASE = re.compile(r"\(?\s*(?P<digits>-?[0-9A-Fa-f][0-9A-Fa-f\s]*)\s*\)?\s*_\s*\{?\s*(?P<base>\d{1,2}|[a-z]+)\s*\}?")
_APART = re.compile(r"(?P<before>[^$\s])\s*\$\s*;\s*\$(?=[^$])")
_NUMBER_APART = re.compile(r"(?<![\w$.,;])(?P<number>-?\d+(?:\.\d+)?)\s*;\s*\$(?=[^$\n]+\$)")
_CURRENCY = re.compile(r"\\\$(?=\s*-?[\d.])")
_GROUPS = re.compile(r"[\s$]*-?\d{1,3}(?:,\d{3})+[\s$]*")
_LIST = re.compile(r"\d\s*,\s+-?\d")
_HEXADECIMAL = re.compile(r"(-?)0*([0-9a-f]+)")
_NAMES = ("two", "three", "four", "five", "six", "seven", "eight", "nine", "ten", "eleven", "twelve")
_BASES = {"sixteen": 16, **{name: number for number, name in enumerate(_NAMES, 2)}}
_TEXT = re.compile(r"\\(?:text|textbf|textrm|mathrm|mathbf|mbox|bm)\s*\{\s*(-?[\d.,]+)\s*\}")
_MARKS = re.compile(r"(?<![A-Za-z0-9_)\]}*])\*\*(?=[^\s*])|(?<=[^\s*])\*\*(?![A-Za-z0-9_(\[{\\*])|`")
_HAN = "\u3010\u3011\u3400-\u9fff"
_BESIDE_HAN = re.compile(rf"(?<=[{_HAN}])(?=[-\d\\$(])|(?<=[\d$)])(?=[{_HAN}])|(?<=[{_HAN}][:,])(?=\S)")
_MOST_ONCE = 60


def plain_numbers(formula: str) -> str:
    """The formula with its numbers in decimal digits, fractions and powers of ten."""
    formula = _SPACED.sub("", formula)
    formula = _without_commas(formula)
    formula = _EXPONENT.sub(r"\g<mantissa> \\times 10^{\g<exponent>}", formula)
    formula = _TIMES_TEN.sub(r" \\times ", formula)
    formula = _REPEATING.sub(_fraction, formula)
    formula = _BARE_EXPONENT.sub(r"^{\1}", formula)
    formula = _ENDS_IN_A_POINT.sub("", formula)
    formula = _BEGINS_WITH_A_POINT.sub("0.", formula)
    return _MIXED.sub(r"\g<whole>\\frac{\g<above>}{\g<below>}", formula)


def numbers_in_text(text: str) -> str:
    """A text whose numbers can be found in it: `4.5e33` is `4.5*10^33`, `17 1/2` is `(17+1/2)`, `1\\,000` is `1000`."""
    text = _BESIDE_HAN.sub(" ", _MARKS.sub("", text))
    text = _TEXT.sub(r"\1", _SPACED.sub("", _CURRENCY.sub("", text)))
    text = _APART.sub(r"\g<before>; ", _NUMBER_APART.sub(r"$\g<number>; ", text))
    text = _EXPONENT.sub(r"\g<mantissa>*10^\g<exponent>", text)
    return _MIXED.sub(r"(\g<whole>+\g<above>/\g<below>)", text)


def _without_commas(formula: str) -> str:
    """Commas between groups of three digits do not separate, outside of brackets of lists."""
    parts, end, depth = [], 0, 0
    for match in _GROUPED.finditer(formula):
        before = formula[end : match.start()]
        depth += sum(map(before.count, "([")) + before.count("\\{") - sum(map(before.count, ")]")) - before.count("\\}")
        parts += [before, match[0] if depth > 0 else match[0].replace(",", "")]
        end = match.end()
    return "".join([*parts, formula[end:]])


def _fraction(match: re.Match[str]) -> str:
    whole, once = match["whole"] or "0", match["once"]
    again = match["bar"] or match["round"] or match["first"] + (match["middle"] or "") + (match["last"] or "")
    if len(once) + len(again) > _MOST_ONCE:
        return match[0]
    above = int(whole + once + again) - int(whole + once)
    return rf"\frac{{{above}}}{{{'9' * len(again)}{'0' * len(once)}}}"


def same_separators(one: str, other: str) -> tuple[str, str]:
    """Both, where `98,118` is a list of two if the other one is written as a list, with a space after its commas."""
    return _listed(one, other), _listed(other, one)


def _listed(text: str, other: str) -> str:
    is_list = _LIST.search(other) is not None and _GROUPS.fullmatch(text) is not None
    return text.replace(",", ", ") if is_list else text


def same_in_base(one: str, other: str) -> bool | None:
    """Whether whole numbers are the same of which one or both are written with a base; None if none is.

    Without a base it is taken to be in that of the other one: `1010` is right for `1010_2`, and `10` is not.
    """
    first, second = _in_base(one), _in_base(other)
    if first is not None and second is not None:
        return first == second
    if first is None and second is None:
        return None
    digits, _ = first or second or ("", 0)
    return digits == _whole_digits(other if first else one)


def _in_base(formula: str) -> tuple[str, int] | None:
    """Digits and base of a whole number that is written with its base; None of anything else."""
    match = _BASE.fullmatch(formula.strip())
    if match is None or not any(map(str.isdecimal, match["digits"])):
        return None
    digits, base = _whole_digits(match["digits"]), match["base"]
    number = int(base) if base.isdecimal() else _BASES.get(base, 0)
    return (digits, number) if all(int(digit, 16) < number for digit in digits.lstrip("-")) else None


def _whole_digits(formula: str) -> str:
    """The digits of a whole number, in any base up to sixteen, without leading zeros; "" if it is none."""
    text = "".join(formula.split()).lower()
    return _HEXADECIMAL.sub(r"\1\2", text) if _HEXADECIMAL.fullmatch(text) else ""
