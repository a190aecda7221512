"""MGDSPR as the paper has it, and every variant of it that is compared with it.

`VARIANTS` differ from `BASE` in what their names say and in nothing else; a test holds that. They
read the same rows, so that these are fetched and cut once. `YEAR` are recipes as they are shipped.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from dataclasses import replace
from typing import Any

from pydantic import TypeAdapter

from pagoda.features import SEQUENCES_STATS_V1
from pagoda.models.alpha_dnn import AlphaDnnConfig
from pagoda.models.mgdspr import QUERY_ROWS, MgdsprConfig
from training.loop_config import LoopConfig
from training.losses import Mix
from training.negatives import Negatives
from training.recipes import (
    Recipe,
    TokenizerConfig,
    alpha_dnn_year,
    mgdspr_year,
)

# The paper's form: all units, fusion transformer, temperature 2, I_mix. Departures, as everywhere
# here: in-batch negatives with log q for a random set of the pool, width 64, a lower dense rate.
BASE = Recipe(
    name="mgdspr",
    model=MgdsprConfig(),
    service=SEQUENCES_STATS_V1.name,
    train_days=84,
    loop=LoopConfig(mix=Mix()),
)

# What the paper adds to a plain model, and what it is without each.
FOUR: Mapping[str, Mapping[str, Mapping[str, Any]]] = {
    "mgs": {"model": {"mgs": False}},
    "trm": {"model": {"fusion": "mean"}},
    "tau": {"loop": {"temperature": 1.0}},
    "i_mix": {"loop": {"mix": None}},
}


def changed(of: Recipe, **parts: Mapping[str, Any]) -> Recipe:
    """The recipe with other fields of its parts: `changed(BASE, loop={"epochs": 2})`."""
    return replace(
        of, **{part: replace(getattr(of, part), **fields) for part, fields in parts.items()}
    )


def without(*names: str) -> Recipe:
    """The base without some of the four."""
    recipe = BASE
    for name in names:
        recipe = changed(recipe, **FOUR[name])
    return recipe


def _mixing(low: float, high: float, *, corrected: bool = False) -> Recipe:
    return changed(BASE, loop={"mix": Mix(low=low, high=high, corrected=corrected)})


BASELINE = "alpha-DNN"
LEAVE_ONE_OUT = {f"without {name}": without(name) for name in FOUR}
# As the paper's table has it: a plain model, and each of the four alone.
PLUS_ONE = {
    "bare": without(*FOUR),
    **{f"bare + {name}": without(*(each for each in FOUR if each != name)) for name in FOUR},
}
# The paper's own loss, and two of its pieces there: no log q, beside which I_mix weighs little.
OF_POOL: Mapping[str, Any] = {
    "negatives": Negatives(batch=False, uniform=2048),
    "log_q": "off",
}
POOLED = {
    "negatives of the pool": changed(BASE, loop=OF_POOL),
    "of the pool, without tau": changed(without("tau"), loop=OF_POOL),
    "of the pool, without i_mix": changed(without("i_mix"), loop=OF_POOL),
}
FURTHER = {
    **{f"without row {row}": changed(BASE, model={"drop_rows": (row,)}) for row in QUERY_ROWS},
    "without zero vector": changed(BASE, model={"zero_vector": False}),
    "scaled attention": changed(BASE, model={"scaled_attention": True}),
    "id alone": changed(BASE, model={"item_side": False}),
    "CLS sees the others only": changed(BASE, model={"fusion": "others"}),
    "concat and DNN": changed(BASE, model={"fusion": "concat"}),
    "LSTM over titles": changed(BASE, model={"title": "lstm"}),
    "transformer over titles": changed(BASE, model={"title": "transformer"}),
    "with user statistics": changed(BASE, model={"stats": True}),
    "without log q": changed(BASE, loop={"log_q": "off"}),
    "of each line, without i_mix": changed(
        without("i_mix"), loop={"negatives": Negatives(batch=False, each=16), "log_q": "off"}
    ),
    "negatives of batch and pool": changed(BASE, loop={"negatives": Negatives(uniform=1024)}),
    "negatives of batch and memory": changed(
        BASE, loop={"negatives": Negatives(memory=4, memory_after=100)}
    ),
}
# The hinge has no I_mix: what it is compared with is the softmax without; nor has it log q.
SOFTMAX, HINGE, PLAIN = "without i_mix", "hinge", "without i_mix and log q"
PAIRWISE = {
    HINGE: changed(without("i_mix"), loop={"loss": "hinge"}),
    PLAIN: changed(without("i_mix"), loop={"log_q": "off"}),
}
PLAIN_BASELINE = f"{BASELINE} without i_mix and log q"
# Sweeps by what is swept, in order; names of variants.
TAUS = {0.5: "tau 0.5", 1.0: "without tau", 2.0: BASE.name, 4.0: "tau 4", 8.0: "tau 8"}
ALPHAS = {
    "none": SOFTMAX,
    "0": "alpha 0",
    "0.1–0.3": "alpha 0.1–0.3",
    "0.4–0.6": BASE.name,
    "0.7–0.9": "alpha 0.7–0.9",
}
SWEPT = {
    **{f"tau {tau:g}": changed(BASE, loop={"temperature": tau}) for tau in (0.5, 4.0, 8.0)},
    "alpha 0": _mixing(0, 0),
    "alpha 0.1–0.3": _mixing(0.1, 0.3),
    "alpha 0.7–0.9": _mixing(0.7, 0.9),
}
# Whether I_mix says too little because log q lifts the positive alone: the sweep's middle and ends.
_RANGES = {"0": (0.0, 0.0), "0.4–0.6": (0.4, 0.6), "0.7–0.9": (0.7, 0.9)}
CORRECTED_ALPHAS = {alpha: f"alpha {alpha}, corrected" for alpha in _RANGES}
CORRECTED = {
    CORRECTED_ALPHAS[alpha]: _mixing(*between, corrected=True) for alpha, between in _RANGES.items()
}
MIX_CORRECTED = CORRECTED_ALPHAS["0.4–0.6"]
# Whether what the largest temperature loses is a matter of steps: the sweep's ends, four epochs.
LONGER = {
    f"tau {tau:g}, 4 epochs": changed(BASE, loop={"temperature": tau, "epochs": 4})
    for tau in (min(TAUS), max(TAUS))
}
VARIANTS: Mapping[str, Recipe] = {
    BASE.name: BASE,
    BASELINE: replace(BASE, model=AlphaDnnConfig()),
    PLAIN_BASELINE: replace(PAIRWISE[PLAIN], model=AlphaDnnConfig()),
    **LEAVE_ONE_OUT,
    **PLUS_ONE,
    **PAIRWISE,
    **POOLED,
    **FURTHER,
    **SWEPT,
    **CORRECTED,
    **LONGER,
}

# What the paper's claims compare (`claims.CLAIMS`; a test holds that), and what they do not.
CLAIMED = (BASE.name, BASELINE, *LEAVE_ONE_OUT, HINGE, MIX_CORRECTED)
UNCLAIMED = VARIANTS.keys() - CLAIMED
# As `pagoda train` fits them on twelve months. The baseline's rows have all that MGDSPR reads.
YEAR: Mapping[str, Recipe] = {
    BASE.name: replace(mgdspr_year(), service=alpha_dnn_year().service),
    BASELINE: alpha_dnn_year(),
}

_RECIPE = TypeAdapter(Recipe)


def shrunk(recipe: Recipe) -> Recipe:
    """The same at a width that a minute affords: shows that everything runs, nothing else."""
    narrow: dict[str, Any] = {"width": 16, "attribute_width": 8}
    narrow |= {"heads": 2} if isinstance(recipe.model, MgdsprConfig) else {"hidden": (24, 16)}
    negatives = recipe.loop.negatives
    early = replace(negatives, memory_after=min(negatives.memory_after, 2))
    smaller = changed(recipe, model=narrow, loop={"requests_per_batch": 32, "negatives": early})
    return replace(smaller, tokenizer=TokenizerConfig(buckets=100))


def fingerprint(recipe: Recipe) -> str:
    """Of all that decides on a model beside the data."""
    said = json.dumps({**_RECIPE.dump_python(recipe, mode="json"), "name": None}, sort_keys=True)
    return hashlib.blake2b(said.encode(), digest_size=6).hexdigest()
