"""Names of units, in texts and without, and words that are none."""

from __future__ import annotations

import re


def _set(names: str) -> frozenset[str]:
    return frozenset(names.split())


LONG = _set(
    "mm cm dm km ft in inch yd mi nm pm um hr hrs min mins sec secs ms ns yr yrs mph kmph kmh kph fps rpm bpm "
    "kg mg lb lbs oz gm gms ml cl dl cc sq cu gal Hz kHz MHz GHz THz kJ MJ eV keV MeV GeV TeV kW MW GW kWh mV "
    "kV kN MN Pa kPa MPa GPa hPa atm mol mmol kmol mmHg dB rad mrad sr deg degs bps kbps Mbps KB MB GB TB AU "
    "pc kpc Mpc Gpc ly erg ergs cal kcal dyne dynes ohm ohms mT Wb lm lx Bq Gy Sv ppm pts pt USD EUR m/s m/s^2 "
    "km/h km/hr km/s cm/s mi/h ft/s g/mol kg/m^3 g/cm^3 g/mL mol/L J/K N/m W/m^2 rad/s g/L m/min km/min"
)
"""Of two letters or more: units also where they stand plainly behind a number."""

SHORT = _set("m s g h L l J N W V A K C F T H Z S R")
r"""Units in a text alone, as in `\text{m}`; plain ones are variables."""

_SINGULAR = _set(
    "meter metre centimeter centimetre millimeter millimetre kilometer kilometre foot feet inch inche yard "
    "mile gram kilogram milligram pound ounce ton tonne liter litre milliliter gallon second minute hour day "
    "week month year degree radian dollar cent euro rupee yuan unit square cubic watt volt ampere joule "
    "newton pascal kelvin hertz mole knot acre hectare point"
)
NAMED = _SINGULAR | {f"{name}s" for name in _SINGULAR}

_PREFIXED = re.compile(
    "[YZEPTGMkhdcmunpf](?:m|g|s|A|K|mol|cd|Hz|N|Pa|J|W|C|V|F|S|Wb|T|H|Bq|Gy|Sv|eV|L|l|cal|pc|G|bar|Ci|yr|M|rad)"
    "|dyn|esu|bar|arcsec|arcmin|amu|torr|Torr|psi"
)

SCALES = {"dozen": "12", "lakh": "10^{5}", "crore": "10^{7}", "bn": "10^{9}"} | {
    name: f"10^{{{zeros}}}"
    for name, zeros in {"hundred": 2, "thousand": 3, "million": 6, "billion": 9, "trillion": 12}.items()
}
"""Words that say how many times what is before them is meant."""

_ORDINALS = _set("third fourth fifth sixth seventh eighth ninth tenth twelfth hundredth thousandth millionth")
CHANGING = (
    _set(
        "above about all almost and any approx approximately are around as below between by choose cos cot csc cubed "
        "deficit det divided double doubled down even except exp factorial fewer for from gcd greater gross half "
        "halves if incorrect inf infinity integer integers into inverse is lcm least less lim ln log loss lost max "
        "mil minus mod modulo more most nearly negative never no not odd only or otherwise over pair pairs per "
        "percent percentage perhaps pi plus quarter quarters real reciprocal remainder roughly score scores sec sin "
        "solutions sqrt squared tan ten tens than times to triple tripled twice undefined unless up when where with "
        "without wrong"
    )
    | {f"{word}{ending}" for word in _ORDINALS for ending in ("", "s")}
    | {f"{word}{ending}" for word in SCALES for ending in ("", "s")}
)
"""Words that say something, so that what is before them is not the whole."""

CHANGING_IN_BRACKETS = _set("mod modulo or and not approx approximately about roughly nearly almost percent") | {
    f"{word}{ending}" for word in SCALES for ending in ("", "s")
}
"""The same in brackets, where other words say what is counted: `5 (times)`."""

HAN = "\u4e00-\u9fff\u3040-\u30ff\uac00-\ud7af"
"""Chinese, Japanese and Korean characters, as in a class of a pattern."""

HAN_SCALES = {
    **dict.fromkeys("十십", 1),
    **dict.fromkeys("百백", 2),
    **dict.fromkeys("千천", 3),
    **dict.fromkeys("万萬만", 4),
    **dict.fromkeys("亿億억", 8),
    "조": 12,
}
"""Characters that say how many times what is before them is meant, by the zeros of their number."""

HAN_PREFIX = "[千百](?=[米克瓦卡焦帕赫伏牛安字])"
"""The metric prefixes kilo and hecto, which are written as a thousand and a hundred."""

_HAN_CHANGING = re.compile(
    f"[{''.join(HAN_SCALES)}兆半余几折打或和且与及至到约約非无负]|多(?!边)|成(?!员)|不(?!同)|的(?=平方|立方|倍|阶乘|倒数|相反|一半|负)"
    "|左右|上下|[以之][上下内外间]|分之|次[方幂]|大于|小于|超过|未満|이상|이하|미만|초과"
)


def is_upright_unit(word: str) -> bool:
    r"""Whether a word is a unit where it stands in a text, as in `\mathrm{kJ}`."""
    return word in SHORT or word in LONG or word in NAMED or _PREFIXED.fullmatch(word) is not None


def is_han_unit(word: str) -> bool:
    """Whether Chinese, Japanese or Korean characters say what is counted or measured, and nothing that changes it."""
    return _HAN_CHANGING.search(re.sub(HAN_PREFIX, "", word)) is None
