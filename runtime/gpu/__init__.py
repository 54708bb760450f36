"""Networks on GPUs: kernels in OpenCL C, for OpenCL's drivers and, through LLVM, for CUDA's.

    compiled = compile_for_gpu(graph, target("tx2-gpu"))

A kernel is written once. What an OpenCL driver is given as source, clang makes PTX of for a CUDA
driver, with `cl/ptx.h` in the place of OpenCL's own functions.
"""
