"""Muon as its papers write it, one matrix at a time, in float64 and by singular values.

Jordan et al. 2024 and Liu et al. 2025 (arXiv:2502.16982), section 2.2; the polynomial iteration is
replaced by its limit, so only an approximate agreement is to be expected.
"""

import numpy as np


def polar_factor(matrix):
    """The matrix with every singular value set to 1."""
    left, _, right = np.linalg.svd(matrix, full_matrices=False)
    return left @ right


def step(weight, gradient, momentum_buffer, *, rate, decay, momentum=0.95):
    """New weight and buffer after one update with Nesterov momentum."""
    buffer = momentum * momentum_buffer + (1 - momentum) * gradient
    ahead = (1 - momentum) * gradient + momentum * buffer
    scale = 0.2 * np.sqrt(max(weight.shape))
    return weight * (1 - rate * decay) - rate * scale * polar_factor(ahead), buffer
