"""Every printer of the package: what is shown goes through `show`, `say`, a plain logger or plain texts of rich."""

from __future__ import annotations

import ast
import re
from collections.abc import Iterator
from pathlib import Path

import pytest

import aspo_megatron

ROOT = Path(aspo_megatron.__file__).parent

LIBRARY = "how much a library logs"
REASONS = {
    ("streams.py", ".draw"): (4, "it is what the others are made of"),
    ("streams.py", ".fdopen"): (2, "streams that were closed"),
    ("streams.py", "os.write"): (1, "it is what the others are made of"),
    ("streams.py", "sys.stdout"): (5, "it is what becomes a stream that shows plain text"),
    ("streams.py", "sys.stderr"): (5, "it is what becomes a stream that shows plain text"),
    ("launch/stop.py", "os.write"): (2, "the program's own text, where nothing else may run; and a pipe"),
    ("metrics/line_file.py", "os.write"): (1, "into a file"),
    ("metrics/console.py", ".draw"): (1, "what rich draws, of texts that are plain"),
    ("metrics/console.py", "sys.stdout"): (3, "it is what becomes a stream that shows plain text"),
    ("metrics/console.py", "Text"): (2, "the texts that are plain"),
    ("metrics/console.py", "Console"): (1, "it is what consoles are made of"),
    ("metrics/console.py", ".print"): (1, "it is what prints plain texts"),
    ("plots/sample_view.py", ".print"): (1, "a rule"),
    ("evaluation/progress.py", ".add_task"): (1, "a name in one line, which no column takes for markup"),
    ("api/conversion.py", ".add_task"): (1, "the program's own words"),
    ("cli/table.py", ".print"): (1, "a table whose cells are plain texts"),
    ("rewards/workers/worker.py", ".print_exc"): (1, "into a pipe of the rank, whose stream makes it plain"),
    ("rewards/workers/worker.py", "sys.stdout"): (1, "it is flushed"),
    ("rewards/workers/worker.py", "sys.stderr"): (1, "it is flushed"),
    ("rewards/workers/output.py", "sys.stdout"): (3, "shows workers' output as plain text, and their end of the pipe"),
    ("rewards/workers/output.py", "sys.stderr"): (1, "what shows workers' output as plain text"),
    ("rewards/programs/jail/init.py", "os.write"): (2, "into pipes of the sandbox"),
    ("rewards/programs/jail/program.py", "open"): (2, "of what is judged: pipes that nobody shows"),
    **{("rewards/programs/jail/program.py", f"sys.{name}"): (count, "of what is judged: pipes that nobody shows")
       for name, count in {"stdout": 3, "stderr": 3, "__stdout__": 1, "__stderr__": 1}.items()},
    ("launch/rank.py", "sys.stdout"): (1, "it is flushed"),
    ("launch/rank.py", "sys.stderr"): (1, "it is flushed"),
    ("foreign_text.py", ".getLogger"): (1, "it makes plain loggers"),
    ("evaluation/benchmarks.py", ".getLogger"): (1, LIBRARY),
    ("models/hf_config.py", ".getLogger"): (1, LIBRARY),
    ("launch/rank.py", ".getLogger"): (1, LIBRARY),
    ("rewards/mathematics/reward.py", ".getLogger"): (1, LIBRARY),
    ("check/main.py", ".disable_progress_bar"): (1, LIBRARY),
}  # fmt: skip
"""Why a module may print by other means, and how often it does."""

PRINTS = {"print", ".echo", ".secho", ".print", ".print_exc", ".print_exception", ".print_stack", ".print_tb", ".draw"}
PRINTS |= {"pprint", "pp", ".pprint", ".pp", "tqdm", ".tqdm", ".add_row", ".add_column", ".add_task"}
OF_A_CONSOLE = {".log", ".rule", ".status", ".out", ".input", ".print_json"}
STREAMS = ("stdout", "stderr", "__stdout__", "__stderr__")
NO_PRINTERS = (".catch_warnings", ".simplefilter", ".filterwarnings", ".Formatter")
HARMLESS = ("isatty", "flush", "encoding")
"""What does not write to a stream."""
MODULES = ("sys", "os", "logging", "warnings", "pprint", "tqdm", "rich")
"""Modules that are called by their own names, so that their calls are found."""


def plain(node: ast.expr) -> bool:
    """Whether a text is the program's own, or made plain for rich."""
    if isinstance(node, ast.IfExp):
        return plain(node.body) and plain(node.orelse)
    if isinstance(node, ast.Starred):
        node = node.value
        return isinstance(node, ast.Call) and name_of(node) == "map" and ast.unparse(node.args[0]) in ("words", "lines")
    return isinstance(node, ast.Constant) or (isinstance(node, ast.Call) and name_of(node) in ("words", "lines"))


def printers(source: str) -> Iterator[tuple[int, str]]:
    """Line and means of all that shows, or may show, what has come from elsewhere."""
    tree = ast.parse(source)
    rich, harmless = set(), set()
    for node in ast.walk(tree):
        if isinstance(node, ast.ImportFrom) and (node.module or "").split(".")[0] == "rich":
            rich |= {alias.asname or alias.name for alias in node.names}
        elif isinstance(node, ast.Call) and name_of(node) in ("shown", "shown_console"):
            harmless |= {id(argument) for argument in node.args[:1]}
        elif isinstance(node, ast.Attribute) and node.attr in HARMLESS:
            harmless.add(id(node.value))
    for node in ast.walk(tree):
        if isinstance(node, ast.Call) and id(node) not in harmless and (means := means_of(node, rich)):
            yield node.lineno, means
        elif isinstance(node, ast.Attribute) and id(node) not in harmless:
            if node.attr in STREAMS and ast.unparse(node.value) == "sys":
                yield node.lineno, f"sys.{node.attr}"
        elif isinstance(node, ast.Import):
            yield from ((node.lineno, f"as {one.asname}") for one in node.names if one.asname and one.name in MODULES)
        elif isinstance(node, ast.ImportFrom) and node.module in ("sys", "os", "logging", "warnings"):
            known = (*STREAMS, "write", "writev", "getLogger", "warn", "fdopen")
            yield from ((node.lineno, f"from {node.module}") for one in node.names if one.name in known)


def means_of(call: ast.Call, rich: set[str]) -> str:
    """By what a call shows what may have come from elsewhere; nothing if it does not. `rich`: names of that library."""
    name, first = name_of(call), call.args[0] if call.args else None
    owner = ast.unparse(call.func.value) if isinstance(call.func, ast.Attribute) else ""
    named = {keyword.arg: keyword.value for keyword in call.keywords}
    texts = [*call.args, *(value for key, value in named.items() if key not in ("total", "console"))]
    last = owner.split(".")[-1]
    if name in PRINTS or (name in OF_A_CONSOLE and last.lower().endswith(("console", "console()"))):
        return "" if texts and all(map(plain, texts)) and name != ".print" else name
    if name.removeprefix(".") in ("open", "fdopen") and isinstance(first, ast.Constant):
        return name if first.value in (1, 2, "/dev/stdout", "/dev/stderr", "/dev/tty") else ""
    if name == "getLogger" or (owner in ("logging", "warnings") and name not in NO_PRINTERS):
        return name
    if owner == "os" and name in (".write", ".writev", ".pwrite"):
        return f"os{name}"
    if "tqdm" in owner.split(".") or name == "Text" or owner == "Text":
        return "tqdm" if "tqdm" in owner else "Text"
    if name in ("TextColumn", ".TextColumn"):
        marked = not isinstance(mark := named.get("markup"), ast.Constant) or mark.value is not False
        return name if marked and not (isinstance(first, ast.Constant) and not SHOWN.search(str(first.value))) else ""
    of_rich = name in rich or owner.split(".")[0] == "rich"
    return name if name == "Console" or (of_rich and name != "Progress" and not all(map(plain, texts))) else ""


SHOWN = re.compile("description|fields")
"""What of a task is text that is given."""


def name_of(call: ast.Call) -> str:
    """`name` or `.name` of what is called."""
    if isinstance(call.func, ast.Attribute):
        return f".{call.func.attr}"
    return call.func.id if isinstance(call.func, ast.Name) else ""


def test_no_other_printer_is_in_the_package() -> None:
    found: dict[tuple[str, str], list[int]] = {}
    for path in sorted(ROOT.rglob("*.py")):
        for line, means in printers(path.read_text(encoding="utf-8")):
            found.setdefault((path.relative_to(ROOT).as_posix(), means), []).append(line)
    counts = {key: len(lines) for key, lines in found.items()}
    reasoned = {key: count for key, (count, _) in REASONS.items()}
    others = sorted(key for key, _ in counts.items() - reasoned.items())
    assert [f"{file}:{found[file, means]}: {means}" for file, means in others] == []
    assert sorted(reasoned.items() - counts.items()) == []  # a reason that no one has any more


@pytest.mark.parametrize(
    "line",
    [
        "print(name)", "print(f'a {name}')", "typer.echo(name)", "click.secho(name)", "sys.stdout.write(name)",
        "sys.__stderr__.write(name)", "os.write(2, name)", "console.print(name)", "Console().print(name)",
        "rich.print(name)", "print(file=name)",
        "Text(name)", "Text.from_markup(name)", "logging.warning(name)", "logger = logging.getLogger(__name__)",
        "traceback.print_exc()", "warnings.warn(name)", "shown(sys.stdout).draw(name)", "to = Console(stderr=True)",
        "logger = logging.getLogger('x')", "logging.getLogger()", "logger = getLogger('x')", "logging.warning('a')",
        "logging.StreamHandler()", "from logging import getLogger", "import logging as log", "tqdm.write(name)",
        "tqdm.tqdm.write(name)", "tqdm(rows, desc=name)", "bar = tqdm.tqdm(rows)", "pprint.pprint(name)",
        "pprint.pp(name)",
        "pprint(name)", "pp(name)", "os.write(fd, name)", "os.writev(fd, names)", "os.write(sys.stdout.fileno(), name)",
        "sys.stdout.buffer.write(name)", "out = sys.stdout\nout.write(name)", "print('a', file=sys.stdout)",
        "write_to(sys.stderr)", "write_to(file=sys.stderr)", "from sys import stdout", "import sys as s",
        "open(1, 'w')",
        "os.fdopen(2, 'w')", "open('/dev/tty', 'w')", "sys.stdout.writelines(names)", "console.log(name)",
        "self._console.log(name)", "Console().log(name)", "console.rule(name)", "console.status(name)",
        "table.add_row(name)", "table.add_row(*names)", "table.add_row(words(name), name)", "table.add_column(name)",
        "bar.add_task(name, total=3)", "bar.add_task(description=name)", "from rich.panel import Panel\nPanel(name)",
        "from rich.table import Table as Drawn\nDrawn(title=name)", "from rich.rule import Rule\nRule(name)",
        "rich.panel.Panel(name)", "TextColumn('{task.description}')", "TextColumn('{task.fields[a]}', markup=True)",
        "TextColumn(name)", "from rich.markdown import Markdown\nMarkdown(name)",
    ],
)  # fmt: skip
def test_a_printer_is_found(line: str) -> None:
    assert list(printers(line))


@pytest.mark.parametrize(
    "line",
    [
        "print('a')",
        "print('a' if b else 'c')",
        "show(name)",
        "say(f'{name}')",
        "logger.warning('%s', name)",
        "shown_console(Console())",
        "shown(sys.stdout).write(name)",
        "shown(sys.stderr, ignore).write(name)",
        "sys.stdout.isatty()",
        "sys.stderr.flush()",
        "done.stdout.split()",
        "math.log(name)",
        "self._text.append(name)",
        "table.add_row(*map(words, names))",
        "table.add_column(words(name), justify='left')",
        "bar.add_task('a', total=total)",
        "TextColumn('{task.description}', markup=False)",
        "TextColumn('{task.completed:.0f}')",
        "open(path, 'rb')",
    ],
)
def test_what_is_plain_is_no_finding(line: str) -> None:
    assert not list(printers(line))
