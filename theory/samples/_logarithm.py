"""The logarithm of the characteristic function of atoms, term by term."""

import numpy as np
from numpy.typing import NDArray

Array = NDArray[np.float64]
Complex = NDArray[np.complex128]
_BLOCK = 2_000_000  # entries of one block of the matrix exp(i*t*x)


def log_phi(t: Array, y: Array, p: Array) -> Complex:
    """log E exp(i*t*Y) for atoms, keeping the digits of 1 - phi near t = 0."""
    out = np.empty(t.shape, dtype=np.complex128)
    rows = max(1, _BLOCK // y.size)
    for start in range(0, t.size, rows):
        part = slice(start, start + rows)
        angle = np.outer(t[part], y)
        real = -2 * (np.sin(angle / 2) ** 2 @ p)
        imaginary = np.sin(angle) @ p
        out[part] = logarithm(real, imaginary)
    return out


def logarithm(real: Array, imaginary: Array) -> Complex:
    """log(1 + real + i*imaginary), exact where that is near one and where it is near zero."""
    square = 2 * real + real**2 + imaginary**2  # |phi|^2 - 1
    with np.errstate(divide="ignore"):
        far = np.log(np.hypot(1 + real, imaginary))
        near = np.log1p(np.maximum(square, -1.0)) / 2
    return np.asarray(np.where(square < -0.5, far, near) + 1j * np.arctan2(imaginary, 1 + real))
