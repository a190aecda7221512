"""How much of its attention a model gives to nothing, and whether it has reason to.

A zero vector beside the history lets a query that nothing in it is related to attend to nothing
(ZAM, Ai et al., CIKM 2019; MGDSPR 3.2.2). So its weight should be larger on lines whose history
has no item of the leaf category that was then taken.

Shape legend: B lines, T events of a history.
"""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional

from pagoda.models.base import TwoTowers
from pagoda.models.inputs import Padded, UserBatch
from pagoda.models.zam import Zam
from training.evaluation.metrics import Gains
from training.evaluation.scores import Columns
from training.evaluation.trial import Trial
from training.vectors import of_lines

METRIC = "zero share"
RELATED, FOREIGN = "history with the leaf", "history without the leaf"


def by_history(trial: Trial, model: TwoTowers) -> dict[str, tuple[Columns, Gains]]:
    """Set of rows to its lines and the zero's share of the attention in each.

    Of ZAM; nothing of models that attend to nothing in another sense, or cannot. Lines without
    history attend to nothing whatever was learned, and are left out, as are those whose item has
    no leaf category.
    """
    if not isinstance(model, Zam) or not model.config.zero:
        return {}
    leaf_B = trial.catalogue.attributes["leaf"][trial.examples.item_B]
    share_B = np.empty(trial.examples.lines)
    related_B, filled_B = (np.empty(trial.examples.lines, bool) for _ in range(2))

    def told(batch: UserBatch, lines: Columns) -> tuple[Tensor, Tensor, Tensor]:
        held, wanted_B = model.history(batch), torch.from_numpy(leaf_B[lines])
        filled = held.mask_UT.any(1)[batch.request_B]
        return model.zero_share(batch), related(held, wanted_B.to(model.device), batch), filled

    for lines, found in of_lines(trial.examples, trial.catalogue, told, device=model.device):
        share_B[lines], related_B[lines], filled_B[lines] = (each.cpu().numpy() for each in found)
    known_B = filled_B & (leaf_B > 0)
    sets = {RELATED: known_B & related_B, FOREIGN: known_B & ~related_B}
    return {name: (np.flatnonzero(chosen_B), share_B[chosen_B]) for name, chosen_B in sets.items()}


def related(held: Padded, wanted_B: Tensor, batch: UserBatch) -> Tensor:
    """Whether each line's history holds an item of the leaf category that it wanted, [B].

    Args:
        wanted_B: numbers of leaf categories.
    """
    leaf_BT = functional.embedding(
        held.at_UT[batch.request_B], batch.items.attributes["leaf"].unsqueeze(1)
    ).squeeze(2)
    same_BT = (leaf_BT == wanted_B.unsqueeze(1)) & held.mask_UT[batch.request_B]
    return same_BT.any(1)
