"""graphprune: an ONNX graph-level pruning compiler."""
