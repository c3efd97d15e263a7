"""Unicode's forms of mathematics as LaTeX: full-width digits, fractions, roots, exponents, signs and letters."""

from __future__ import annotations

import re
import unicodedata

_COMMANDS = {
    "\u00b1": "pm", "\u00b7": "cdot", "\u00d7": "times", "\u00f7": "div", "\u2022": "cdot", "\u2026": "ldots",
    "\u2102": "mathbb{C}", "\u2115": "mathbb{N}", "\u211a": "mathbb{Q}", "\u211d": "mathbb{R}", "\u2124": "mathbb{Z}",
    "\u2200": "forall", "\u2203": "exists", "\u2205": "emptyset", "\u2208": "in", "\u2209": "notin", "\u2211": "sum",
    "\u2213": "mp", "\u2216": "setminus", "\u2217": "cdot", "\u2219": "cdot", "\u221e": "infty", "\u2220": "angle",
    "\u2225": "parallel", "\u2229": "cap", "\u222a": "cup", "\u222b": "int", "\u2234": "therefore", "\u2245": "cong",
    "\u2248": "approx", "\u2260": "ne", "\u2261": "equiv", "\u2264": "le", "\u2265": "ge", "\u2282": "subset",
    "\u2286": "subseteq", "\u22a5": "perp", "\u22c5": "cdot", "\u22ef": "cdots", "\u25b3": "triangle",
    "\u2a7d": "le", "\u2a7e": "ge", "\u2190": "leftarrow", "\u2192": "to", "\u21d2": "Rightarrow",
}  # fmt: skip
_GREEK = {
    "\u03b1": "alpha", "\u03b2": "beta", "\u03b3": "gamma", "\u03b4": "delta", "\u03b5": "epsilon", "\u03b6": "zeta",
    "\u03b7": "eta", "\u03b8": "theta", "\u03b9": "iota", "\u03ba": "kappa", "\u03bb": "lambda", "\u03bc": "mu",
    "\u03bd": "nu", "\u03be": "xi", "\u03c0": "pi", "\u03c1": "rho", "\u03c3": "sigma", "\u03c4": "tau",
    "\u03c5": "upsilon", "\u03c6": "phi", "\u03d5": "phi", "\u03c7": "chi", "\u03c8": "psi", "\u03c9": "omega",
    "\u0393": "Gamma", "\u0394": "Delta", "\u0398": "Theta", "\u039b": "Lambda", "\u039e": "Xi", "\u03a0": "Pi",
    "\u03a3": "Sigma", "\u03a6": "Phi", "\u03a8": "Psi", "\u03a9": "Omega",
}  # fmt: skip
_PLAIN = {
    **dict.fromkeys("\u2010\u2011\u2012\u2013\u2212\ufe63", "-"),
    **dict.fromkeys("\u2044\u2215", "/"),
    **dict.fromkeys("\u2018\u2019\u2032", "'"),
    **dict.fromkeys("\u201c\u201d\u2033", '"'),
    "\u3001": ",",
    "\u3002": ".",
    "\u00b0": r"^{\circ}",
    "\u2103": r"^{\circ}\text{C}",
}
_UNSEEN = re.compile("[\u200b-\u200f\u202a-\u202e\u2060-\u2064\ufe00-\ufe0f\ufeff]")
_SPACES = re.compile("[\u00a0\u2000-\u200a\u202f\u205f\u3000]")
_ROOTS = {"\u221a": r"\sqrt", "\u221b": r"\sqrt[3]", "\u221c": r"\sqrt[4]"}
_ROOT = re.compile(r"([\u221a-\u221c])\s*(\d+(?:\.\d+)?|[A-Za-z](?![a-z])|\\pi(?![a-z])|(?=[({]))")
_RAISED = re.compile("[\u2070\u00b9\u00b2\u00b3\u2074-\u207f\u1d43-\u1d5b\u02b0-\u02e1]+")
_LOWERED = re.compile("[\u2080-\u208e\u2090-\u209c]+")
_FRACTION = re.compile("[\u00bc-\u00be\u2150-\u215e\u2189]")
_COMPATIBLE = re.compile("[\uff01-\uff5e\U0001d400-\U0001d7ff\u2110-\u2113\u212c-\u2138]")


def as_latex(text: str) -> str:
    r"""The same formula in ASCII: `½` is `\frac{1}{2}`, `√2` is `\sqrt{2}`, `x²` is `x^{2}`, `≤` is `\le`.

    Letters and signs of other scripts stay as they are.
    """
    if text.isascii():
        return text
    text = _SPACES.sub(" ", _UNSEEN.sub("", text))
    text = _COMPATIBLE.sub(lambda match: unicodedata.normalize("NFKC", match[0]), text)
    text = _FRACTION.sub(_fraction, text)
    text = _RAISED.sub(lambda match: f"^{{{_normal(match[0])}}}", text)
    text = _LOWERED.sub(lambda match: f"_{{{_normal(match[0])}}}", text)
    text = "".join(map(_sign, text))
    return _with_roots(text)


def _normal(text: str) -> str:
    return "".join(map(_sign, unicodedata.normalize("NFKC", text)))


def _fraction(match: re.Match[str]) -> str:
    above, _, below = unicodedata.normalize("NFKC", match[0]).partition("\u2044")
    return rf"\frac{{{above}}}{{{below}}}"


def _sign(character: str) -> str:
    name = _COMMANDS.get(character) or _GREEK.get(character)
    return f"\\{name} " if name else _PLAIN.get(character, character)


def _with_roots(text: str) -> str:
    """Roots of a number, a letter, or of what is in brackets after the sign."""
    text = _ROOT.sub(lambda match: _ROOTS[match[1]] + (f"{{{match[2]}}}" if match[2] else ""), text)
    for command in _ROOTS.values():
        start = text.find(f"{command}(")
        while start >= 0:
            opening = start + len(command)
            end = closing(text, opening + 1, "()")
            if end < 0:
                break
            text = f"{text[:opening]}{{{text[opening + 1 : end]}}}{text[end + 1 :]}"
            start = text.find(f"{command}(", opening)
    return text


def closing(text: str, start: int, brackets: str = "{}") -> int:
    """Where the bracket closes that was opened just before `start`; -1 if it does not.

    Args:
        text: a formula; brackets behind a backslash are counted, too.
        start: a place in it.
        brackets: the one that opens, and the one that closes.
    """
    depth = 1
    for position in range(start, len(text)):
        depth += (text[position] == brackets[0]) - (text[position] == brackets[1])
        if depth == 0:
            return position
    return -1
