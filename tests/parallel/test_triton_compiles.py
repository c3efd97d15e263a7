"""What Triton's compiler makes of our kernels for GPUs, none of which need be here.

In processes of their own: in that of the tests Triton interprets, and it decides for all of a process.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections import Counter
from pathlib import Path
from typing import Any

import pytest

COMPILED = """
import json, re, sys
import triton
from triton.backends.compiler import GPUTarget
from triton.compiler import ASTSource
from aspo_megatron.parallel.log_prob import triton_kernels, triton_ops

NUMBERS = {"columns": "i32", "blocks": "i32", "inverse": "fp64", "size": "constexpr"}

def compiled(name, capability, dtype, out=None, with_entropy=False):
    kernel = getattr(triton_kernels, name)
    types = {"local": "*i64", "out": f"*{out}"}
    constants = {"size": triton_ops._BLOCK}
    if not with_entropy and "by_entropy" in kernel.arg_names:
        constants["by_entropy"] = None
    signature = {}
    for parameter in kernel.params:
        kind = "i32" if parameter.name.endswith("_stride") else types.get(parameter.name, f"*{dtype}")
        signature[parameter.name] = NUMBERS.get(parameter.name, kind)
        if parameter.name in constants:
            signature[parameter.name] = "constexpr"
        assert parameter.name != "inverse" or parameter.annotation_type == "fp64"
    # As at a launch: what PyTorch allocates, and rows a multiple of 16 elements apart. Columns may be any number.
    even = ("logits", "out", "logits_stride", "out_stride")
    attrs = {(place,): [["tt.divisibility", 16]] for place, each in enumerate(kernel.arg_names) if each in even}
    source = ASTSource(kernel, signature=signature, constexprs=constants, attrs=attrs)
    made = triton.compile(source, target=GPUTarget("cuda", capability, 32), options={"num_warps": triton_ops._WARPS})
    code = made.asm["ptx"]
    wide = {what: len(re.findall(what + r"\\.global[.\\w]*\\.(?:v4\\.b32|v2\\.b64)", code)) for what in ("ld", "st")}
    return wide | {"cubin": len(made.asm["cubin"]), "local": ".local" in code, "rounds": "cvt.rn.bf16x2.f32" in code}

results = {}
for number in (80, 90, 100):
    results[f"sums {number}"] = compiled("token_sums", number, "fp32")
    for with_entropy in (False, True):
        results[f"gradient {number} {with_entropy}"] = compiled("logit_gradient", number, "fp32", "bf16", with_entropy)
results["gradient fp32"] = compiled("logit_gradient", 90, "fp32", "fp32", True)
results["sums fp64"] = compiled("token_sums", 90, "fp64")
results["gradient fp64"] = compiled("logit_gradient", 90, "fp64", "fp64", True)
print(json.dumps(results))
"""

MERGE = """
import re
import triton
from triton.backends.compiler import GPUTarget
from triton.compiler import ASTSource
from aspo_megatron.parallel.device.triton_merge import merge

signature = {name: "i32" for name in merge.arg_names} | {"rows": "constexpr", "columns": "constexpr"}
signature |= {"out": "*bf16", "more": "*bf16", "lse": "*fp32", "more_lse": "*fp32"}
attrs = {(merge.arg_names.index(name),): [["tt.divisibility", 16]] for name in ("out", "more", "size")}
for number in (80, 90, 100):
    source = ASTSource(merge, signature=signature, constexprs={"rows": 64, "columns": 128}, attrs=attrs)
    made = triton.compile(source, target=GPUTarget("cuda", number, 32))
    assert made.asm["cubin"]
    assert ".local" not in made.asm["ptx"]
    print(*[len(re.findall(what + r"\\.global[.\\w]*\\.v4\\.b32", made.asm["ptx"])) for what in ("ld", "st")])
"""

ROTARY = """
import json, re
import triton
from triton.backends.compiler import GPUTarget
from triton.compiler import ASTSource
from aspo_megatron.parallel.device import rotary, triton_rotary

def compiled(name, number, dtype, size, normed):
    kernel = getattr(triton_rotary, name)
    rows, columns = rotary._tile(32, size)
    constants = {"eps": 1e-6, "groups": 8, "group": 4, "size": size, "rows": rows, "columns": columns}
    constants |= {"span": rotary._SPAN} if name == "rotate_back" else {"v": None} if normed else {}
    if not normed:
        constants |= dict.fromkeys({"q_weight", "k_weight", "sums"} & set(kernel.arg_names))
    types = {"table": "*fp32", "sums": "*fp32", "tokens": "i32", "stride": "i32"}
    signature = {each: "constexpr" if each in constants else types.get(each, f"*{dtype}") for each in kernel.arg_names}
    even = [each for each in kernel.arg_names if signature[each][0] == "*" or each == "stride"]
    attrs = {(kernel.arg_names.index(each),): [["tt.divisibility", 16]] for each in even}
    source = ASTSource(kernel, signature=signature, constexprs=constants, attrs=attrs)
    made = triton.compile(source, target=GPUTarget("cuda", number, 32), options={"num_warps": rotary._WARPS})
    code = made.asm["ptx"]
    parts = {what: re.findall(what + r"\\.global[.\\w]*?\\.((?:v[248]\\.)?b\\d+) ", code) for what in ("ld", "st")}
    return parts | {"cubin": len(made.asm["cubin"]), "local": ".local" in code}

results = {}
for name in ("rotate", "rotate_back"):
    for number in (80, 90, 100):
        results[f"{name} {number}"] = compiled(name, number, "bf16", 128, True)
    results[f"{name} half of 40"] = compiled(name, 90, "bf16", 80, True)
    results[f"{name} fp32"] = compiled(name, 90, "fp32", 128, True)
    results[f"{name} without norms"] = compiled(name, 90, "bf16", 128, False)
print(json.dumps(results))
"""

INTERPRETED = """
import os, sys
import torch
from aspo_megatron.parallel.log_prob import triton_ops

assert not any(name.split(".")[0] == "triton" for name in sys.modules)
stats = torch.empty(4, 1)
triton_ops.token_sums(torch.tensor([[1.0, 3.0, 2.0]]), torch.tensor([2]), stats, 1.0)
assert stats[0].item() == 3.0 and stats[3].item() == -1.0, stats
assert "TRITON_INTERPRET" not in os.environ
"""

TOO_LATE = """
import torch, triton
from aspo_megatron.errors import UserError
from aspo_megatron.parallel.log_prob import triton_ops

try:
    triton_ops.token_sums(torch.zeros(1, 3), torch.tensor([2]), torch.empty(4, 1), 1.0)
except UserError as error:
    print(error)
"""


def in_a_process(program: str, folder: Path) -> str:
    """What `program` prints, where nobody has told Triton to interpret and nothing is compiled yet."""
    env = {name: value for name, value in os.environ.items() if name != "TRITON_INTERPRET"}
    env["TRITON_CACHE_DIR"] = str(folder)
    done = subprocess.run(
        [sys.executable, "-c", program], env=env, capture_output=True, text=True, timeout=200, check=False
    )
    assert done.returncode == 0, done.stderr
    return done.stdout


@pytest.mark.timeout(240)
def test_kernels_compile_for_gpus(tmp_path: Path) -> None:
    """For Ampere, Hopper and Blackwell: whole blocks are read and written by 16 bytes, and no array is in local memory.

    Eight warps have 16 logits of 4 bytes for each thread of a block: four loads, and a gradient of two stores, four in
    fp32.
    """
    found: dict[str, dict[str, Any]] = json.loads(in_a_process(COMPILED, tmp_path))
    assert len(found) == 12
    for name, code in found.items():
        fp64 = "fp64" in name
        assert code["cubin"] > 1000, name
        assert code["ld"] == (8 if fp64 else 4), name
        assert not code["local"], name
        if name.startswith("gradient"):
            assert code["st"] == {"gradient fp32": 4, "gradient fp64": 8}.get(name, 2), name
            assert code["rounds"] == (name not in ("gradient fp32", "gradient fp64")), name


def test_the_merge_of_attentions_compiles(tmp_path: Path) -> None:
    """64 rows of 128 are 64 numbers for each of 128 threads, of both outputs: 16 loads and 8 stores by 16 bytes."""
    assert in_a_process(MERGE, tmp_path).split("\n") == ["16 8"] * 3 + [""]


@pytest.mark.timeout(240)
def test_the_kernels_of_rotary_positions_compile(tmp_path: Path) -> None:
    """Heads are read and written by 16 bytes, also those whose half is no power of 2; no array is in local memory.

    The sums for the norms' weights, of each 4 tokens, are written by 4 bytes.
    """
    found: dict[str, dict[str, Any]] = json.loads(in_a_process(ROTARY, tmp_path))
    assert len(found) == 12
    for name, code in found.items():
        assert code["cubin"] > 1000, name
        assert not code["local"], name
        sums = 4 if name.startswith("rotate_back") and not name.endswith("norms") else 0
        assert set(code["ld"]) == {"v4.b32"}, name
        assert Counter(code["st"])["b32"] == sums, name
        assert set(code["st"]) - {"b32"} == {"v4.b32"}, name


def test_kernels_are_interpreted_on_a_cpu(tmp_path: Path) -> None:
    """Triton is there only as the first kernel runs, and what told it to interpret is gone again."""
    in_a_process(INTERPRETED, tmp_path)


def test_where_triton_was_imported_to_compile_a_cpu_has_no_kernels(tmp_path: Path) -> None:
    said = in_a_process(TOO_LATE, tmp_path)
    assert said.startswith("Triton was imported before, to compile; start with TRITON_INTERPRET=1")
    assert "model.kernels.log_prob=eager, model.kernels.rotary=eager" in said
