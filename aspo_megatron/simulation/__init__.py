"""A GPU without a GPU: one rank of any layout of any model runs here as it would there, but for the values.

Tensors on the stand-in have shape, dtype, strides and memory, and nothing is computed with them; tensors on the CPU are
real. So what runs is the program's own code, and what shows is what does not depend on values: operations on tensors of
two devices, waits of the host for the device, copies, memory, collectives, and whether a kernel is handed what its
source demands. `rank.simulated_rank` is the way in; docs/gpu.md says what can be seen and what cannot.
"""
