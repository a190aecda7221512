from __future__ import annotations

from dataclasses import replace

import numpy as np
import torch

from pagoda.models.catalogue import Catalogue
from pagoda.models.dssm import Dssm
from pagoda.models.inputs import UserBatch, item_batch
from pagoda.models.tables import Sizes
from pagoda.text import Tokenizer, units_of
from tests.training import toy
from tests.training.small import DSSM, MGDSPR, built


def test_the_first_layer_is_a_product_with_the_counts_of_letter_trigrams(
    sizes: Sizes, catalogue: Catalogue, tokenizer: Tokenizer
) -> None:
    model = built(DSSM, sizes)
    assert isinstance(model, Dssm)
    items = item_batch(catalogue.numbers(catalogue.keys), catalogue)
    counts = torch.zeros(len(catalogue), sizes.trigram)
    for row, title in enumerate(catalogue.table["title"].to_pylist()):
        for trigram in units_of(title).trigrams:
            counts[row, tokenizer.trigrams.number(trigram)] += 1
    with torch.no_grad():
        found = model.document.bag(items.title_trigrams())
        torch.testing.assert_close(found, counts @ model.document.first.weight)


def test_vectors_have_unit_length_and_the_plain_form_knows_no_user(
    sizes: Sizes, batch: UserBatch
) -> None:
    with torch.no_grad():
        model = built(DSSM, sizes)
        user_BD, item_MD = model.encode_user(batch), model.encode_item(batch.items)
    torch.testing.assert_close(user_BD.norm(dim=1), torch.ones(len(user_BD)))
    torch.testing.assert_close(item_MD.norm(dim=1), torch.ones(len(item_MD)))
    distinct = torch.unique(batch.text_B)
    assert len(distinct) < len(user_BD)
    assert len(torch.unique(user_BD, dim=0)) == len(distinct)


def test_titles_are_gathered_only_for_a_model_that_reads_them(
    sizes: Sizes, tokenizer: Tokenizer, batch: UserBatch
) -> None:
    catalogue = Catalogue.build(toy.items(), tokenizer)
    items = item_batch(np.arange(len(catalogue) + 1), catalogue)
    of_sequences = replace(batch, items=items)
    with torch.no_grad():
        built(MGDSPR, sizes).encode_user(of_sequences)
        assert "titles" not in vars(catalogue)
        built(MGDSPR, sizes).encode_item(items)
        assert "titles" in vars(catalogue)
        assert "title_trigrams" not in vars(catalogue)
        built(DSSM, sizes).encode_item(items)
        assert "title_trigrams" in vars(catalogue)
