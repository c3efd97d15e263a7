r"""Formulas in the one form in which references and answers are compared: what is only looks is taken off.

Full-width digits, colours, bold print, a full stop at the end, dollars around and before, units, separators of
thousands; constants in upright letters are constants.
"""

from __future__ import annotations

import re
from functools import lru_cache

from aspo_megatron.rewards.mathematics.forms.characters import as_latex, closing
from aspo_megatron.rewards.mathematics.forms.measures import without_measures
from aspo_megatron.rewards.mathematics.forms.notation import usual
from aspo_megatron.rewards.mathematics.forms.numerals import plain_numbers
from aspo_megatron.rewards.mathematics.forms.products import with_products
from aspo_megatron.rewards.mathematics.forms.vectors import as_lists

_COLOUR = re.compile(r"\\(?:color|textcolor|colorbox)\s*(?:\[\w+\])?\s*\{[\w!, .]*\}\s*")
_ALONE = re.compile(
    r"\\(?:displaystyle|textstyle|scriptstyle|tiny|small|normalsize|large|Large|LARGE|huge|Huge|boldmath|limits|nolimits"
    r"|bf|it|sf|tt|bfseries|itshape|hfill|centering|noindent|nonumber|strut|ensuremath|square|blacksquare|qed|checkmark"
    r"|left\s*\.|right\s*\.|[bB]igg?[lrm]?)(?![a-zA-Z])\s*"
)
_AROUND = re.compile(
    r"\\(?:boxed|fbox|framebox|underline|uline|textbf|textit|emph|mathbf|boldsymbol|bm|pmb|mathit|mathsf|mathtt|textsf|texttt"
    r"|ensuremath|displaystyle|tcboxmath|mathstrut|textnormal|mathnormal)\s*\{"
)
_NOTHING = re.compile(r"\\(?:phantom|hphantom|vphantom|hspace|vspace|label|tag|kern)\*?\s*\{[^{}]*\}")
_LETTER = re.compile(
    r"\\(?:text|textrm|mathrm|operatorname|rm|mbox)\s*\{\s*([A-Za-z]|\\pi)\s*\}|\{\\rm\s+([A-Za-z])\s*\}"
)
_NAME = r"sin|cos|tan|cot|sec|csc|arcsin|arccos|arctan|sinh|cosh|tanh|ln|log|exp|max|min|gcd|lcm|det|arg"
_FUNCTION = re.compile(rf"\\(?:text|textrm|mathrm|operatorname\*?|rm)\s*\{{\s*({_NAME})\s*\}}")
_NUMBER = re.compile(r"\\(?:text|textrm|mathrm|mbox)\s*\{\s*([-\d(:](?:[-\d.,;:()\s]|and\s|or\s)*)\s*\}")
_TEXT = re.compile(r"(\\(?:text|textrm|mathrm|mbox)\s*\{[^{}]*\})")
_TEXT_AND = re.compile(r"\\(?:text|textrm|mathrm|mbox)\s*\{\s*,?\s*(?:and|or|\u548c|\u6216)\s*,?\s*\}")
_AND = re.compile(r"(?:,\s*|\s)(?:and|or)\s|\u548c|\u6216\u8005?")
_STARS = re.compile(r"\A[\s*_`]*\*\*|\*\*[\s*_`.]*\Z|\A`+|`+\Z")
_ROOT_INDEX = re.compile(r"(\\sqrt\s*\[[^\[\]]*\])\s*([A-Za-z0-9])")
_ENDS = re.compile(r"(?:\s|\\\\|(?<!\\)\\ |\\[,;:!](?=\s*\Z)|(?<![.\\])\.(?=\s*\Z)|(?<!\\)[,;:](?=\s*\Z)|\\newline)+\Z")
_BEGINS = re.compile(r"\A(?:\s|\\[ ,;:!]|\\q?quad(?![a-z])|\\\\|[=:]|\\(?:approx|simeq)(?![a-z]))+")
_SPACE = re.compile(r"\\q?quad(?![a-zA-Z])|\\hspace\s*\{[^{}]*\}|~")
_EMPTY = re.compile(r"\\(?:varnothing|O|empty)(?![a-zA-Z])|\\\{\s*\\\}")
_IMAGINARY = re.compile(r"\\[ij]math(?![a-zA-Z])")
_SETS = re.compile(r"\\(?:Bbb|mathbf|mathds)\s*\{\s*([RNZQC])\s*\}|\\(?:mathbb\s+)?([RNZQC])(?![a-zA-Z])")
_LEAD = re.compile(
    r"\A(?:\\(?:text|textrm|mathrm|mbox)\s*\{[^{}]*(?:\b(?:is|are|equals)|[:=])\s*\}"
    r"|(?:the\s+)?(?:final\s+)?answer\s*(?:is|:))[\s:]*(?=\S)",
    re.IGNORECASE,
)
_SET_BUILDER = re.compile(
    r"\A(?:\\left\s*)?\\?\{\s*[a-zA-Z]\s*(?:\\in\s*\\mathbb\s*\{R\}\s*)?(?:,\s*)?"
    r"(?:\\?\||\\mid(?![a-z])|\\[lr]?vert(?![a-z])|:|\\colon(?![a-z]))\s*"
    r"(?P<condition>(?:[^|{}\\]|\\[a-zA-Z]+|\\[ ,;]|\{[^{}]*\})+?)\s*(?:\\right\s*)?\\?\}\Z"
)
_DOLLARS = re.compile(r"(?<!\\)\$(?!\s*-?[\d.])|(?<!\\)\$(?=.*\$)|(?<=\d)(?<!\\)\$", re.DOTALL)
_POWER = re.compile(r"\*\*\s*(\w+|\([^()]*\))(?!\s*(?:\*\*|\^))")
_DELIMITERS = re.compile(r"(?<!\\)\\[()\[\]]")
_DOMAIN = re.compile(
    r"(?P<apart>(?:\s|,|\\q?quad(?![a-z])|\\[ ,;:!])+)?"
    r"(?P<all>\\text\s*\{[\s,]*for\s+(?:all|any|every)(?:\s+real)?\s*\}|\\forall(?![a-z]))?\s*\(?\s*[a-z]\s*"
    r"(?P<set>\\in\s*\\mathbb\s*\{[RNZQC]\}\s*(?:[_^]\s*(?:\{\s*[+*]\s*\}|[+*]))?)?\s*\)?\s*\Z"
)
_LONGEST_DOMAIN = 120
_INEQUALITY = re.compile(r"[<>]|\\(?:leq?|geq?|neq?|lt|gt|in|notin)(?![a-z])")
_SIGN = re.compile(r"\\(?:pm|mp)(?![a-zA-Z])")
_IS_BINARY = re.compile(r"(?:[\w)}\]!]|\\pi)\s*\Z")
_SEPARATOR = re.compile(r"[,;]")
_MOST_NESTED = 8


@lru_cache(maxsize=4096)
def tidied(formula: str) -> str:
    """The formula as it is read and compared; doing it twice changes nothing more.

    Args:
        formula: what is in a box, a tag or between dollars, or a reference; a list of formulas, too.
    """
    text = _without_looks(as_latex(formula))
    text = usual(_with_commas(_FUNCTION.sub(r"\\\1 ", text)))
    text = with_products(as_lists(plain_numbers(_without_domain(text))))
    parts = split_list(text)
    text = "".join(piece if _SEPARATOR.fullmatch(piece) else _both_signs(_measured(piece)) for piece in parts)
    return _LETTER.sub(r"\1\2", text).strip()


def _without_domain(text: str) -> str:
    r"""A formula without what its variable is at the end, `for all x` or `x \in \mathbb{R}`, but for inequalities."""
    match = _DOMAIN.search(text, max(0, len(text) - _LONGEST_DOMAIN))
    if match is None or not (match["all"] or (match["apart"] and match["set"])):
        return text
    shorter = text[: match.start()]
    return text if _INEQUALITY.search(shorter) or not shorter.strip() else shorter


def _both_signs(part: str) -> str:
    r"""A formula with one `\pm` in it as a list of two."""
    signs = list(_SIGN.finditer(part))
    if len(signs) != 1:
        return part
    before, after = part[: signs[0].start()], part[signs[0].end() :]
    plus = " + " if _IS_BINARY.search(before) else " "
    return f"{before}{plus}{after.lstrip()}, {before} - {after.lstrip()}"


def _with_commas(text: str) -> str:
    """With a comma for each `and` and `or` between formulas; those of a longer text stay."""
    pieces = _TEXT.split(_TEXT_AND.sub(", ", text))
    joined = "".join(piece if number % 2 else _AND.sub(", ", piece) for number, piece in enumerate(pieces))
    return joined if joined == text else re.sub(r"\s*,\s*(?:,\s*)+", ", ", joined)


def _without_looks(text: str) -> str:
    text = _SETS.sub(r"\\mathbb{\1\2}", _DOLLARS.sub(" ", _DELIMITERS.sub(" ", text))).strip()
    text = _NOTHING.sub("", _COLOUR.sub("", text))
    for _ in range(_MOST_NESTED):
        shorter = _unwrapped(_ALONE.sub(" ", text).strip())
        if shorter == text:
            break
        text = shorter
    text = _NUMBER.sub(r"\1", _IMAGINARY.sub("i", _EMPTY.sub(r"\\emptyset ", text)))
    text = _POWER.sub(r"^{\1}", _STARS.sub("", text))
    text = _ROOT_INDEX.sub(r"\1{\2}", _SPACE.sub(" ", text))
    return _SET_BUILDER.sub(r"\g<condition>", _LEAD.sub("", _BEGINS.sub("", _ENDS.sub("", text))))


def _unwrapped(text: str) -> str:
    """Without the last command that says only how its argument looks."""
    found = list(_AROUND.finditer(text))
    if not found:
        return text
    match = found[-1]
    end = closing(text, match.end())
    inside = text[match.end() :] if end < 0 else text[match.end() : end]
    after = "" if end < 0 else text[end + 1 :]
    return f"{text[: match.start()]}{{{inside}}}{after}" if after.strip() or match.start() else inside


def _measured(part: str) -> str:
    shorter = without_measures(part)
    return shorter if shorter.strip() else part


def split_list(text: str) -> list[str]:
    """The members of a list and what separates them, in turn; separators in brackets are of no list."""
    parts, start, depth = [], 0, 0
    for position, character in enumerate(text):
        if character in "([{":
            depth += 1
        elif character in ")]}":
            depth = max(0, depth - 1)
        elif character in ",;" and depth == 0 and text[position - 1 : position] != "\\":
            parts += [text[start:position], character]
            start = position + 1
    return [*parts, text[start:]]
