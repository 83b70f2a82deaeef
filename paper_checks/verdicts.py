"""The words a check may end with, and the order in which a reader should meet them."""

HOLDS = "holds"
IN_PART = "holds in part"
CONTRADICTED = "contradicted"
INCONCLUSIVE = "inconclusive"
SKIPPED = "skipped"
ILLUSTRATION = "illustration"
# Of a profile whose runs go on from day to day: none of a check's runs are in the ledger yet.
NOT_RUN = "not run"

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
    ("plain", NOT_RUN),
)
_RANK = {word: rank for rank, (_, word) in enumerate(_ORDER)}
_TONE = {word: tone for tone, word in _ORDER}
_MARK = {"bad": "✗", "warn": "◐", "good": "✓", "plain": "–"}


def rank(verdict: str) -> int:
    """The place of a verdict in the report: contradictions have the smallest numbers.

    >>> sorted(["holds", "skipped", "contradicted"], key=rank)
    ['contradicted', 'holds', 'skipped']
    """
    return _RANK.get(verdict, _RANK["sign"])


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
