"""Programs are found in the fences that people's models write."""

from __future__ import annotations

import pytest

from aspo_megatron.rewards.programs.fences import extract_code

ADD = "a, b = map(int, input().split())\nprint(a + b)"
FENCED = 'def f():\n    """So:\n    ```\n    f()\n    ```\n    """'
ESCAPED = 's = """\n```\n\\"""\n```\n"""'


@pytest.mark.parametrize(
    ("response", "code"),
    [
        ("```python\na\n```", "a"),
        ("```\na\n```\nor rather\n```py\nb\n\nc\n```\nDone.", "b\n\nc"),
        ("```python\na\n```\nOutput:\n```\n42\n```", "a"),
        ("```cpp\na\n```\n```\nb\n```", "b"),
        ("<think>```python\na\n```</think>\n```python\nb\n```", "b"),
        ("```python\na\n```</think> no code", None),
        ("1. So:\n   ```python\n   if a:\n       b\n   ```", "if a:\n    b"),
        ("```python\na\n```\n```python\nb", "a"),
        ("a = 1", None),
        ("", None),
        ("```x\n" * 100_000, None),
        # What comes before the opening fence.
        (f"The code is ```python\n{ADD}\n```", ADD),
        (f"**Code:** ```py\n{ADD}\n```", ADD),
        (f"- ```python\n{ADD}\n```", ADD),
        (f"10) ```\n{ADD}\n```", ADD),
        ("> ```python\n> if a:\n>     b\n> ```", "if a:\n    b"),
        (f"Wrap it in ``` fences:\n```python\n{ADD}\n```", ADD),
        (f"Not `x`, nor ```y```:\n```python\n{ADD}\n```", ADD),
        # How the fence is made, and what language it names.
        (f"````python\n{ADD}\n````", ADD),
        (f"````python\n{ADD}\n```", ADD),
        ("````python\na\n```\nb\n````", "a\n```\nb"),
        (f"~~~python\n{ADD}\n~~~", ADD),
        (f"~~~python\n{ADD}\n```\nb\n~~~", f"{ADD}\n```\nb"),
        (f"``` Python\r\n{ADD}\r\n```", ADD),
        (f"```{{.python}}\n{ADD}\n```\n```\nb\n```", ADD),
        (f"```python3.11 title='a.py'\n{ADD}\n```\n```\nb\n```", ADD),
        (f"```python:main.py\n{ADD}\n```\n```\nb\n```", ADD),
        (f"````markdown\n```python\n{ADD}\n```\n````", ADD),
        (f"```\nnever closed\n```python\n{ADD}\n```", ADD),
        # Where it closes.
        (f"```python\n{ADD}```", ADD),
        (f"```python\n{ADD}```.\nDone", ADD),
        (f"```python\n{ADD}\n```.\nDone", ADD),
        (f"```python\n{ADD}\n``` \u200b\nDone", ADD),
        (f"```python\n{FENCED}\n{ADD}\n```", f"{FENCED}\n{ADD}"),
        (f"```python\n{ESCAPED}\n{ADD}\n```", f"{ESCAPED}\n{ADD}"),
        (f"```python\na = '''b''', \"'''\"\n{ADD}\n```\nc\n```", f"a = '''b''', \"'''\"\n{ADD}"),
        (f"```python\n{ADD}  # ends ```\nprint(3)\n```", f"{ADD}  # ends ```\nprint(3)"),
        (f"```python\n'''has no end\n{ADD}\n```\nand\n```python\nb\n```", "b"),
        (f"```python\n'''has no end\n{ADD}\n```\nand", f"'''has no end\n{ADD}"),
        (f"```python\ns = 'a\u2028b'\n{ADD}\n```", f"s = 'a\u2028b'\n{ADD}"),
    ],
)
def test_the_program_is_found(response: str, code: str | None) -> None:
    assert extract_code(response) == code
