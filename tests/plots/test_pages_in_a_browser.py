"""Pages as a browser lays them out: wide and narrow, light and dark. Nothing sticks out, and all text can be read.

What a page looks like is in the pictures that each test leaves: `pytest --basetemp FOLDER` says where.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Literal

import pytest
from plots.browser import Browser, find_browser
from plots.made_runs import make_run

from aspo_megatron.metrics.record import Recorder
from aspo_megatron.plots.curves import draw_pictures
from aspo_megatron.plots.page import plot_page
from aspo_megatron.plots.sample_file import read_samples
from aspo_megatron.plots.sample_page import samples_page
from aspo_megatron.plots.series import read_series

WEIGHTS = (0.0, 0.3, 0.6, 0.8, 1.0, 1.2, 1.7, 3.0, float("nan"))
UNBROKEN = "x" * 150

STICKS_OUT = """
(() => {
  const found = [];
  const root = document.documentElement;
  if (root.scrollWidth > innerWidth) found.push(`the page is ${root.scrollWidth} wide`);
  for (const element of document.querySelectorAll('body *')) {
    if (!(element instanceof HTMLElement) || getComputedStyle(element).display === 'inline') continue;
    const box = element.getBoundingClientRect();
    const scrolls = element.closest('.scroll');
    const within = !scrolls || element === scrolls ? box.right <= innerWidth + 0.5 && box.left >= -0.5 : true;
    const own = element === scrolls || element.scrollWidth <= element.clientWidth + 1 || !element.clientWidth;
    if (!within || !own) found.push(element.outerHTML.slice(0, 100));
  }
  return found;
})()
"""

HARD_TO_READ = """
(() => {
  const numbers = (color) => color.match(/[\\d.]+/g).map(Number);
  const light = (color) => {
    const linear = (v) => v <= 0.03928 ? v / 12.92 : ((v + 0.055) / 1.055) ** 2.4;
    const [r, g, b] = numbers(color).map((v) => linear(v / 255));
    return 0.2126 * r + 0.7152 * g + 0.0722 * b;
  };
  const ground = (element) => {
    for (let at = element; at; at = at.parentElement) {
      const color = getComputedStyle(at).backgroundColor;
      if ((numbers(color)[3] ?? 1) > 0) return color;
    }
    return 'rgb(255, 255, 255)';
  };
  const found = [];
  for (const element of document.querySelectorAll('body, body *')) {
    if (![...element.childNodes].some((node) => node.nodeType === 3 && node.textContent.trim())) continue;
    const [a, b] = [light(getComputedStyle(element).color), light(ground(element))].sort((x, y) => y - x);
    if ((a + 0.05) / (b + 0.05) < 4.5) found.push(element.outerHTML.slice(0, 100));
  }
  return found;
})()
"""


@pytest.fixture(scope="module")
def browser(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Browser]:
    program = find_browser()
    if program is None:
        pytest.skip("no browser here: make browser")
    with Browser(program, tmp_path_factory.mktemp("browser") / "profile") as opened:
        yield opened


@pytest.fixture(scope="module")
def pages(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """The page of nine runs with long names and settings, and one of responses."""
    folder = tmp_path_factory.mktemp("pages")
    runs = []
    for number in range(9):
        name = f"2026-11-01_a-model-with-a-long-name_{'loss' * (number + 1)}_seed1"
        runs.append(make_run(folder / name / "output", 3, ("entropy", "reward/mean", "clip/pos_high"), seed=number))
        settings = f"seed: {number}\nloss: {{a_key_{'k' * 60}: {UNBROKEN}{number}, b: '{'word ' * 30}{number}'}}\n"
        (runs[-1] / "config.yaml").write_text(settings)
    series = read_series(runs, {})
    tokens = [f"{word} " for word in ("We", "add", "the", "numbers\n", "so", "it", "is", "42.", UNBROKEN)]
    asked = {"question": f"What is 1 + 41? {UNBROKEN}", "answer": UNBROKEN, "prompt": f"<|user|>{UNBROKEN}"}
    with Recorder(folder / "run", tensorboard=False) as recorder:
        for problem in (f"sum-{UNBROKEN}", "sum-2"):
            for number in range(3):
                answered = {
                    "reward": float(number == 1),
                    "advantage": 1.5,
                    "finish_reason": ("length", "stop")[number % 2],
                }
                shown = {"response": "".join(tokens), "tokens": tokens, "weights": WEIGHTS}
                recorder.log_samples(7, [{"problem": problem, **asked, **answered, **shown}])
    made = {
        "runs": plot_page(series, draw_pictures(series)),
        "responses": samples_page(f"Responses of runs/{UNBROKEN}", read_samples(folder / "run", count=40)),
    }
    for name, page in made.items():
        (folder / f"{name}.html").write_text(page)
    return {name: folder / f"{name}.html" for name in made}


@pytest.mark.parametrize("name", ["runs", "responses"])
def test_a_page_fits_its_window_and_can_be_read(
    browser: Browser, pages: dict[str, Path], name: str, tmp_path: Path
) -> None:
    grounds = set()
    schemes: tuple[Literal["light", "dark"], ...] = ("light", "dark")
    for width in (400, 600, 1200):
        for scheme in schemes:
            browser.show(pages[name], width, scheme)
            assert browser.value("document.querySelectorAll('h1').length") == 1
            assert browser.value("[...document.images].every((image) => image.naturalWidth > 100)")
            browser.value("document.querySelectorAll('details').forEach((one) => { one.open = true })")
            assert browser.value(STICKS_OUT) == [], (width, scheme)
            assert browser.value(HARD_TO_READ) == [], (width, scheme)
            legend = "[...document.querySelectorAll('.legend span')].map((one) => one.offsetHeight)"
            assert all(height < 32 for height in browser.value(legend))  # a line each: what has no room is below
            grounds.add(browser.value("getComputedStyle(document.body).backgroundColor"))
            browser.picture(tmp_path / f"{name}-{width}-{scheme}.png")
    assert len(grounds) == 2
    assert all(picture.read_bytes().startswith(b"\x89PNG") for picture in tmp_path.iterdir())
    assert len(list(tmp_path.iterdir())) == 6


def test_pictures_stand_beside_each_other_where_there_is_room(browser: Browser, pages: dict[str, Path]) -> None:
    columns = {}
    for width in (400, 1200):
        browser.show(pages["runs"], width)
        lefts = "[...document.images].map((image) => Math.round(image.getBoundingClientRect().left))"
        columns[width] = len(set(browser.value(lefts)))
    assert columns == {400: 1, 1200: 3}


def test_the_filter_of_responses_works_without_a_script(browser: Browser, pages: dict[str, Path]) -> None:
    browser.show(pages["responses"], 800)
    visible = "[...document.querySelectorAll('article, section')].filter((one) => one.offsetParent).length"
    counts = {}
    for kind in ("all", "right", "wrong", "cut", "best", "worst"):
        browser.value(f"document.getElementById('show-{kind}').click()")
        counts[kind] = browser.value(visible) - 2  # and two sections
    assert counts == {"all": 6, "right": 2, "wrong": 4, "cut": 4, "best": 2, "worst": 4}
    assert browser.value("document.scripts.length") == 0
