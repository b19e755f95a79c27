"""Libraries that stand for CUDA's, so that ONNX Runtime's CUDA provider loads without a GPU.

Its kernels then do nothing, but everything before them is the provider's own: which nodes it takes,
where it copies, and whether a graph can be captured.
"""
