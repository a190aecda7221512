"""The kinds of models there are, and how their weights are kept."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, TypeVar

import torch
from pydantic import TypeAdapter
from safetensors.torch import load_file, save_file
from torch import nn

from pagoda.models.alpha_dnn import AlphaDnnConfig
from pagoda.models.base import TwoTowers
from pagoda.models.dssm import DssmConfig
from pagoda.models.mgdspr import MgdsprConfig
from pagoda.models.mgdspr_repeats import MgdsprRepeatsConfig
from pagoda.models.sasrec import SasrecConfig
from pagoda.models.tables import Sizes
from pagoda.models.youtube_dnn import YoutubeDnnConfig
from pagoda.models.youtube_two_tower import YoutubeTwoTowerConfig
from pagoda.models.zam import ZamConfig

Config = (
    MgdsprConfig
    | MgdsprRepeatsConfig
    | AlphaDnnConfig
    | YoutubeTwoTowerConfig
    | YoutubeDnnConfig
    | DssmConfig
    | ZamConfig
    | SasrecConfig
)
KINDS: dict[str, type[Config]] = {
    "mgdspr": MgdsprConfig,
    "mgdspr_repeats": MgdsprRepeatsConfig,
    "alpha_dnn": AlphaDnnConfig,
    "youtube_two_tower": YoutubeTwoTowerConfig,
    "youtube_dnn": YoutubeDnnConfig,
    "dssm": DssmConfig,
    "zam": ZamConfig,
    "sasrec": SasrecConfig,
}
_Model = TypeVar("_Model", bound=nn.Module)


def kind_of(config: Config) -> str:
    """The name of a configuration's kind."""
    return next(name for name, kind in KINDS.items() if type(config) is kind)


def load(
    kind: str, config: Mapping[str, Any], sizes: Mapping[str, Any], weights: Path
) -> TwoTowers:
    """The model with its weights, ready to encode.

    Args:
        config, sizes: fields of the kind's configuration and of `Sizes`.
    Raises: ValueError naming what does not fit.
    """
    if kind not in KINDS:
        raise ValueError(f"model kind {kind!r} is not one of {sorted(KINDS)}")
    return filled(
        lambda: TypeAdapter(KINDS[kind]).validate_python(config).build(Sizes.read(sizes)), weights
    )


def filled(build: Callable[[], _Model], weights: Path) -> _Model:
    """A model with the weights of a file, ready to use. Raises: ValueError if they do not fit."""
    # Weights come from the file: building on `meta` spares initialising them first.
    with torch.device("meta"):
        model = build()
    try:
        model.load_state_dict(load_file(weights), strict=True, assign=True)
    except RuntimeError as error:
        raise ValueError(" ".join(str(error).split())) from error
    return model.eval()


def save(model: nn.Module, path: Path) -> None:
    """Write the weights as safetensors."""
    save_file({name: each.contiguous() for name, each in model.state_dict().items()}, path)
