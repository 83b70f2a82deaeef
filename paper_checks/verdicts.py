"""The words a check may end with, and the order in which a reader should meet them."""

HOLDS = "holds"
IN_PART = "holds in part"
CONTRADICTED = "contradicted"
INCONCLUSIVE = "inconclusive"
SKIPPED = "skipped"
ILLUSTRATION = "illustration"
# Of a profile whose runs go on from day to day: none of a check's runs are in the ledger yet.
NOT_RUN = "not run"
# Some of them are, and it is judged when all are.
UNFINISHED = "unfinished"

# Of what holds in part: what became of the remainder.
REFUTED, OPEN = "refuted", "open"

# A figure's or a claim's verdict is one of these; an equation's is theory's own.
VERDICTS = (HOLDS, IN_PART, CONTRADICTED, INCONCLUSIVE, SKIPPED, ILLUSTRATION)

# Contradictions first. Words that no list names come right after the failures, so that a new
# verdict is seen rather than buried.
_ORDER = (
    ("bad", "fails"),
    ("bad", CONTRADICTED),
    ("bad", "wrong constant"),
    ("bad", "sign"),
    ("warn", "typo"),
    ("warn", "ambiguous"),
    ("warn", IN_PART),
    ("warn", INCONCLUSIVE),
    ("good", "approximation"),
    ("good", HOLDS),
    ("plain", "absent"),
    ("plain", "assumption"),
    ("plain", "definition"),
    ("plain", ILLUSTRATION),
    ("plain", SKIPPED),
    ("plain", UNFINISHED),
    ("plain", NOT_RUN),
)
# What each word means, for a reader of the report.
MEANINGS = {
    "fails": "an equation: what is printed does not follow, and no small repair makes it right",
    CONTRADICTED: "the interval of what was measured excludes what the paper says",
    "wrong constant": "an equation: right but for a constant factor",
    "sign": "an equation: right but for its sign",
    "typo": "an equation: right once a slip of the notation is mended",
    "ambiguous": "an equation: the text allows readings that differ from one another",
    IN_PART: "the statement is confirmed, but not at all it says, or a control explains it as well",
    INCONCLUSIVE: "the interval allows the statement and its contrary; nothing is shown",
    "approximation": (
        "an equation: it becomes right as a small quantity goes to zero; whether that quantity is "
        "small in a network is for the figures and claims beside it"
    ),
    HOLDS: "the interval of what was measured lies where the paper says, and so do the controls",
    "absent": "an equation that the text leaves out; what is meant is derived",
    "assumption": "an equation that is assumed, not derived; figures and claims test it",
    "definition": "an equation that says what a word means, and cannot be wrong",
    ILLUSTRATION: "a sketch without a measurement, redrawn from the mathematics",
    SKIPPED: "not tried in this run",
    UNFINISHED: "some of its runs are still to be made; it is judged when all are in the ledger",
    NOT_RUN: "none of its runs are in the ledger yet",
}
# How an equation can end, in three kinds; what is assumed or defined is not among them.
EQUATIONS_RIGHT = (HOLDS, "approximation")
EQUATIONS_WRONG = ("fails", "wrong constant", "sign", "typo")
EQUATIONS_OPEN = ("ambiguous", INCONCLUSIVE)
_RANK = {word: rank for rank, (_, word) in enumerate(_ORDER)}
_TONE = {word: tone for tone, word in _ORDER}
_MARK = {"bad": "✗", "warn": "◐", "good": "✓", "plain": "–"}


def rank(verdict: str) -> int:
    """The place of a verdict in the report: contradictions have the smallest numbers.

    >>> sorted(["holds", "skipped", "contradicted"], key=rank)
    ['contradicted', 'holds', 'skipped']
    """
    return _RANK.get(verdict, _RANK["sign"])


def worded(verdict: str, rest: str = "") -> str:
    """A verdict with what became of the remainder of a statement that holds in part.

    >>> worded("holds in part", "refuted"), worded("holds")
    ('holds in part, the rest refuted', 'holds')
    """
    return f"{verdict}, the rest {rest}" if rest else verdict


def tone(verdict: str) -> str:
    """How the verdict is coloured: `bad`, `warn`, `good` or `plain`.

    >>> tone("wrong constant"), tone("holds"), tone("a word of tomorrow")
    ('bad', 'good', 'warn')
    """
    return _TONE.get(verdict, "warn")


def mark(verdict: str) -> str:
    """A sign that carries the tone without colour.

    >>> mark("contradicted"), mark("holds")
    ('✗', '✓')
    """
    return _MARK[tone(verdict)]
