"""Every printer of the package: what is shown goes through `show`, `say`, a plain logger or plain texts of rich."""

from __future__ import annotations

import ast
from collections.abc import Iterator
from pathlib import Path

import pytest

import aspo_megatron

ROOT = Path(aspo_megatron.__file__).parent

REASONS = {
    ("streams.py", ".draw"): "it is what the others are made of",
    ("metrics/shown.py", ".draw"): "what rich draws, of texts that are plain",
    ("metrics/shown.py", "Text"): "the texts that are plain",
    ("metrics/shown.py", "Console"): "it is what consoles are made of",
    ("metrics/shown.py", ".print"): "it is what prints plain texts",
    ("metrics/sample_view.py", ".print"): "a rule",
    ("table_cli.py", ".print"): "a table whose cells are plain texts",
    ("rewards/worker.py", ".print_exc"): "into a pipe of the rank, whose stream makes it plain",
    ("foreign_text.py", ".getLogger"): "it makes plain loggers",
}
"""Why a module may print by other means."""

PRINTS = {"print", ".echo", ".secho", ".print", ".print_exc", ".print_exception", ".print_stack", ".print_tb", ".draw"}
LOGS = {("logging", name) for name in ("debug", "info", "warning", "error", "critical", "exception", "log")}
LOGS |= {("warnings", "warn"), ("warnings", "warn_explicit")}
STREAMS = ("stdout", "stderr", "__stdout__", "__stderr__")


def constant(node: ast.expr) -> bool:
    """Whether a text is the program's own."""
    if isinstance(node, ast.IfExp):
        return constant(node.body) and constant(node.orelse)
    return isinstance(node, ast.Constant)


def printers(source: str) -> Iterator[tuple[int, str]]:
    """Line and means of every call that shows what may have come from elsewhere."""
    tree = ast.parse(source)
    wrapped = {
        id(a) for n in ast.walk(tree) if isinstance(n, ast.Call) and name_of(n) == "shown_console" for a in n.args
    }
    for node in ast.walk(tree):
        if not isinstance(node, ast.Call):
            continue
        name, args = name_of(node), [*node.args, *(keyword.value for keyword in node.keywords)]
        owner = ast.unparse(node.func.value) if isinstance(node.func, ast.Attribute) else ""
        own = bool(args) and all(map(constant, args))
        if name in PRINTS and not (own and name != ".print"):
            yield node.lineno, name
        elif name in (".write", ".writelines") and owner.split(".")[-1] in STREAMS:
            yield node.lineno, f"{owner}{name}"
        elif owner == "os" and name in (".write", ".writev") and isinstance(node.args[0], ast.Constant):
            yield node.lineno, f"os{name}"
        elif name == "Console" and id(node) not in wrapped:
            yield node.lineno, name
        elif name == "Text" or owner == "Text":
            yield node.lineno, "Text"
        elif (owner, name[1:]) in LOGS or (name == ".getLogger" and not constant(node.args[0])):
            yield node.lineno, name


def name_of(call: ast.Call) -> str:
    """`name` or `.name` of what is called."""
    if isinstance(call.func, ast.Attribute):
        return f".{call.func.attr}"
    return call.func.id if isinstance(call.func, ast.Name) else ""


def test_no_other_printer_is_in_the_package() -> None:
    found = {
        (path.relative_to(ROOT).as_posix(), means): line
        for path in sorted(ROOT.rglob("*.py"))
        for line, means in printers(path.read_text(encoding="utf-8"))
    }
    assert [f"{file}:{line}: {means}" for (file, means), line in found.items() if (file, means) not in REASONS] == []
    assert sorted(REASONS.keys() - found.keys()) == []  # a reason that no one has any more


@pytest.mark.parametrize(
    "line",
    [
        "print(name)", "print(f'a {name}')", "typer.echo(name)", "click.secho(name)", "sys.stdout.write(name)",
        "sys.__stderr__.write(name)", "os.write(2, name)", "console.print(name)", "Console().print(name)",
        "rich.print(name)", "print(file=name)",
        "Text(name)", "Text.from_markup(name)", "logging.warning(name)", "logger = logging.getLogger(__name__)",
        "traceback.print_exc()", "warnings.warn(name)", "shown(sys.stdout).draw(name)", "to = Console(stderr=True)",
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
    ],
)
def test_what_is_plain_is_no_finding(line: str) -> None:
    assert not list(printers(line))
