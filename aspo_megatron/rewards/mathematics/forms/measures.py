r"""What stands around a number without being one: currencies, units, what is counted. `36 dollars` is 36.

A word that says how many, as `million`, is a factor. One that changes what is said, as `or more`, stays.
"""

from __future__ import annotations

import re

from aspo_megatron.rewards.mathematics.forms import units
from aspo_megatron.rewards.mathematics.forms.compound import GROUP, MERE_NUMBER, SPACE, without_compound
from aspo_megatron.rewards.mathematics.forms.words import is_word

_SIGNS = (
    r"\\?\$|\\(?:text|math)?dollar(?![a-zA-Z])|\\(?:pounds|texteuro|euro|textsterling|textyen|yen|rupee)(?![a-zA-Z])"
    r"|[\u20ac\u00a3\u00a5\u20b9\u20a9\u20bd\uffe5]"
)
_BEFORE = re.compile(
    rf"(?:(?:US|HK|C|A)(?=\\?\$))?(?:(?:{_SIGNS})(?:\{{\}})?|{GROUP}\s*\{{\s*(?:{_SIGNS}|Rs\.?|USD|EUR)\s*\}}"
    rf"|\b(?:Rs\.?|USD|EUR)(?=\s*\d))(?:\s|\\[ ,;!])*"
)
_SCALE = re.compile(
    rf"(?<=[\d}}]){SPACE}*(?:{GROUP}\s*\{{[\s~]*)?({'|'.join(units.SCALES)})s?\b(?!\s*\}}?\s*(?:\d|(?:and|of)\b))\s*(\}}?)"
)
_LETTER_SCALE = re.compile(
    rf"(?P<money>{_SIGNS})?\s*(?P<number>\d+(?:\.\d+)?)\s*(?:(?P<group>\\text\s*\{{)\s*)?(?P<letter>[kKMB])\s*(?(group)\}})"
)
_LETTERS = {"k": "10^{3}", "K": "10^{3}", "M": "10^{6}", "B": "10^{9}"}
_HAN_SCALE = re.compile(
    rf"(?<=[\d}}]){SPACE}*(?P<opened>{GROUP}\s*\{{\s*)?(?!{units.HAN_PREFIX})"
    rf"(?P<scale>[{''.join(units.HAN_SCALES)}]{{1,3}})(?!\s*\}}?\s*\d|[{''.join(units.HAN_SCALES)}分多余以左])(?P<closed>\s*\}})?"
)
_PERCENT = re.compile(
    rf"(?<=[\d}}).]){SPACE}*(?P<opened>{GROUP}\s*\{{[\s~]*)?(?:\\?%|per\s?cent(?:age)?\b|pct\b\.?)(?!\s*\}}?\s*(?:points?|\d))"
    r"(?P<closed>\s*\})?"
)
_ALL_IN_TEXT = re.compile(
    rf"\A(?P<before>[^{{}}]*){GROUP}\s*\{{\s*(?P<number>(?:{_SIGNS})?\s*[-+]?\d[\d,]*(?:\.\d+)?(?:/\d+)?)"
    rf"(?P<percent>\s*\\?%)?(?P<rest>\s*(?:[A-Za-z{units.HAN}(][^{{}}\d$:\\]*)?)\}}\Z"
)
_IN_ALL = re.compile(rf"\A(?P<opened>{GROUP}\s*\{{)?\s*(?:一共|总共|合计|共计|共)有?{SPACE}*(?=-?\d)")
_TIME = re.compile(rf"(?<=[\d}}]){SPACE}*\\(?:min|sec)\s*\Z")
"""Minutes and seconds that were taken for functions."""

_POWER = r"(?:\s*\^\s*(?:\{\s*-?\d\s*\}|-?\d))?"
_TEXT = re.compile(rf"{SPACE}*{GROUP}\s*\{{(?P<said>[^{{}}\\$]*)\}}{_POWER}\s*\Z")
_PART = re.compile(rf"(?:{SPACE}|\\cdot|/)*(?:{GROUP}\s*\{{[^{{}}\\$]*\}}|[A-Za-z]+){_POWER}\s*\Z")
_JOINED = re.compile(rf"(?:{SPACE}|/|\\cdot)*(?:/|\\cdot|\\,|~|\\;|\\ ){SPACE}*\Z")
_PLAIN = re.compile(
    rf"(?P<space>(?:\s|\\[ ,;:!]|~)*)(?P<said>[A-Za-z][A-Za-z./]*(?:\s+[A-Za-z][A-Za-z./]*)*){_POWER}\s*\Z"
)
_IN_BRACKETS = re.compile(
    rf"(?:\s|\\[ ,;!]|~)*\(\s*(?:{GROUP}\s*\{{)?\s*(?P<said>[A-Za-z{units.HAN}][A-Za-z{units.HAN} /.-]*?)"
    r"\s*\}?\s*\)\s*\Z"
)
_HAN = re.compile(f"(?<=[\\d}})%])\\s*(?P<said>[{units.HAN}]+(?:/[{units.HAN}]+)?)\\s*\\Z")
_NUMBER_ENDS = re.compile(r"(?:[\d)}\]]|\\pi|(?<![A-Za-z\\])[A-Za-z]|%)\s*\Z")
_TEXTS = re.compile(rf"{GROUP}\s*\{{([^{{}}]*)\}}")
_DIGIT = re.compile(r"\d")
_IS_HAN = re.compile(f"[{units.HAN}]+")
_NUMBER_OF = re.compile(
    rf"(?P<number>[-+]?\d[\d,]*(?:\.\d+)?){SPACE}*(?:{GROUP}\s*\{{\s*)?"
    rf"(?P<word>{'|'.join(sorted(units.CHANGING))})\b(?P<rest>[A-Za-z\s]*)\}}?"
)
_REMAINDER = re.compile(r"(?<![A-Za-z])[Rr]\.?\s*\d")
_LONG_SPACE = re.compile(rf"{SPACE}{{4,}}")
_MOST_PARTS = 8
_LONGEST = 500


def without_measures(formula: str) -> str:
    """One formula, no list of them, without its currency and its units."""
    formula = _LONG_SPACE.sub(" ", formula)
    formula = _out_of_text(_PERCENT.sub(_percent, _IN_ALL.sub(r"\g<opened>", formula)))
    letter = _LETTER_SCALE.fullmatch(formula.strip())
    if letter is not None and (letter["money"] or (letter["group"] and letter["letter"] == "k")):
        return rf"{letter['number']} \times {_LETTERS[letter['letter']]}"
    formula = _BEFORE.sub("", formula)
    formula = _SCALE.sub(lambda match: rf" \times {units.SCALES[match[1]]} " + _rest_of_text(match), formula)
    formula = _HAN_SCALE.sub(_han_scale, formula)
    formula = _TIME.sub("", formula)
    for _ in range(_MOST_PARTS):
        shorter = _shorter(without_compound(formula))
        if shorter == formula:
            break
        formula = shorter
    return formula


def qualifies(formula: str) -> bool:
    r"""Whether a formula has a number and words in a text that change what it says, as `5 \text{ or more}`."""
    texts = _TEXTS.findall(formula)
    return bool(texts) and _DIGIT.search(_TEXTS.sub("", formula)) is not None and any(map(_changes, texts))


def without_asked(answer: str, question: str) -> str:
    """An answer without the word that the question has after `how many`: `3 dozen`, if it asks how many dozen."""
    match = _NUMBER_OF.fullmatch(answer.strip())
    if match is None:
        return answer
    is_asked = re.search(rf"(?i)\bhow many\s+(?:\w+\s+)?{match['word']}\b", question) is not None
    others = {word.lower() for word in match["rest"].split()} & units.CHANGING
    return match["number"] if is_asked and others <= set(question.lower().split()) else answer


def _changes(said: str) -> bool:
    words = re.findall("[A-Za-z]{2,}", said)
    is_changed = any(word.lower() in units.CHANGING for word in words) or _REMAINDER.search(said) is not None
    return is_changed or not all(map(units.is_han_unit, _IS_HAN.findall(said)))


def _out_of_text(formula: str) -> str:
    r"""`\text{3 apples}` as `3\text{ apples}`."""
    match = _ALL_IN_TEXT.match(formula)
    if match is None or match["rest"].strip(" .").lower().replace(".", "") in ("am", "pm"):
        return formula
    rest = match["rest"].strip()
    number = f"{match['before']}{match['number']}{match['percent'] or ''}"
    if not rest:
        return number
    is_unit = all(_is_unit_word(word.strip(".,()")) for word in re.split(r"[\s~/-]+", rest))
    return rf"{number}\text{{ {rest}}}" if is_unit or _SCALE.match(f"0 {rest}", 1) else formula


def _rest_of_text(match: re.Match[str]) -> str:
    r"""What was in the text with a scale: `5 \text{ million dollars}` goes on with dollars."""
    opened = "{" in match[0]
    return "" if opened == bool(match[2]) else r"\text{"


def _han_scale(match: re.Match[str]) -> str:
    zeros = sum(units.HAN_SCALES[character] for character in match["scale"])
    return rf" \times 10^{{{zeros}}} " + _goes_on(match)


def _percent(match: re.Match[str]) -> str:
    return r"\%" + _goes_on(match)


def _goes_on(match: re.Match[str]) -> str:
    """The rest of a text of which the beginning was taken, or the bracket that closes none."""
    if match["opened"]:
        return "" if match["closed"] else r"\text{ "
    return match["closed"] or ""


def _shorter(formula: str) -> str:
    """Without the last unit, if there is one."""
    for pattern, is_unit in _UNITS:
        match = pattern.search(formula, max(0, len(formula) - _LONGEST))
        if match is None or not is_unit(match):
            continue
        before = formula[: match.start()]
        stays = _JOINED.sub("", before)
        if _NUMBER_ENDS.search(stays) or _TEXT.search(stays) or (stays != before and _PART.search(stays)):
            return stays.rstrip()
    return formula


def _is_text_unit(match: re.Match[str]) -> bool:
    """Whether a text is a unit, or says what is counted."""
    words = re.split(r"[\s~/$-]+", match["said"])
    return all(_is_unit_word(word.strip(".,()")) for word in words)


def _is_unit_word(word: str) -> bool:
    if len(word) <= 1 and word.isascii():
        return word == "" or word in units.SHORT
    if word[-1].isdecimal():  # as m2, and not as R2
        return word[:-1] in units.LONG or word in ("m2", "m3", "s2")
    is_unit = units.is_upright_unit(word) or word == "per" or word.lower() not in units.CHANGING
    return is_unit and units.is_han_unit(word)


def _is_counted(match: re.Match[str]) -> bool:
    """Whether words in brackets say what is counted."""
    said = match["said"]
    is_changed = units.CHANGING_IN_BRACKETS & set(re.split(r"[\s/-]+", said.lower()))
    return (len(said) > 1 or not said.isascii()) and not is_changed and units.is_han_unit(said)


def _is_plain_unit(match: re.Match[str]) -> bool:
    """Whether words without a text around them are units: known ones, or words of a language after a mere number."""
    words, before = match["said"].split(), match.string[: match.start()]
    if ":" not in before and all(word.lower().replace(".", "") in ("am", "pm") for word in words):
        return True
    if all(map(_is_known, words)):
        return True
    is_counted = is_word(words[0]) and not any(word.lower() in units.CHANGING for word in words)
    return bool(is_counted and match["space"] and MERE_NUMBER.fullmatch(before))


def _is_known(word: str) -> bool:
    """Whether a word is a unit, or one per another."""
    if word in units.LONG or word.strip(".") in units.NAMED:
        return True
    parts = word.split("/")
    return len(parts) == 2 and len(word) > 3 and all(part in units.LONG | units.NAMED | units.SHORT for part in parts)


def _is_han(match: re.Match[str]) -> bool:
    return all(map(units.is_han_unit, match["said"].split("/")))


_UNITS = ((_TEXT, _is_text_unit), (_IN_BRACKETS, _is_counted), (_PLAIN, _is_plain_unit), (_HAN, _is_han))
