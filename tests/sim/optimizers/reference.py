"""What each reference computes, entry by entry in NumPy and float64: slow, naive, independent.

Every function takes one tensor `w`, the gradients and the rates γ of all steps, and returns the
weights after the last one. Nothing here is shared with the package.
"""

import math

import numpy as np

COPY = np.float64


def norm(x):
    return math.sqrt(sum(float(v) ** 2 for v in np.ravel(x)))


def cblr(
    w, gs, hs, lrs, m=0.0, beta=0.0, decay="decoupled", cap=1e3, low=0.0, damp=0.0, sign="absolute"
):
    """Gao & Zhong (2020), equations 9 to 11, with the options of our own."""
    w = np.array(w, COPY)
    flat, v = w.reshape(-1), np.zeros(w.size)
    for g_all, h_all, lr in zip(gs, hs, lrs, strict=True):
        for i in range(w.size):
            g, h = float(np.ravel(g_all)[i]), float(np.ravel(h_all)[i])
            if decay == "coupled":
                g, h = g + beta * flat[i], h + beta
            size = max(abs(h) + damp, low)
            radius = math.inf if size == 0 else (1 + g * g) ** 1.5 / size
            if h < 0 and sign == "zero":
                radius = 0.0
            if h < 0 and sign == "gradient":
                radius = 1.0
            v[i] = m * v[i] + min(radius, cap) * g
            shrink = lr * beta * flat[i] if decay == "decoupled" else 0.0
            flat[i] = flat[i] - shrink - lr * v[i]
    return w


def lars_you(w, gs, lrs, m, beta, eta, floor=None, eps=0.0):
    """You et al. (2017): λ = η‖w‖/(‖g‖+β‖w‖); v ← m v + γλ(g + βw); w ← w - v.

    With `floor`, our default: ‖w‖ in the numerator at least that of entries of this size.
    """
    w, v = np.array(w, COPY), np.zeros_like(w, COPY)
    for g, lr in zip(gs, lrs, strict=True):
        top = norm(w) if floor is None else max(norm(w), floor * math.sqrt(w.size))
        below = norm(g) + beta * norm(w) + eps
        rate = 0.0 if floor is not None and below == 0 else eta * np.float64(top) / below
        v = m * v + lr * rate * (g + beta * w)
        w = w - v
    return w


def _torch_sgd(w, v, g, lr, m, first):
    """torch.optim.SGD without dampening: the rate stands outside the history."""
    if m == 0:
        return w - lr * g, v
    v = g if first else m * v + g
    return w - lr * v, v


def timm(w, gs, lrs, m, beta, eta=1e-3, eps=1e-8, always_adapt=False, trust_clip=False):
    w, v = np.array(w, COPY), None
    for t, (g, lr) in enumerate(zip(gs, lrs, strict=True)):
        if beta != 0 or always_adapt:
            ratio = 1.0
            if norm(w) > 0 and norm(g) > 0:
                ratio = eta * norm(w) / (norm(g) + norm(w) * beta + eps)
            if trust_clip:
                ratio = min(np.float64(ratio) / lr, 1.0)  # tensors there: λ/0 is infinite
            g = (g + beta * w) * ratio
        w, v = _torch_sgd(w, v, g, lr, m, t == 0)
    return w


def apex_larc(w, gs, lrs, m, beta, eta=0.02, eps=1e-8, clip=True):
    w, v = np.array(w, COPY), None
    for t, (g, lr) in enumerate(zip(gs, lrs, strict=True)):
        if norm(w) != 0 and norm(g) != 0:
            rate = eta * norm(w) / (norm(g) + norm(w) * beta + eps)
            if clip:
                rate = min(np.float64(rate) / lr, 1.0)
            g = (g + beta * w) * rate
        w, v = _torch_sgd(w, v, g, lr, m, t == 0)
    return w


def torchlars(w, gs, lrs, m, beta, eta=1e-3, eps=1e-8):
    w, v = np.array(w, COPY), None
    for t, (g, lr) in enumerate(zip(gs, lrs, strict=True)):
        rate = 1.0
        if norm(w) > 0 and norm(g) > 0:
            rate = norm(w) / (norm(g) + beta * norm(w) + eps) * eta
        w, v = _torch_sgd(w, v, rate * (g + beta * w), lr, m, t == 0)
    return w


def pytorch_optimizer(w, gs, lrs, m, beta, eta=1e-3, release=4.1):
    """Before 4.0 there is no β below. To 3.5 the history starts with the first step, to 3.10 with
    the gradient as it came; from 4.0 on with zero, and only a denominator of 0 gives a ratio of 1.
    """
    w, v = np.array(w, COPY), np.zeros_like(w, COPY)
    for t, (g, lr) in enumerate(zip(gs, lrs, strict=True)):
        if t == 0 and release == 3.6:
            v = np.array(g, COPY)
        if w.ndim > 1:
            below = norm(g) + (beta * norm(w) if release >= 4 else 0)
            ratio = 1.0
            if norm(w) > 0 and below > 0:
                ratio = eta * norm(w) / below
            g = (g + beta * w) * ratio
        if m > 0:
            if t == 0 and release == 3:
                v = g.copy()
            v = m * v + g
            g = v
        w = w - lr * g
    return w


def barlowtwins(w, gs, lrs, m, beta, eta=1e-3, filtered=False):
    w, v = np.array(w, COPY), np.zeros_like(w, COPY)
    for g, lr in zip(gs, lrs, strict=True):
        if not (filtered and w.ndim == 1):
            g = g + beta * w
            if norm(w) > 0 and norm(g) > 0:
                g = g * (eta * norm(w) / norm(g))
        v = m * v + g
        w = w - lr * v
    return w


def noahgolmant(w, gs, lrs, m, beta, eta=1e-3):
    """Without its schedule, which is a learning-rate scheduler here."""
    w, v = np.array(w, COPY), np.zeros_like(w, COPY)
    for g, lr in zip(gs, lrs, strict=True):
        with np.errstate(invalid="ignore"):
            local = eta * np.float64(norm(w)) / np.float64(norm(g) + beta * norm(w))
        v = m * v + local * lr * (g + beta * w)
        w = w - v
    return w


def tf_contrib(w, gs, lrs, m, beta, eta=1e-3, eps=0.0, skipped=False):
    """β appears in the ratio only; ApplyMomentum multiplies the whole accumulator by the rate."""
    w, v = np.array(w, COPY), np.zeros_like(w, COPY)
    for g, lr in zip(gs, lrs, strict=True):
        rate = lr
        if not skipped and norm(w) > 0 and norm(g) > 0:
            rate = lr * eta * norm(w) / (norm(g) + beta * norm(w) + eps)
        v = v * m + g
        w = w - rate * v
    return w


def mclr(w, gs, lrs, m, beta, reading, floor=None, limit=None):
    """Equations 20 to 22; with `floor` and `limit` our default."""
    w, v = np.array(w, COPY), np.zeros_like(w, COPY)
    low = floor or 0.0
    for g, lr in zip(gs, lrs, strict=True):
        with np.errstate(divide="ignore", invalid="ignore"):
            if reading == "absolute":
                mw = np.median(np.abs(w))
                radius = max(mw, low) / (np.median(np.abs(g)) + beta * mw)
            elif reading == "signed":
                mw = np.median(w)
                radius = max(abs(mw), low) / abs(np.median(g) + beta * mw)
            else:
                each = np.maximum(np.abs(w), low) / np.abs(g + beta * w)
                radius = np.median(each[~np.isnan(each)])
        u = g + beta * w
        if limit is not None:
            lars = 0.0
            if norm(u) > 0:
                lars = max(norm(w), low * math.sqrt(w.size)) / norm(u)
            if floor and np.isinf(radius):
                radius = lars
            radius = min(radius, limit * lars)
        v = m * v + radius * u
        w = w - lr * v
    return w


def percent_delta(w, gs, lrs, m, beta, form, floor=1e-3):
    """Equation 24 as printed, over nonzero weights, with a floor, or as published by google."""
    w, v = np.array(w, COPY), np.zeros_like(w, COPY)
    for g, lr in zip(gs, lrs, strict=True):
        u = g + beta * w
        total, count = 0.0, 0
        for a, b in zip(np.ravel(u), np.ravel(w), strict=True):
            if form == "google":
                total += abs(a / (b + (1e-6 if b >= 0 else -1e-6)))
            elif form == "floor":
                total += abs(a) / max(abs(b), floor)
            elif form == "nonzero" and b == 0:
                continue
            elif a != 0:
                total += abs(a / b) if b != 0 else math.inf
            count += 1
        rate = 1 / (total / count + 1e-5) if form == "google" else 0.0
        if form != "google" and total > 0:
            rate = count / total
        v = m * v + rate * u
        w = w - lr * v
    return w


def lamb(w, gs, lrs, b1, b2, eps, beta, floor=None):
    """You et al. (2020), algorithm 2."""
    w, m, v = np.array(w, COPY), np.zeros_like(w, COPY), np.zeros_like(w, COPY)
    for t, (g, lr) in enumerate(zip(gs, lrs, strict=True), start=1):
        m = b1 * m + (1 - b1) * g
        v = b2 * v + (1 - b2) * g * g
        u = m / (1 - b1**t) / (np.sqrt(v / (1 - b2**t)) + eps) + beta * w
        top = norm(w) if floor is None else max(norm(w), floor * math.sqrt(w.size))
        ratio = 0.0 if norm(u) == 0 else top / norm(u)
        w = w - lr * ratio * u
    return w


def lamb_fused(
    w, gs, lrs, b1, b2, eps, beta, always=False, averaging=True, l2=False, bias=True, trust_clip=0
):
    """timm's Lamb and apex's FusedLAMB: global norm clipped at 1, zero norms give 1."""
    w, m, v = np.array(w, COPY), np.zeros_like(w, COPY), np.zeros_like(w, COPY)
    for t, (g, lr) in enumerate(zip(gs, lrs, strict=True), start=1):
        g = g / max(norm(g), 1.0)
        if l2:
            g = g + beta * w
        m = b1 * m + (1 - b1 if averaging else 1.0) * g
        v = b2 * v + (1 - b2) * g * g
        c1, c2 = (1 - b1**t, 1 - b2**t) if bias else (1.0, 1.0)
        u = (m / c1) / (np.sqrt(v / c2) + eps)
        if not l2:
            u = u + beta * w
        ratio = 1.0
        if (beta != 0 or always) and norm(w) > 0 and norm(u) > 0:
            ratio = norm(w) / norm(u)
            if trust_clip:
                ratio = min(ratio, 1.0)
        w = w - lr * ratio * u
    return w
