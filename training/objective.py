"""What a batch is judged by: towers, scores, their corrections and the loss."""

from __future__ import annotations

from contextlib import AbstractContextManager, nullcontext

import numpy as np
import torch
from torch import Tensor

from pagoda.models.base import TwoTowers
from pagoda.models.catalogue import Catalogue
from pagoda.models.inputs import moved
from pagoda.schemas import ACTIONS
from training import checkpoints, processes
from training.data.batches import Batch, Examples, Requests, chances, in_batches
from training.frequency import EstimatedChances
from training.loop_config import LoopConfig
from training.losses import mixed, pairwise_hinge, sampled_softmax
from training.mining import Mined
from training.negatives import Chances, Memory, Numbers, with_gradient_times


class Objective:
    """What a batch is judged by, and what that goes on from beside the model.

    Shape legend: B lines, M items of the batch, P of them columns, N columns: these and the
    memory's, K further negatives of a line, D width.
    """

    def __init__(
        self,
        config: LoopConfig,
        examples: Examples,
        catalogue: Catalogue,
        *,
        among: Requests | None = None,
        before: int = 0,
    ) -> None:
        """Judge the batches of one phase.

        Args:
            among: the requests that they are of; None: all. before: steps of the phases before.
        """
        self._config = config
        self._before = before
        self._drawn = min(config.negatives.uniform, len(catalogue))
        self._memory = Memory(config.negatives.memory, after=config.negatives.memory_after)
        self._chances = _chances(examples, catalogue, config, among)
        self.mined = Mined(examples.lines, config.negatives)

    @property
    def kept(self) -> dict[str, checkpoints.Kept]:
        """What a checkpoint keeps of it, by part."""
        parts: dict[str, checkpoints.Kept] = {"memory": self._memory}
        if isinstance(self._chances, EstimatedChances):
            parts["frequency"] = self._chances
        if self._config.negatives.mined:
            parts["mined"] = self.mined
        return parts

    def loss(self, model: TwoTowers, batch: Batch, *, step: int) -> Tensor:
        """The batch's loss, the model's own included; what the batch has taken is remembered.

        Args:
            step: of the whole training, counted from 0.
        """
        dice = torch.Generator().manual_seed(self._config.seed * 1_000_003 + step)
        batch = moved(batch, model.device)
        own = model.own_loss(batch.items, batch.positive_B, dice)
        if own is not None and processes.rank():
            own = own.detach()  # all compute the whole of it: its gradient is the first's
        told = self._told_apart(model, batch, step, dice)
        return told if own is None else told + own

    def _told_apart(
        self, model: TwoTowers, batch: Batch, step: int, dice: torch.Generator
    ) -> Tensor:
        """How badly the lines' items are told from the other columns and from hard negatives."""
        config = self._config
        own_items = batch.items.take(processes.part(len(batch.items.item_M)))
        with self._precision(model.device):
            own_MD = model.encode_item(own_items)
        item_MD = processes.together(own_MD.float())
        items_N = batch.items.item_M[: batch.columns].cpu().numpy()
        item_ND = item_MD[: batch.columns]
        excluded_BN = batch.excluded_BP
        remembered = self._memory.used(step)
        if remembered:
            further, further_ND = self._memory.columns(besides=items_N, device=model.device)
        self._see(batch, item_MD, step)  # before any chance is asked for
        if remembered:
            item_ND = self._weighed_for_memory(item_ND, items_N, remembered)
            items_N, item_ND = np.concatenate([items_N, further]), torch.cat([item_ND, further_ND])
            negative_BN = excluded_BN.new_zeros(len(excluded_BN), len(further))
            excluded_BN = torch.cat([excluded_BN, negative_BN], 1)
        with self._precision(model.device):
            own_BD = model.encode_user(batch.user)
        user_BD = processes.together(own_BD.float())
        with self._precision(model.device):
            score_BN, hard_BK = user_BD @ item_ND.T, _hard(user_BD, item_MD, batch.hard_BK)
        score_BN, hard_BK = score_BN.float(), hard_BK.float()
        if remembered and config.corrected:  # a line's own item is there for certain: it weighs one
            own_B1 = (user_BD * item_MD[batch.positive_B]).sum(1, keepdim=True)
            score_BN = score_BN.scatter(1, batch.positive_B.unsqueeze(1), own_B1)
        if config.loss == "hinge":
            return pairwise_hinge(
                torch.cat([score_BN, hard_BK], 1),
                positive_B=batch.positive_B,
                excluded_BN=torch.cat([excluded_BN, hard_BK.isneginf()], 1),
                margin=config.margin,
            )
        score_BN, hard_BK = score_BN / config.temperature, hard_BK / config.temperature
        log_q_N = None
        if config.corrected:
            log_q_N = torch.from_numpy(self._chances.log_q(items_N, remembered=remembered))
            log_q_N = log_q_N.to(model.device)
        of_positive_B1: Tensor | float = 0.0
        # Of the pool all items are as likely to be drawn for a line as the one that it took.
        if log_q_N is not None and (config.log_q == "all" or config.negatives.each):
            of_positive_B1 = log_q_N[batch.positive_B].unsqueeze(1)
        hard_BK = hard_BK - of_positive_B1
        further_BK = hard_BK
        if config.mix:
            mixed_BK = mixed(
                score_BN,
                positive_B=batch.positive_B,
                excluded_BN=excluded_BN,
                # Without the batch's as negatives, what it has taken are columns all the same.
                negatives=score_BN.shape[1] - 1 if config.negatives.batch else self._drawn,
                mix=config.mix,
                dice=dice,
            )
            if config.mix.corrected:
                mixed_BK = mixed_BK - of_positive_B1
            further_BK = torch.cat([mixed_BK, hard_BK], 1)
        reward_B = None
        if config.rewards:
            by_action = torch.tensor([getattr(config.rewards, action) for action in ACTIONS])
            reward_B = by_action.to(model.device)[batch.action_B]
        return sampled_softmax(
            score_BN,
            positive_B=batch.positive_B,
            excluded_BN=excluded_BN,
            log_q_N=log_q_N,
            correct_positive=config.log_q == "all",
            further_BK=further_BK,
            reward_B=reward_B,
        )

    def _weighed_for_memory(self, item_PD: Tensor, items_P: Numbers, remembered: int) -> Tensor:
        """The batch's columns, into which as much gradient flows as if the memory's had any.

        Log q makes an item weigh one over its chance to be in the batch or the memory. It learns
        from the batch alone, so that it would be pushed away too seldom: the rarer the more so, for
        the popular are in nearly every batch. Where nothing is corrected nothing is weighed.
        """
        if not self._config.corrected:
            return item_PD
        log_q_P = self._chances.log_q(items_P, remembered=remembered)
        weight_P = np.exp(log_q_P - self._chances.log_q(items_P))
        return with_gradient_times(torch.from_numpy(weight_P).to(item_PD.device), item_PD)

    def _precision(self, device: torch.device) -> AbstractContextManager[object]:
        """What is computed under it is in the precision asked for."""
        if self._config.precision == "fp32":
            return nullcontext()
        return torch.autocast(device.type, torch.bfloat16)

    def _see(self, batch: Batch, item_MD: Tensor, step: int) -> None:
        """Remember and count what the batch has taken."""
        taken = torch.unique(batch.positive_B)
        items = batch.items.item_M[taken].cpu().numpy()
        if self._config.negatives.memory:
            self._memory.add(items, item_MD[taken])
        if isinstance(self._chances, EstimatedChances):
            self._chances.see(items, step=step - self._before + 1)


def _hard(user_BD: Tensor, item_MD: Tensor, hard_BK: Tensor) -> Tensor:
    """Scores of the lines' own hard negatives, [B, K]; -inf for none."""
    score_BK = torch.einsum("bd,bkd->bk", user_BD, item_MD[hard_BK.clamp(min=0)])
    return score_BK.masked_fill(hard_BK < 0, -torch.inf)


def _chances(
    examples: Examples, catalogue: Catalogue, config: LoopConfig, among: Requests | None
) -> Chances | EstimatedChances:
    pool, negatives = len(catalogue), config.negatives
    if config.frequency:
        counted = None
        if config.frequency.begins == "counted":
            counted = in_batches(examples, config.requests_per_batch, pool, among=among)
        return EstimatedChances(config.frequency, pool=pool, negatives=negatives, counted=counted)
    return chances(examples, config.requests_per_batch, pool, negatives, among=among)
