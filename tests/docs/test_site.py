"""The built site: its links, its search and its reference, as a browser without a network has them."""

from __future__ import annotations

import functools
import html.parser
import importlib
import inspect
import json
import os
import re
import shutil
import subprocess
import sys
import urllib.parse
from collections import Counter
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest
import typer

from aspo_megatron.cli.app import app

ROOT = Path(__file__).parents[2]
TOOL = ROOT / "tools" / "site"
LOADED = {("script", "src"), ("img", "src"), ("iframe", "src"), ("source", "src"), ("link", "href")}


@dataclass
class Page(html.parser.HTMLParser):
    """What is in a page."""

    path: Path
    title: str = ""
    text: str = ""
    ids: set[str] = field(default_factory=set)
    links: list[str] = field(default_factory=list)
    loaded: list[str] = field(default_factory=list)
    tree: list[str] = field(default_factory=list)
    """Links of the tree of pages and of the page's own headings."""
    inside: str = ""

    def __post_init__(self) -> None:
        super().__init__()
        self.feed(self.path.read_text(encoding="utf-8"))
        self.text = " ".join(self.text.split())

    def handle_starttag(self, tag: str, attributes: list[tuple[str, str | None]]) -> None:
        self.inside = tag
        for name, value in attributes:
            if name == "id":
                self.ids.add(value or "")
            elif (tag, name) in LOADED:
                self.loaded.append(value or "")
            elif (tag, name) == ("a", "href"):
                self.links.append(value or "")
                if "md-nav__link" in (dict(attributes).get("class") or ""):
                    self.tree.append(value or "")

    def handle_data(self, data: str) -> None:
        if self.inside == "title":
            self.title, self.inside = data, ""
        elif self.inside not in ("script", "style"):
            self.text += data


def build(tool: Path, target: Path) -> subprocess.CompletedProcess[str]:
    """`make site`, from another folder."""
    words = [sys.executable, str(tool / "build.py"), str(target)]
    return subprocess.run(words, cwd=target.parent, capture_output=True, text=True, check=False)


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("site") / "built"
    done = build(TOOL, folder)
    assert done.returncode == 0, done.stdout + done.stderr
    return folder


@functools.cache
def pages(site: Path) -> dict[str, Page]:
    """All but the page of a server that does not find one, whose links begin at a server's root."""
    paths = {str(path.relative_to(site)): path for path in sorted(site.rglob("*.html"))}
    return {name: Page(path) for name, path in paths.items() if name != "404.html"}


def test_links_lead_to_pages_and_headings(site: Path) -> None:
    found = pages(site)
    assert len(found) > 50
    for name, page in found.items():
        for link in [*page.links, *page.loaded]:
            parts = urllib.parse.urlsplit(link)
            if parts.scheme:
                continue
            target = os.path.normpath(os.path.join(os.path.dirname(name), parts.path)) if parts.path else name
            assert (site / target).is_file(), f"{name}: {link}"
            assert not parts.fragment or urllib.parse.unquote(parts.fragment) in found[target].ids, f"{name}: {link}"


def test_nothing_is_loaded_from_elsewhere(site: Path) -> None:
    for name, page in pages(site).items():
        assert page.loaded
        assert not [place for place in page.loaded if urllib.parse.urlsplit(place).netloc], name
    for path in site.rglob("*.css"):
        places = re.findall(r"(?:url\(|@import)\s*[\"']?([^\"')]+)", path.read_text(encoding="utf-8"))
        assert not [place for place in places if "//" in place.partition(",")[0]], path


def test_every_page_has_a_title_and_is_found(site: Path) -> None:
    index = json.loads((site / "search" / "search_index.json").read_text(encoding="utf-8"))
    texts: dict[str, str] = {}
    for entry in index["docs"]:
        name = entry["location"].partition("#")[0]
        texts[name] = f"{texts.get(name, '')} {entry['title']} {entry['text']}"
    assert set(texts) == set(pages(site))
    for name, page in pages(site).items():
        assert page.title.strip(), name
    for words, name in [
        ("weight sync", "sglang.html"),
        ("rollout.servers.concurrency", "configuration.html"),
        ("LossInput", "reference_python.html"),
        ("--benchmark", "reference_commands.html"),
        ("sequence_parallel: true", "repository/examples/qwen3_8b/run.yaml.html"),
    ]:
        assert words in re.sub(r"<[^>]+>", "", texts[name])


def test_search_works_from_a_disk(site: Path) -> None:
    """There browsers read no JSON and start no Worker: the theme takes a script, and a Worker of ours."""
    index = (site / "search" / "search_index.json").read_text(encoding="utf-8")
    assert (site / "search" / "search_index.js").read_text(encoding="utf-8") == f"var __index = {index}"
    for page in pages(site).values():
        assert any(place.endswith("assets/iframe-worker.js") for place in page.loaded)
    (bundle,) = (site / "assets" / "javascripts").glob("bundle.*.min.js")
    assert "search/search_index.js" in bundle.read_text(encoding="utf-8")
    (worker,) = (site / "assets" / "javascripts" / "workers").glob("search.*.min.js")
    assert "IFrameWorker" in worker.read_text(encoding="utf-8")
    assert "window.IFrameWorker =" in (site / "assets" / "iframe-worker.js").read_text(encoding="utf-8")


def test_the_tree_has_every_page_once_in_the_order_of_the_index(site: Path) -> None:
    page = pages(site)["repository/tests/skips.py.html"]  # not in the tree itself
    tree = [os.path.normpath(os.path.join("repository/tests", link)) for link in page.tree if link[0] != "#"]
    assert not [name for name, count in Counter(tree).items() if count > 1]
    code = [name for name in pages(site) if re.search(r"\.\w+\.html$|Makefile\.html$", name)]
    assert set(tree) == set(pages(site)) - set(code)
    index = (ROOT / "docs" / "index.md").read_text(encoding="utf-8")
    rows = [f"{name}.html" for name in re.findall(r"^\| \[[^\]]*\]\((\w+)\.md\)", index, flags=re.MULTILINE)]
    docs = {f"{path.stem}.html" for path in ROOT.glob("docs/*.md")} - {"index.html"}
    assert [name for name in tree if name in docs] == rows
    assert set(rows) == docs


def test_the_pages_at_the_root_and_of_examples_are_there(site: Path) -> None:
    expected = {"index" if path.stem == "README" else path.stem for path in ROOT.glob("*.md")}
    expected |= {f"examples/{path.parent.name}/index" for path in ROOT.glob("examples/*/run.yaml")}
    assert {f"repository/{name}.html" for name in expected} <= set(pages(site))
    assert pages(site)["repository/index.html"].title.startswith("aspo-megatron")
    script = (ROOT / "slurm" / "train.sbatch").read_text(encoding="utf-8")
    assert " ".join(script.split()) in pages(site)["repository/slurm/train.sbatch.html"].text


def test_the_reference_has_every_public_name_with_its_words(site: Path) -> None:
    page = pages(site)["reference_python.html"]
    modules = re.findall(r"^::: (\S+)$", (TOOL / "api.md").read_text(encoding="utf-8"), flags=re.MULTILINE)
    assert "aspo_megatron.losses" in modules
    imported = [importlib.import_module(module) for module in modules]
    for module in imported:
        for name in set(module.__all__) - {module.rpartition(".")[2] for module in modules}:
            thing = getattr(module, name)
            givers = [
                one for one in imported if getattr(one, name, None) is thing
            ]  # one of them has it in the reference
            assert any(f"{one.__name__}.{name}" in page.ids for one in givers), name
            words = (inspect.getdoc(thing) or "").partition("\n\n")[0].replace("`", "")
            assert words, name
            assert " ".join(words.split()) in page.text, name


def test_the_reference_has_every_command_with_its_options(site: Path) -> None:
    page = pages(site)["reference_commands.html"]
    waiting: list[tuple[str, Any]] = [("aspo", typer.main.get_command(app))]
    count = 0
    while waiting:
        name, command = waiting.pop()
        subcommands = getattr(command, "commands", None)
        if subcommands is not None:
            waiting += [(f"{name} {word}", one) for word, one in subcommands.items()]
            continue
        count += 1
        part = page.text.partition(f"{name} [OPTIONS]")[2].partition(" [OPTIONS]")[0]
        assert name.replace(" ", "-") in page.ids
        for parameter in command.params:
            words = " ".join((getattr(parameter, "help", None) or "").replace("`", "").split())
            assert words in part, f"{name}: {parameter.opts}"
            assert parameter.param_type_name == "argument" or parameter.opts[0] in part, f"{name}: {parameter.opts}"
    assert count > 12


@pytest.mark.parametrize(
    ("link", "said"),
    [
        ("nowhere.md", "docs/index.md: the link nowhere.md leads to nothing"),
        ("../../out.md", "docs/index.md: the link ../../out.md leads to nothing"),
        ("loss.md#nothing", "'loss.md' does not contain an anchor '#nothing'"),
    ],
)
def test_a_link_that_is_dead_makes_no_site(tmp_path: Path, link: str, said: str) -> None:
    shutil.copytree(TOOL, tmp_path / "tools" / "site")
    shutil.copy(ROOT / "mkdocs.yml", tmp_path)
    (tmp_path / "tools" / "site" / "api.md").write_text("# Python reference\n")
    (tmp_path / "docs").mkdir()
    for path in ROOT.glob("docs/*.md"):  # those that the commands' help names are among them
        (tmp_path / "docs" / path.name).write_text("# Page\n\n## Something\n")
    (tmp_path / "docs" / "index.md").write_text(
        f"# Documentation\n\n| to begin | |\n| --- | --- |\n| [a]({link}) | |\n"
    )
    done = build(tmp_path / "tools" / "site", tmp_path / "built")
    assert done.returncode == 1
    assert said in done.stderr
    assert "Traceback" not in done.stderr
    assert not (tmp_path / "built").exists()
