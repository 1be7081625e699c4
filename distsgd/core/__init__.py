"""Pure array code for NumPy or CuPy: the net, losses, update rules, the canonical tree, sampling, numerics."""
