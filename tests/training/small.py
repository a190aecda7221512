"""Every kind of model at a width that tests can afford, with the temperature of its recipe."""

from __future__ import annotations

from typing import Protocol, TypeVar

import pytest
import torch
from torch import Tensor

from pagoda.models.alpha_dnn import AlphaDnnConfig
from pagoda.models.catalogue import Catalogue
from pagoda.models.dssm import DssmConfig
from pagoda.models.inputs import UserBatch, user_batch
from pagoda.models.mgdspr import MgdsprConfig
from pagoda.models.mgdspr_repeats import MgdsprRepeatsConfig
from pagoda.models.sasrec import SasrecConfig
from pagoda.models.tables import Sizes
from pagoda.models.towers import Config
from pagoda.models.youtube_dnn import YoutubeDnnConfig
from pagoda.models.youtube_two_tower import YoutubeTwoTowerConfig
from pagoda.models.zam import ZamConfig
from training.data.batches import Examples

_Model = TypeVar("_Model", bound=torch.nn.Module, covariant=True)

MGDSPR = MgdsprConfig(width=16, attribute_width=8, heads=2)
MGDSPR_REPEATS = MgdsprRepeatsConfig(width=16, attribute_width=8, heads=2, code_width=8)
ALPHA_DNN = AlphaDnnConfig(width=16, attribute_width=8, hidden=(24, 16))
YOUTUBE_TWO_TOWER = YoutubeTwoTowerConfig(
    width=16, embedding_width=16, attribute_width=8, hidden=(24,)
)
YOUTUBE_DNN = YoutubeDnnConfig(width=16, attribute_width=8, hidden=(24,))
DSSM = DssmConfig(width=16, hidden=(24,))
ZAM = ZamConfig(width=16)
SASREC = SasrecConfig(width=16, attribute_width=8, dropout=0.0)

SMALL: dict[str, Config] = {
    "mgdspr": MGDSPR,
    "mgdspr_repeats": MGDSPR_REPEATS,
    "alpha_dnn": ALPHA_DNN,
    "youtube_two_tower": YOUTUBE_TWO_TOWER,
    "youtube_dnn": YOUTUBE_DNN,
    "dssm": DSSM,
    "zam": ZAM,
    "sasrec": SASREC,
}
EACH = pytest.mark.parametrize("config", SMALL.values(), ids=SMALL)


def temperature(config: Config) -> float:
    """One at which the loss can come near 0: cosines are at most 1."""
    return 0.1 if isinstance(config, YoutubeTwoTowerConfig | DssmConfig) else 1.0


def whole(examples: Examples, catalogue: Catalogue) -> UserBatch:
    """All lines as one batch."""
    return user_batch(
        examples.behaviour,
        catalogue,
        examples.texts,
        request_B=examples.request_B,
        text_B=examples.text_B,
    )


class Buildable(Protocol[_Model]):
    """The configuration of some model."""

    def build(self, sizes: Sizes) -> _Model: ...


def built(config: Buildable[_Model], sizes: Sizes) -> _Model:
    """A model whose embeddings are large enough for differences to show."""
    torch.manual_seed(1)
    model = config.build(sizes).eval()
    with torch.no_grad():
        for module in model.modules():
            if isinstance(module, torch.nn.Embedding):
                module.weight[1:].normal_(std=0.5)
    return model


@torch.no_grad()
def vectors(config: Config, sizes: Sizes, batch: UserBatch) -> Tensor:
    """User vectors of such a model."""
    return built(config, sizes).encode_user(batch)
