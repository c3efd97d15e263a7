"""Faults in what a layer computes between its products: heads, and what light recomputation makes again."""

from __future__ import annotations

from benchmarks.mutants.mutant import Mutant

MUTANTS: tuple[Mutant, ...] = (
    Mutant(
        "parallel/device/triton_rotary.py",
        "_rotate_back",
        old="(g_b - b * mean) * scale",
        new="g_b * scale",
        tests=("parallel/test_triton_rotary.py::test_value_and_gradient_in_float64",),
    ),
    Mutant(
        "parallel/device/triton_rotary.py",
        "rotate_back",
        old="target + size, inside",
        new="target, inside",
        tests=("parallel/test_triton_rotary.py::test_value_and_gradient_in_float64",),
    ),
    Mutant(
        "parallel/device/triton_rotary.py",
        "_rotate",
        old="(row // count * (group + 2) + row % count)",
        new="row",
        tests=("parallel/test_triton_rotary.py::test_value_and_gradient_in_float64",),
    ),
    Mutant(
        "parallel/device/rotary.py",
        "_RotatedHeads.forward",
        old="None if q_weight is None else projection",
        new="projection",
        tests=("parallel/test_triton_rotary.py::test_what_is_kept_for_backward",),
    ),
    Mutant(
        "parallel/model/fused_heads.py",
        "FusedHeadsAttention.__init__",
        old="not self._normed",
        new="True",
        tests=("parallel/test_fused_heads.py::test_values_are_a_part_of_the_projection_where_it_is_kept",),
    ),
    Mutant(
        "parallel/model/light_layer.py",
        "_Remade.fill",
        old="made.copy_(again)",
        new="made.copy_(made)",
        tests=("parallel/test_light_layer.py",),
    ),
    Mutant(
        "parallel/model/light_layer.py",
        "free_until_backward",
        old="made.untyped_storage().resize_(0)",
        new="made.untyped_storage()",
        tests=("parallel/test_light_layer.py",),
    ),
    Mutant(
        "parallel/model/light_layer.py",
        "GatedProduct.backward",
        old="grad = (grad * scale).to(grad.dtype)",
        new="grad = grad.clone()",
        tests=("parallel/test_light_layer.py",),
    ),
)
