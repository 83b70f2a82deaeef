"""The largest batch at which LARS and MCLR are stable on a quadratic."""

from typing import Any

from sympy import Limit, Piecewise, Rational, Symbol, erf, erfinv, oo, sqrt

from theory.derivation import Derivation, Statement
from theory.equation import Step
from theory.laws._domain import above, deviation, finite, positive_spread, scalar, spread, within
from theory.laws._mixture_median import MixtureMedianBatch
from theory.laws.lars import lars_rate
from theory.symbols import gamma, n, s_w, sigma

_MEDIAN = sqrt(2) * erfinv(Rational(1, 2))


def _allowed(gamma: Any, s_w: Any, h: Any, m: Any) -> Any:
    """The size of the gradient below which gamma*s_w/size passes the rate 2*(1 + m)/h."""
    gamma = above("gamma", gamma, 0, "it is a rate")
    s_w = positive_spread("s_w", s_w)
    h = above("curvature", h, 0, "without it every rate is stable")
    m = within("momentum", m, 0, 1, "from 1 on nothing is stable", "[)")
    return gamma * s_w * h / (2 * (1 + m))


def _reached(sigma: Any, level: Any, floor: Any) -> Any:
    """n with sigma^2/n = level^2 - floor^2; infinite where the floor is above the level."""
    if floor.is_zero:
        return (sigma / level) ** 2
    room = (level - floor) * (level + floor)
    if room.is_number:
        return sigma**2 / room if room > 0 else oo
    return Piecewise((sigma**2 / room, level > floor), (oo, True))


def lars_largest_batch(
    gamma: Any,
    s_w: Any,
    sigma: Any,
    curvature: Any,
    mu: Any = 0,
    tau: Any = 0,
    share: Any = 1,
    momentum: Any = 0,
) -> Any:
    r"""Return the batch size beyond which LARS's rate passes the limit of stability.

    The rate gamma*s_w/rms(g_n) is stable while below 2*(1 + momentum)/curvature, so up to

        n = sigma^2/(g0^2 - M^2),  g0 = gamma*s_w*curvature/(2*(1 + momentum)),
        M^2 = mu^2 + share*tau^2,

    and at every n where M >= g0. The means are mu plus, for a share of the coordinates, N(0, tau).
    LARS's limit is set by the root mean square of the means, which a few large ones hold up; MCLR's
    by their median (`mclr_largest_batch`), which they do not.

    Assumptions: a large layer; a parabola of the given curvature in every coordinate, the largest
    deciding; the rate taken as constant over a step. A theorem then, without normality.

    Source: `lars_rate`; the stability limit of heavy-ball descent, Polyak (1964).

    Raises ValueError, naming the argument, for gamma, s_w or curvature <= 0, a negative standard
    deviation, or a momentum or share outside its range.

    >>> lars_largest_batch(1, 1, 3, 2), lars_largest_batch(1, 1, 3, 2, tau=1)
    (9, oo)
    """
    level = _allowed(gamma, s_w, curvature, momentum)
    mu, tau = finite("mu", mu), spread("tau", tau)
    share = within("share", share, 0, 1, "it is a part of the layer")
    floor = sqrt(mu**2 + share * tau**2)
    return _reached(deviation(sigma), level, floor)


def mclr_largest_batch(
    gamma: Any,
    s_w: Any,
    sigma: Any,
    curvature: Any,
    tau: Any = 0,
    share: Any = 1,
    momentum: Any = 0,
) -> Any:
    r"""Return the batch size beyond which MCLR (absolute medians) is not stable.

    A share of the coordinates has means N(0, tau), the rest have mean 0. MCLR's rate is
    gamma*med\|w\|/med\|g_n\|, w Gaussian. With g0 as in `lars_largest_batch`,

        share = 1 or tau = 0    sigma^2/(g0^2 - tau^2), infinite where tau >= g0: LARS's limit
        share < 1/2, tau = oo   (sigma*z/(m*g0))^2, m = 0.6745,
                                z = sqrt(2)*erfinv(1/(2*(1 - share))); infinite from 1/2 on
        otherwise               (sigma/(m*g0))^2*M(share, tau/(m*g0)), M = 1/s^2 the root of
                                (1 - share)*erf(1/(sqrt(2)*s))
                                + share*erf(1/sqrt(2*(s^2 + (tau/(m*g0))^2))) = 1/2,
                                infinite where there is none

    The second is an upper bound for every tau, and (sigma/g0)^2 a lower one: with fewer than half
    of the means apart from zero, the median gradient falls like 1/sqrt(n) without end, and MCLR has
    a finite largest batch whatever its gamma, where LARS may have none. That is how LARS's limit
    differs; on layers whose means are all of one Gaussian the two are the same. (With the *signed*
    medians of equation 20 as printed no n is safe: the rate is Cauchy at every step.) M is a sympy
    function that `evalf` and `numeric` compute.

    Assumptions: Gaussian gradients, otherwise those of `lars_largest_batch`. A theorem then.

    Source: medians of the mixture, derived here.

    Raises ValueError as `lars_largest_batch`.

    >>> from sympy import oo
    >>> mclr_largest_batch(1, 1, 3, 2)
    9
    >>> mclr_largest_batch(1, 1, 3, 2, tau=oo, share=0)
    9
    >>> mclr_largest_batch(1, 1, 3, 2, tau=1, share=0.5).evalf(6)
    13.9519
    """
    level = _allowed(gamma, s_w, curvature, momentum)
    sigma = deviation(sigma)
    share = within("share", share, 0, 1, "it is a part of the layer")
    if scalar("tau", tau) is oo:
        half = Rational(1, 2)
        if share.is_number and share >= half:
            return oo
        z = sqrt(2) * erfinv(half / (1 - share))
        return (sigma * z / (_MEDIAN * level)) ** 2
    tau = spread("tau", tau)
    if share.is_zero:
        tau = share
    if tau.is_zero or (share - 1).is_zero:
        return _reached(sigma, level, tau)
    middle = _MEDIAN * level
    # As a number where it can be: whether it is infinite then shows.
    batch = MixtureMedianBatch(share, tau / middle)
    if batch.is_number and batch.evalf(15) is oo:
        return oo
    return (sigma / middle) ** 2 * batch


def _steps() -> tuple[Step, ...]:
    k, c = Symbol("h_0", positive=True), Symbol("gamma_0", positive=True)
    tau, rho = Symbol("tau", positive=True), Symbol("rho", positive=True)
    bound = lars_largest_batch(c, s_w, sigma, k)
    scaled = tau * Rational(3, 2)
    loose = 2 * scaled / (s_w * k)  # the gamma at which g0 is 3/2 of tau
    few = mclr_largest_batch(c, s_w, sigma, k, tau=oo, share=rho)
    level = c * s_w * k / 2
    noise = sigma / sqrt(mclr_largest_batch(c, s_w, sigma, k, tau=tau, share=rho))
    small = ((rho, (0, Rational(1, 2))),)
    return (
        Step(
            "At the largest batch LARS's rate is the limit of stability, 2/h.",
            lars_rate(bound, s_w, sigma, gamma=c),
            2 / k,
        ),
        Step(
            "With means of spread tau, too, while gamma asks for more than they give.",
            lars_rate(sigma**2 / (scaled**2 - tau**2), s_w, sigma, tau=tau, gamma=loose),
            2 / k,
        ),
        Step(
            "Where a share has means without bound and the rest none, half of all |g_n| is the "
            "part 1/(2*(1 - share)) of the rest.",
            (1 - rho) * erf(_MEDIAN * level / (sqrt(2) * sigma / sqrt(few))),
            Rational(1, 2),
            domain=small,
        ),
        Step(
            "Where that share has means N(0, tau), both parts of the mixture count, and half of "
            "all |g_n| is below the level at the root.",
            (1 - rho) * erf(_MEDIAN * level / (sqrt(2) * noise))
            + rho * erf(_MEDIAN * level / sqrt(2 * (noise**2 + tau**2))),
            Rational(1, 2),
            domain=small,
        ),
        Step(
            "So the median gradient goes to zero with n, and the rate past every limit.",
            Limit(c * s_w / (sigma / sqrt(n)) / n ** Rational(1, 2), n, oo),
            c * s_w / sigma,
        ),
        Step(
            "A larger share lets the batch be larger.",
            bound,
            few,
            "<",
            domain=small,
        ),
    )


DERIVATION = Derivation(
    name="largest_batch",
    title="The largest stable batch of LARS and MCLR",
    laws=("lars_largest_batch", "mclr_largest_batch"),
    statements=(
        Statement("theorem", "In the limit of a large layer on a parabola, LARS's bound is exact."),
        Statement(
            "under assumptions",
            "MCLR's takes Gaussian gradients, a share of whose means are zero; it is finite for "
            "every gamma where that share is above one half.",
        ),
    ),
    source="Polyak (1964); derived here",
    make_formulas=lambda: {
        r"n_{\mathrm{LARS}}": lars_largest_batch(gamma, s_w, sigma, Symbol("h", positive=True)),
        r"n_{\mathrm{MCLR}}": mclr_largest_batch(
            gamma,
            s_w,
            sigma,
            Symbol("h", positive=True),
            tau=oo,
            share=Symbol("rho", positive=True),
        ),
        r"n_{\mathrm{MCLR}}\;(\text{share } \rho \text{ of } \mathcal N(0, \tau))": (
            mclr_largest_batch(
                gamma,
                s_w,
                sigma,
                Symbol("h", positive=True),
                tau=Symbol("tau", positive=True),
                share=Symbol("rho", positive=True),
            )
        ),
    },
    make_steps=_steps,
)
