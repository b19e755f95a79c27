"""``gpu-check``: what the CUDA backend is worth on the GPU of this machine, in eight minutes.

The program itself needs nothing but Python, so that it can say what a bare machine lacks. Each
check runs in a process of its own (:mod:`gpu_check.child`), which a hang or a crash of it ends.
"""
