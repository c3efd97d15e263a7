"""Where other languages than English state an answer."""

from __future__ import annotations

import re

_NOUN = (
    r"(?:antwort|l\xf6sung|(?:richtige|korrekte)\soption|r\xe9ponse|respuesta|(?:opci\xf3n|alternativa)\scorrecta|resposta|(?:op\xe7\xe3o"
    r"|alternativa)\scorreta|risposta|(?:opzione|alternativa)\scorretta|antwoord|svaret|svar|odpowied\u017a|odpov\u011b\u010f|vastaus"
    r"|r\u0103spuns|r\u0103spunsul|cevap|yan\u0131t|jawaban(?:nya)?|(?:\u0111\xe1p\s\xe1n|c\xe2u\str\u1ea3\sl\u1eddi)"
    r"|\u043e\u0442\u0432\u0435\u0442|\u0432\u0435\u0440\u043d\u044b\u0439\s\u0432\u0430\u0440\u0438\u0430\u043d\u0442|\u0432\u0456\u0434\u043f\u043e\u0432\u0456\u0434\u044c"
    r"|\u03b1\u03c0\u03ac\u03bd\u03c4\u03b7\u03c3\u03b7|(?:\u0627\u0644)?\u0625\u062c\u0627\u0628\u0629|\u0627\u0644\u062c\u0648\u0627\u0628|\u0909\u0924\u094d\u0924\u0930)"
)
_RIGHT = (
    r"(?:correcte|correcta|correta|corretta|giusta|juste|finale?|\u0111\xfang|yang\s(?:benar|tepat)|corect"
    r"|\u0627\u0644\u0635\u062d\u064a\u062d\u0629|\u0627\u0644\u0635\u062d\u064a\u062d)"
)
_IS = (
    r"(?:(?:ist|lautet|est|es|\xe9|\xe8|is|jest|to|\xe4r|er|je|on|este|adalah|l\xe0|\u03b5\u03af\u03bd\u03b1\u03b9|\u0647\u064a|\u0647\u0648|\u0939\u0948)(?!\w)"
    r"|[\u2014\u2013:-])"
)
_THEREFORE = r"(?:\s(?:also|daher|somit|donc|por\s(?:lo\s)?tanto|entonces|portanto|quindi|dunque|dus|jadi))"
_THE_OPTION = (
    r"(?:\s{0,3}(?:(?:la|el|die|der|a|o|il)\s|l'))?(?:(?:opci\xf3n|op\xe7\xe3o|opzione|option|alternativa|letra|lettera|lettre"
    r"|r\xe9ponse|respuesta|antwort)\s(?=[(\[]?[A-J]))?"
)
_EAST = (
    r"(?:\[?(?<!\u9519\u8bef)(?:\u7b54\u6848)\]|(?:\u7b54\u6848|\u7b54\u3048|\u6b63\u89e3|\u6b63\u786e\u7684?\u9009\u9879|\u6b63\u78ba\u7684?\u9078\u9805|\uc815\ub2f5|\ub2f5)"
    r"\s{0,9}(?:\u5e94\u8be5\u662f|\u5e94\u4e3a|\u662f|\u4e3a|\u70ba|\u9009|\u306f|\uc740|\ub294|[\u2014\u2013:-]))\s{0,3}:?(?:\s?\u9009\u9879)?"
    r"|(?:\u6545|\u5e94|\u6240\u4ee5|\u56e0\u6b64|\u6211|\u672c\u9898)\u9009(?:\u62e9|\u9879)?\s{0,3}:?"
    r"|\u0e04\u0e4d\u0e32\u0e15\u0e2d\u0e1a\s?\u0e04\u0e37\u0e2d"
)

STATED = re.compile(
    rf"(?<!\w){_NOUN}(?:\s{_RIGHT})?(?:\s{{0,9}}{_IS}|\s(?=[A-J]\s\u0939\u0948)){_THEREFORE}?\s{{0,3}}:?{_THE_OPTION}|{_EAST}",
    re.IGNORECASE,
)
"""`Die Antwort ist`, `La respuesta correcta es la opci\xf3n`, and so on: what follows is what is said."""
