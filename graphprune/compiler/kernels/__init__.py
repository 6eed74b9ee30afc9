"""Scheduled TIR kernels: register-tiled convolution and matrix product, and channel-wise windows."""
