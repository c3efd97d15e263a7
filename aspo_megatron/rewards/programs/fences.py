"""Finding the program in a response: the fenced blocks of Markdown, in the forms in which models write them."""

from __future__ import annotations

import re
import textwrap
from collections.abc import Iterator
from dataclasses import dataclass

from aspo_megatron.rewards.text import after_thinking

_PYTHON = frozenset({"python", "python2", "python3", "py", "py3", "pypy", "pypy3", "ipython"})
_LINE_END = re.compile("\r\n|\n|\r")  # not those that texts of a program may hold, as U+2028
_OPENING = re.compile(r"(?P<before>[^`~]*)(?P<fence>`{3,}|~{3,})(?P<info>[^`]*)")
_WORD = re.compile(r"[A-Za-z]+[0-9+#]*")
_MARKS = re.compile(r"\s*(?:>\s*)*(?:(?:[-*+]|\d{1,9}[.)])\s+)?")
"""What a quotation or a list has before its text."""

_QUOTES = re.compile(r"(?:\s*>)+ ?")
_PARTS = re.compile(r"'''|\"\"\"|'(?:\\.|[^'\\])*'|\"(?:\\.|[^\"\\])*\"|#.*|\\.")
"""Of a line of Python: the quotes of a text of several lines, texts of one line, comments."""

_SHORTEST = 3
_MOST_RETURNS = 20
"""So often a block's texts may have no end, so that what follows is read a second time."""


def extract_code(response: str) -> str | None:
    """The last complete fenced block after the thinking, of those marked as Python if there are any; None without.

    A fence is three or more backticks or tildes. It opens a block at the beginning of a line, also one of a list or a
    quotation, and after other text if Python is named. It closes one at the end of a line, with nothing after it but
    punctuation; not in a text or a comment of the program if it can be closed later.
    """
    marked = last = None
    for language, source in _blocks(_LINE_END.split(after_thinking(response))):
        last = source
        marked = source if language in _PYTHON else marked
    return last if marked is None else marked


@dataclass
class _Block:
    """A block that is read. `closing` is the line that ends it, or may do so, with what is before its fence."""

    fence: str
    language: str
    in_quotation: bool
    start: int
    text_ends: str = ""
    closing: tuple[int, str] | None = None

    def read(self, lines: list[str]) -> tuple[int, bool]:
        """Look for its end; where to go on, and whether that is sure: the block does not run on to the last line."""
        for position in range(self.start, len(lines)):
            line = lines[position]
            if not ("```" in line or "~~~" in line):
                self.follow(line)
                continue
            following = None if self.text_ends else _opened(line, position, alone=True)
            rest, is_whole = _before_fence(line, self.fence)
            outside = self.follow(line if rest is None else rest)
            if rest is not None and is_whole and outside:
                self.closing = position, rest
                return position + 1, True
            if following is not None and following.language:  # This block was never closed.
                return position, True
            if rest is not None and self.closing is None:
                self.closing = position, rest
        return len(lines), False

    def follow(self, line: str) -> bool:
        """Go past a line; whether its end is outside of texts and comments."""
        position, is_comment = 0, False
        while True:
            if self.text_ends:
                position = _end_of_text(line, position, self.text_ends)
                if position < 0:
                    return False
                self.text_ends = ""
            part = _PARTS.search(line, position)
            if part is None:
                return not is_comment
            position = part.end()
            is_comment = part[0].startswith("#")
            self.text_ends = part[0] if part[0] in ("'''", '"""') else ""

    def content(self, lines: list[str], end: int, rest: str) -> str:
        """Its lines, and what the one with the closing fence has before it."""
        inside = [*lines[self.start : end], *([] if _MARKS.fullmatch(rest) else [rest])]
        if self.in_quotation:
            inside = [_QUOTES.sub("", line, count=1) for line in inside]
        return textwrap.dedent("\n".join(inside))


def _blocks(lines: list[str]) -> Iterator[tuple[str, str]]:
    """Language and content of each complete block."""
    position = returns = 0
    while position < len(lines):
        block = _opened(lines[position], position)
        position += 1
        if block is None:
            continue
        stop, is_sure = block.read(lines)
        if is_sure or block.closing is None:
            position = stop
        elif returns < _MOST_RETURNS:
            position = block.closing[0] + 1
            returns += 1
        else:
            return
        if block.closing is not None:
            yield block.language, block.content(lines, *block.closing)


def _opened(line: str, position: int, *, alone: bool = False) -> _Block | None:
    """The block that a line opens; `alone`: with no text before the fence."""
    match = _OPENING.fullmatch(line)
    if match is None:
        return None
    word = _WORD.search(match["info"])
    language = word[0].lower() if word else ""
    if not _MARKS.fullmatch(match["before"]) and (alone or language not in _PYTHON):
        return None
    return _Block(match["fence"], language, ">" in match["before"], position + 1)


def _before_fence(line: str, fence: str) -> tuple[str | None, bool]:
    """What is before a fence at the end of a line, None without one; and whether it is as long as the other one."""
    end = len(line)
    while end and not (line[end - 1].isalnum() or line[end - 1] in "_`~"):
        end -= 1
    before = line[:end].rstrip(fence[0])
    length = end - len(before)
    return (None, False) if length < _SHORTEST else (before, length >= len(fence))


def _end_of_text(line: str, start: int, quotes: str) -> int:
    """Behind the quotes that end a text of several lines; -1 if it goes on."""
    end = line.find(quotes, start)
    while end >= 0:
        first = end
        while first > start and line[first - 1] == "\\":
            first -= 1
        if (end - first) % 2 == 0:
            return end + len(quotes)
        end = line.find(quotes, end + 1)
    return end
