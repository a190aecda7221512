"""MGDSPR's towers give what the paper's equations give, computed a vector at a time."""

from __future__ import annotations

from collections.abc import Iterable

import numpy as np
import torch

from pagoda.models.catalogue import Catalogue
from pagoda.models.inputs import UserBatch, item_batch
from pagoda.models.tables import Sizes
from pagoda.windows import LONG_TERM_ACTIONS
from tests.oracles import mgdspr as oracle
from tests.training.small import MGDSPR, built
from training.data.batches import Examples


def weights(sizes: Sizes) -> oracle.Weights:
    """Those of the model that `built` makes, in float64."""
    return {name: each.double().numpy() for name, each in built(MGDSPR, sizes).state_dict().items()}


def items(numbers: Iterable[int], catalogue: Catalogue) -> list[oracle.Item]:
    titles = catalogue.table["title_words"].to_pylist()
    return [
        oracle.Item(
            number=number,
            **{name: int(of_item[number]) for name, of_item in catalogue.attributes.items()},
            title=titles[number - 1],
        )
        for number in map(int, numbers)
    ]


@torch.no_grad()
def test_users_have_the_vectors_that_the_equations_give(
    sizes: Sizes, examples: Examples, catalogue: Catalogue, batch: UserBatch
) -> None:
    found = built(MGDSPR, sizes).encode_user(batch).numpy()
    of_model, behaviour, texts = weights(sizes), examples.behaviour, examples.texts
    past, long = [], []
    for line, (request, text) in enumerate(zip(examples.request_B, examples.text_B, strict=True)):
        search = oracle.Search(
            words=texts.words[text],
            bigrams=texts.bigrams[text],
            trigrams=texts.trigrams[text],
            past_queries=[texts.words[each] for each in behaviour.queries[request]],
            real_time=items(behaviour.real_time[request], catalogue),
            short_term=items(behaviour.short_term[request], catalogue),
            long_term=[
                items(behaviour.long_term[action][request], catalogue)
                for action in LONG_TERM_ACTIONS
            ],
        )
        past.append(len(search.past_queries))
        long.append([len(each) > 0 for each in search.long_term])
        expected = oracle.user(search, of_model, heads=MGDSPR.heads)
        np.testing.assert_allclose(found[line], expected, atol=1e-5, rtol=1e-4)
    assert max(past) > 1
    assert np.ptp(np.array(long).sum(1)) > 0, "no line without some of the long-term actions"


@torch.no_grad()
def test_items_have_the_vectors_that_the_equations_give(sizes: Sizes, catalogue: Catalogue) -> None:
    numbers = np.arange(1, len(catalogue) + 1)
    found = built(MGDSPR, sizes).encode_item(item_batch(numbers, catalogue)).numpy()
    of_model = weights(sizes)
    for vector, one in zip(found, items(numbers, catalogue), strict=True):
        np.testing.assert_allclose(vector, oracle.item(one, of_model), atol=1e-5, rtol=1e-4)
