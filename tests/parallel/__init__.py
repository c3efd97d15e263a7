"""Tests of the parallel core.

megatron-core is imported here, before any test module imports it: as in a run, with its platform installed, without
which it loads a compiler that takes seconds.
"""

from aspo_megatron.parallel.device.platform import CpuPlatform, installed

with installed(CpuPlatform()):
    import aspo_megatron.parallel.update.step  # noqa: F401
