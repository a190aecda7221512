"""Daily training: going on from a bundle instead of beginning anew.

What the parent knows is kept: its tokenizer, its dense weights, and the rows of the items and
attribute values that are still there, matched by key and value. What is new begins as it would in
any model; what has left the catalogue has no row. Then training goes on over the days that the
parent was not trained on.

AdaGrad's sums of squares begin at zero again, estimated chances as counted over these days, and the
memory empty, but without a warm-up (`LoopConfig.going_on`): a bundle holds what serving needs. Sums
that only grow from day to day would make the rates of often touched rows go to zero, so that the
newest days would teach the least. The price is that a row's first step is a full one.
"""

from __future__ import annotations

from dataclasses import replace
from datetime import timedelta

import numpy as np
import torch
from pydantic import TypeAdapter

from pagoda.bundle import Bundle
from pagoda.dataset import Dataset
from pagoda.errors import InputError
from pagoda.models.base import TwoTowers
from pagoda.models.catalogue import Catalogue
from pagoda.models.tables import Sizes, Table
from pagoda.models.towers import kind_of
from training.data.lines import judged_span, week_of
from training.inputs import Plan
from training.recipes import Recipe

# Of the data set's record: what decides on the meaning of ids, days and rows. The rest grows daily.
_SAME = {"name", "click_actions", "positive_actions", "requests", "times", "split", "shift_days"}


def going_on(chosen: Plan, dataset: Dataset, parent: Bundle) -> Plan:
    """The plan from a parent: of its days those after the parent's last training day.

    Days between the two that the plan does not reach back to are left out.

    Raises: InputError naming everything in which the parent differs, or if no day is left.
    """
    if problems := _differences(chosen.recipe, dataset, parent):
        raise InputError(
            "training cannot go on from this bundle",
            where=parent.name,
            problems=problems,
            next_step="Name a bundle of this recipe and data set, or train without --from.",
        )
    trained = Dataset.model_validate(parent.manifest.dataset)
    week = week_of(str(parent.manifest.recipe_config.get("week")))
    ended = judged_span(trained, week).first
    if ended >= chosen.train.end:
        raise InputError(
            "the bundle was trained on all of these days",
            where=parent.name,
            expected=f"training that ended before {chosen.train.last}",
            found=f"trained to {ended - timedelta(days=1)}",
            next_step="Name an earlier bundle, or import later days first.",
        )
    train = replace(chosen.train, first=max(chosen.train.first, ended))
    recipe = replace(chosen.recipe, loop=chosen.recipe.loop.going_on)
    return replace(chosen, recipe=recipe, train=train, parent=parent)


@torch.no_grad()
def inherit(model: TwoTowers, catalogue: Catalogue, parent: Bundle) -> None:
    """Give a model over a catalogue the parent's weights, in place.

    Args:
        model: newly built, of the parent's configuration and tokenizer.
    """
    assert not Sizes.read(parent.manifest.model.sizes).schemes.hashed
    places = parent.catalogue.places_of(catalogue)
    numbered_anew = {
        f"{name}.weight": places[each.kind]
        for name, each in model.named_modules(remove_duplicate=False)
        if isinstance(each, Table) and each.kind in places
    }
    theirs = parent.model.state_dict()
    for name, weight in model.state_dict().items():
        if name in numbered_anew:
            place = numbered_anew[name]
            known = np.flatnonzero(place)
            weight[known] = theirs[name][place[known]]
        else:
            weight.copy_(theirs[name])


def _differences(recipe: Recipe, dataset: Dataset, parent: Bundle) -> list[str]:
    """In what the bundle is not the recipe's, or not of this data set; a line each."""
    manifest, words = parent.manifest, parent.tokenizer
    kind, config = kind_of(recipe.model), manifest.model.config
    schemes = Sizes.read(manifest.model.sizes).schemes
    pairs = {
        "model": (kind, manifest.model.kind),
        "feature service": (recipe.service, manifest.feature_service),
        "windows": (recipe.windows, manifest.windows),
        "segmentation": (recipe.tokenizer.segmentation, words.segmentation),
        "buckets": (recipe.tokenizer.buckets, words.words.buckets),
        "embedding schemes": (recipe.schemes, schemes),
    } | {
        f"data set's {name}": (here, manifest.dataset.get(name))
        for name, here in dataset.model_dump(mode="json", include=_SAME).items()
    }
    if kind == manifest.model.kind:
        theirs = TypeAdapter(type(recipe.model)).validate_python(config)
        pairs["model's configuration"] = (recipe.model, theirs)
    found = [f"{what}: expected {a}, found {b}" for what, (a, b) in pairs.items() if a != b]
    if schemes.hashed:
        found.append(
            f"hashed embeddings ({', '.join(schemes.hashed)}): numbers say which rows are shared, "
            "and change with the catalogue"
        )
    if dataset.split == "leave_last_out":
        found.append("each user's last line is judged here: no day is later than the training")
    return found
