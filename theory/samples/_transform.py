"""phi(t) of many atoms at many equally spaced t, by a non-uniform fast Fourier transform."""

import numpy as np
from numpy.typing import NDArray

Array = NDArray[np.float64]
Complex = NDArray[np.complex128]

# Width of the spreading kernel in grid points, and its shape for a grid twice as fine as needed:
# the kernel's own error is then below 1e-12 (Barnett, Magland & af Klinteberg 2019).
_WIDTH = 14
_SHAPE = 2.30 * _WIDTH
_NODES, _WEIGHTS = np.polynomial.legendre.leggauss(60)
_KERNEL = np.exp(_SHAPE * (np.sqrt(1 - _NODES**2) - 1))
_ATOMS = 1 << 18


def transform(x: Array, p: Array, period: float, most: int) -> Complex:
    """Sum of p*exp(2*pi*i*k*x/period) for k = 0 ... most, to some 1e-12 of the sum of \\|p\\|.

    >>> computed = transform(np.array([0.3, -1.0]), np.array([0.5, 0.5]), 7.0, 3)
    >>> exact = np.exp(2j * np.pi / 7 * np.outer(range(4), [0.3, -1.0])).mean(axis=1)
    >>> bool(np.abs(computed - exact).max() < 1e-12)
    True
    """
    size = 1 << int(4 * most + 2 * _WIDTH).bit_length()
    place = np.mod(x / period, 1.0) * size
    first = np.ceil(place - _WIDTH / 2).astype(np.int64)
    grid = np.zeros(size)
    for start in range(0, x.size, _ATOMS):
        part = slice(start, start + _ATOMS)
        for k in range(_WIDTH):
            cell = first[part] + k
            z = (cell - place[part]) * (2 / _WIDTH)
            kernel = np.exp(_SHAPE * (np.sqrt(np.maximum(1 - z * z, 0.0)) - 1))
            grid += np.bincount(np.mod(cell, size), kernel * p[part], minlength=size)
    wave = np.arange(most + 1)
    # The kernel's own transform, of an even function on (-width/2, width/2) grid points.
    own = np.zeros(wave.size)
    for node, weight in zip(_NODES, _WEIGHTS * _KERNEL, strict=True):
        own += weight * np.cos((np.pi * _WIDTH / size * node) * wave)
    return np.asarray(np.conj(np.fft.rfft(grid)[: most + 1]) / (own * (_WIDTH / 2)))
