"""The pages of the repository as pages of the site: docs/, and whatever of the rest they link to.

A link of a page leads to a place in the repository, which the built site does not have around it. So each place that
is linked to becomes a page of its own: Markdown as it is, a folder as its README and a list of its files, any other
file as its text in a block of code. Links are written anew to lead there.
"""

from __future__ import annotations

import os
import re
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path, PurePosixPath

REST = PurePosixPath("repository")
"""Where the site has what is outside docs/: apart, as docs/slurm.md and slurm/ would meet."""

WIDE = "---\nhide: [navigation, toc]\n---\n\n"
"""Begins a page without columns at its sides."""

IMAGES = {".png", ".svg", ".jpg"}
_LANGUAGES = {".py": "python", ".yaml": "yaml", ".sh": "bash", ".sbatch": "bash", ".json": "json", ".toml": "toml"}
_NOT_A_LINK = r"^(?P<fence>```+|~~~+).*?^(?P=fence)[ ]*$|``.*?``|`[^`]*`|<!--.*?-->"
_LINK = re.compile(
    _NOT_A_LINK + r"|(?P<image>!?)\[(?P<text>(?:`[^`]*`|[^\]`])*)\]\((?P<place>[^)\s]+)\)", re.MULTILINE | re.DOTALL
)
_TITLE = re.compile(r"^# (.+)$", re.MULTILINE)


class SiteError(Exception):
    """The site cannot be made of these pages; one line that says why."""


def title_of(markdown: str) -> str:
    """The first heading, without marks of code."""
    found = _TITLE.search(markdown)
    return found[1].replace("`", "").strip() if found else ""


def links(markdown: str) -> list[str]:
    """Where the links and images lead that are not in code or comments, as they are written."""
    return [found["place"] for found in _LINK.finditer(markdown) if found["place"]]


@dataclass
class Repository:
    """Places are paths from the root of the repository; pages are paths from the root of the site's sources."""

    root: Path
    titles: dict[PurePosixPath, str] = field(default_factory=dict)
    """Title of each page that `pages` has given."""
    places: dict[PurePosixPath, PurePosixPath] = field(default_factory=dict)
    """And the place that it, or an image, shows: for a folder its README, whether or not there is one."""

    def page_of(self, place: PurePosixPath) -> PurePosixPath:
        """The page, or image, that shows a place."""
        path = self.root / place
        if path.is_dir():
            place = place / "README.md"
        elif place.suffix != ".md" and place.suffix not in IMAGES:
            place = place.with_name(f"{place.name}.md")
        if place.name == "README.md":
            place = place.with_name("index.md")
        if place.parts[0] == "docs":
            return place.relative_to("docs")
        return REST.joinpath(
            *(re.sub(r"^\.", "dot-", part) for part in place.parts)
        )  # MkDocs leaves out what begins so

    def pages(self, first: list[PurePosixPath]) -> Iterator[tuple[PurePosixPath, str | bytes]]:
        """Each page or image with its content: of these places, and of all that they lead to.

        Raises:
            SiteError: a link leads to nothing, or two places would be one page.
        """
        folders: set[PurePosixPath] = set()
        waiting = list(first)
        while waiting:
            place = waiting.pop()
            if (self.root / place).is_dir():
                waiting += [] if place in folders else [place / name for name in self._files(place)]
                folders.add(place)
                place = place / "README.md"
            page = self.page_of(place)
            if self.places.setdefault(page, place) != place:
                raise SiteError(f"{place} and {self.places[page]} would both be the page {page}")
            if page not in self.titles and place.suffix not in IMAGES:
                text = self._text(place, listed=False)
                self.titles[page] = title_of(text)
                waiting += self._targets(place, text)
        for page, place in self.places.items():
            if place.suffix in IMAGES:
                yield page, (self.root / place).read_bytes()
            else:
                yield page, self._with_links(place, page, self._text(place, listed=place.parent in folders))

    def target(self, place: PurePosixPath, link: str) -> PurePosixPath | None:
        """The place to which a link of the page at `place` leads; None for one out of the repository or in the page."""
        path = link.partition("#")[0]
        if not path or re.match(r"[a-z]+:", path):
            return None
        target = PurePosixPath(os.path.normpath(place.parent / path))
        if target.parts[:1] == ("..",) or not (self.root / target).exists():
            raise SiteError(f"{place}: the link {link} leads to nothing")
        return target

    def _targets(self, place: PurePosixPath, text: str) -> list[PurePosixPath]:
        targets = [self.target(place, link) for link in links(text)]
        return [target for target in targets if target is not None]

    def _files(self, folder: PurePosixPath) -> list[str]:
        """Names in a folder that its page lists: files of text, and folders where there is no README."""
        plain = (self.root / folder / "README.md").is_file()
        paths = sorted((self.root / folder).iterdir(), key=lambda path: (path.is_file(), path.name))
        return [
            path.name
            for path in paths
            if (path.suffix in _LANGUAGES if path.is_file() else not plain) and path.name[0] not in "._"
        ]

    def _text(self, place: PurePosixPath, *, listed: bool) -> str:
        """Markdown of a place, with links as in the repository."""
        path = self.root / place
        if place.suffix != ".md":
            return _code(place, path.read_text(encoding="utf-8"))
        text = path.read_text(encoding="utf-8") if path.is_file() else f"# {place.parent}\n"
        if not listed:
            return text
        heading = "\n## Files\n\n" if path.is_file() else "\n"
        names = self._files(place.parent)
        return text.rstrip("\n") + "\n" + heading + "".join(f"- [{name}]({name})\n" for name in names)

    def _with_links(self, place: PurePosixPath, page: PurePosixPath, text: str) -> str:
        """The page with links from page to page. A link whose text is only a path has the target's title instead."""

        def anew(found: re.Match[str]) -> str:
            if not found["place"]:
                return found[0]
            target = self.target(place, found["place"])
            if target is None:
                return found[0]
            path, mark, anchor = found["place"].partition("#")
            to = self.page_of(target)
            words = found["text"]
            if words in (path, str(target)) and to.suffix == ".md":
                words = self.titles[to]
            relative = os.path.relpath(to, page.parent)
            return f"{found['image']}[{words}]({relative}{mark}{anchor})"

        return _LINK.sub(anew, text)


def _code(place: PurePosixPath, text: str) -> str:
    """A file that is not Markdown: a page with its text in one block."""
    language = "make" if place.name == "Makefile" else _LANGUAGES.get(place.suffix, "text")
    longest = max((len(marks) for marks in re.findall(r"`+", text)), default=0)
    fence = "`" * max(3, longest + 1)
    return f"{WIDE}# {place}\n\n{fence}{language}\n{text.rstrip()}\n{fence}\n"
