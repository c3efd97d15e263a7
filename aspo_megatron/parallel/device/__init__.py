"""What a GPU and a CPU do differently: kernels, host memory, megatron-core without CUDA."""
