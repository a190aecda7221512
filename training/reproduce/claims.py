"""What the paper says that one model has beside another, and what each part answers."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Literal

from training.reproduce.findings import Direction, Found, Value
from training.reproduce.ground import P_GOOD
from training.reproduce.variants import BASE, BASELINE, HINGE, MIX_CORRECTED, SOFTMAX


@dataclass(frozen=True, kw_only=True)
class Claim:
    """What the paper says that one model has beside another.

    Attributes:
        metric: of the paper's two kinds; relevance is what the data set has of it.
        paper: its figure, where we know one (relative, over 100 million items).
    """

    says: str
    pair: tuple[str, str]
    metric: str
    expected: Direction
    paper: str = ""


RECALL, RELEVANCE = "recall@100", "good@100"
_UP: Direction = "up"
# What each piece does to recall, by what it is compared with; relevance all of them raise.
_PIECES: Sequence[tuple[str, tuple[str, str], Direction]] = (
    ("mgs", (BASE.name, "without mgs"), "up"),
    ("trm", (BASE.name, "without trm"), "up"),
    ("tau", (BASE.name, "without tau"), "down"),
    ("i_mix", (BASE.name, SOFTMAX), "down"),
    ("i_mix, corrected,", (MIX_CORRECTED, SOFTMAX), "down"),
)
CLAIMS = (
    Claim(
        says="MGDSPR finds more than α-DNN",
        pair=(BASE.name, BASELINE),
        metric=RECALL,
        expected="up",
        paper="Recall@1000 +2.5 %",
    ),
    Claim(
        says="MGDSPR's results are more relevant than α-DNN's",
        pair=(BASE.name, BASELINE),
        metric=RELEVANCE,
        expected="up",
        paper="good rate +13.3 %",
    ),
    *(
        Claim(
            says=f"{name} {'raises' if expected == 'up' else 'costs some'} {what}",
            pair=pair,
            metric=metric,
            expected=expected,
        )
        for name, pair, of_recall in _PIECES
        for what, metric, expected in (
            ("recall", RECALL, of_recall),
            ("relevance", RELEVANCE, _UP),
        )
    ),
    Claim(
        says="the softmax ends at a higher recall than the pairwise hinge",
        pair=(SOFTMAX, HINGE),
        metric=RECALL,
        expected="up",
    ),
)
Verdict = Literal["agrees", "says otherwise", "within noise"]


def verdict(expected: Direction, found: Direction) -> Verdict:
    """What data says of a claim."""
    if found == "within noise":
        return "within noise"
    return "agrees" if found == expected else "says otherwise"


@dataclass(frozen=True, kw_only=True)
class Answer:
    """What a part says of a claim.

    Attributes:
        relative: to what the model without has.
        verdict: None where the part has no labels of the relevance that the claim is about.
    """

    difference: Value
    relative: float
    verdict: Verdict | None


@dataclass(frozen=True, kw_only=True)
class Asked:
    """A claim and the parts' answers, by part; one that did not run both models has none."""

    claim: Claim
    answers: Mapping[str, Answer]

    @property
    def otherwise(self) -> Mapping[str, Answer]:
        """The parts that say otherwise."""
        told = self.answers.items()
        return {part: one for part, one in told if one.verdict == "says otherwise"}


def asked(parts: Sequence[Found]) -> list[Asked]:
    """The claims that some part can answer."""
    told = []
    for claim in CLAIMS:
        answers = {each.part.name: answer(each, claim) for each in parts}
        told.append(Asked(claim=claim, answers={part: a for part, a in answers.items() if a}))
    return [each for each in told if each.answers]


def answer(found: Found, claim: Claim) -> Answer | None:
    """What the part says of the claim, if it has both models."""
    one, other = claim.pair
    if not {one, other} <= found.runs.keys():
        return None
    difference = found.differences({"": claim.pair}, claim.metric)[""]
    judged = claim.metric != RELEVANCE or found.ground.relevance == P_GOOD
    before = found.values([other], claim.metric)[other].mean
    return Answer(
        difference=difference,
        relative=difference.mean / before if before else 0.0,
        verdict=verdict(claim.expected, difference.direction) if judged else None,
    )
