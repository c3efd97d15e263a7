"""The site: the pages of docs/, of the examples and of the repository, a reference of Python and of the commands.

`python tools/site/build.py build/site` writes it. First a folder of plain Markdown is made and the tree of pages, which
is that of docs/index.md; then MkDocs makes the site of it by the settings in mkdocs.yml. So what is particular to this
repository does not depend on the program that makes the pages.
"""

from __future__ import annotations

import logging
import os
import re
import shutil
import sys
import tempfile
from pathlib import Path, PurePosixPath
from typing import Any

# The theme prints, when it is imported, that it ends in May 2027: see mkdocs.yml.
os.environ.setdefault("NO_MKDOCS_2_WARNING", "1")

import commands
from mkdocs.commands.build import build
from mkdocs.config import load_config
from mkdocs.exceptions import MkDocsException
from repository import WIDE, Repository, SiteError, links

ROOT = Path(__file__).parents[2]
HERE = Path(__file__).parent
_INDEX = PurePosixPath("docs/index.md")
_PYTHON, _COMMANDS = "reference_python.md", "reference_commands.md"


def groups(index: str) -> dict[str, list[str]]:
    """Links of each table of docs/index.md, by the words at the table's head, in the order of the rows."""
    found = {}
    for head, rows in re.findall(r"^\| ([^|\n]+?) \| *\|\n\| --- .*\n((?:\|.*\n?)+)", index, flags=re.MULTILINE):
        found[head.capitalize()] = [link for row in rows.splitlines() for link in links(row)[:1]]
    return found


def navigation(repository: Repository) -> list[Any]:
    """MkDocs's `nav`: the tables of docs/index.md, then the reference, the examples and the rest of the repository.

    Every page has one place, but files that are not Markdown, which are found by their links.
    """
    titles = dict(repository.titles)
    tree: list[Any] = [{"Documentation": "index.md"}]
    taken = {PurePosixPath("index.md")}
    for head, found in groups((repository.root / _INDEX).read_text(encoding="utf-8")).items():
        targets = [repository.target(_INDEX, link) for link in found]
        pages = [repository.page_of(target) for target in targets if target is not None]
        tree.append({head: [{titles[page]: str(page)} for page in pages if page not in taken]})
        taken |= set(pages)
    tree.append({"Reference": [{"Commands": _COMMANDS}, {"Python": _PYTHON}]})
    rest = [page for page, place in repository.places.items() if place.suffix == ".md" and page not in taken]
    rest.sort(key=lambda page: (page.parent, page.name))
    examples = [page for page in rest if page.parts[:2] == ("repository", "examples")]
    tree.append({"Examples": [{titles[page]: str(page)} for page in examples]})
    tree.append({"Repository": [{titles[page]: str(page)} for page in rest if page not in examples]})
    return tree


def sources(repository: Repository, folder: Path) -> list[Any]:
    """Write the Markdown of the site into a folder, and give its navigation."""
    first = sorted(PurePosixPath(path.relative_to(repository.root)) for path in repository.root.glob("docs/*.md"))
    first += sorted(PurePosixPath(path.name) for path in repository.root.glob("*.md"))
    for page, content in repository.pages(first):
        _write(folder / page, content)
    _write(folder / "index.md", WIDE + (folder / "index.md").read_text(encoding="utf-8"))
    _write(folder / _COMMANDS, commands.page())
    _write(folder / _PYTHON, (HERE / "api.md").read_text(encoding="utf-8"))
    for path in (HERE / "assets").iterdir():
        _write(folder / "assets" / path.name, path.read_bytes())
    return navigation(repository)


def _write(path: Path, content: str | bytes) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(content if isinstance(content, bytes) else content.encode())


class _Warnings(logging.Handler):
    """Counts what MkDocs warns of, and says it."""

    def __init__(self) -> None:
        super().__init__(logging.WARNING)
        self.count = 0

    def emit(self, record: logging.LogRecord) -> None:
        self.count += 1
        sys.stderr.write(f"{record.getMessage()}\n")


def main(target: Path) -> None:
    """Build the site into a folder, which is made anew.

    Raises:
        SiteError: a link that leads to nothing, or anything that MkDocs warns of.
    """
    warnings = _Warnings()
    logging.getLogger("mkdocs").addHandler(warnings)
    with tempfile.TemporaryDirectory() as folder:
        nav = sources(Repository(ROOT), Path(folder))
        config = load_config(str(ROOT / "mkdocs.yml"), docs_dir=folder, site_dir=str(target.resolve()), nav=nav)
        config.plugins.on_startup(command="build", dirty=False)
        try:
            build(config)
        finally:
            config.plugins.on_shutdown()
    if warnings.count:
        shutil.rmtree(target)
        raise SiteError(f"{warnings.count} warnings: no site is made")


if __name__ == "__main__":
    if len(sys.argv) != 2:
        sys.exit("usage: python tools/site/build.py FOLDER")
    try:
        main(Path(sys.argv[1]))
    except (SiteError, MkDocsException) as error:
        sys.exit(f"aspo site: {error}")
