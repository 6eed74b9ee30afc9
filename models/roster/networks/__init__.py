"""Networks written for the roster; they need PyTorch, which nothing else here imports before a graph is made."""
