"""RecBole's SASRec on the rows of `training.bench.sequences`: an epoch of RecBole's own trainer.

    .venv-peers/bin/python -m training.bench.by_recbole FOLDER LOSS WIDTH BATCH

On one thread. All is RecBole's default but the arguments, the longest sequence, and dropout: off,
as on the other side. Runs in the peers' environment (requirements/peers.in).
"""

from __future__ import annotations

import os
import sys
from pathlib import Path

import numpy as np
import torch
from recbole.config import Config
from recbole.data import create_dataset
from recbole.data.dataloader import TrainDataLoader
from recbole.data.utils import create_samplers
from recbole.model.sequential_recommender import SASRec
from recbole.trainer import Trainer
from recbole.utils import init_seed

from pagoda.watch import measured
from training.bench.sequences import MOST, NAME, digest

_ONE_EACH = {"distribution": "uniform", "sample_num": 1}


def main(folder: Path, loss: str, *, width: int, batch: int) -> None:
    """One epoch; says its samples and their digest beside what it took.

    Args:
        loss: CE over all items, RecBole's default, or BPR with a uniform negative each.
    """
    torch.set_num_threads(1)
    os.chdir(folder)  # where RecBole makes folders of its own
    config = Config(
        model="SASRec",
        dataset=NAME,
        config_dict={
            "data_path": str(folder.parent),
            "load_col": {"inter": ["user_id", "item_id", "timestamp"], "item": ["item_id"]},
            "eval_args": {"split": {"RS": [1.0, 0.0, 0.0]}, "order": "TO"},  # all are trained on
            "MAX_ITEM_LIST_LENGTH": MOST,
            "loss_type": loss,
            "train_neg_sample_args": _ONE_EACH if loss == "BPR" else None,
            "hidden_size": width,
            "inner_size": width,  # as the paper has it, and one head
            "n_heads": 1,
            "hidden_dropout_prob": 0.0,
            "attn_dropout_prob": 0.0,
            "train_batch_size": batch,
            "use_gpu": False,
        },
    )
    init_seed(config["seed"], config["reproducibility"])
    dataset = create_dataset(config)
    built = dataset.build()
    rows = built[0]
    sampler, *_ = create_samplers(config, dataset, built)
    loader = TrainDataLoader(config, rows, sampler, shuffle=True)
    trainer = Trainer(config, SASRec(config, rows))
    trainer._train_epoch([next(iter(loader))], 0)  # what is loaded and allocated only once
    names = dataset.field2id_token["item_id"].copy()
    names[0] = "0"  # no item
    names = names.astype(np.int64)
    read = rows.inter_feat
    same = digest(names[read["item_id_list"].numpy()], names[read["item_id"].numpy()])
    with measured(samples=len(rows), rows=same):
        trainer._train_epoch(loader, 0)


if __name__ == "__main__":
    given, sys.argv[1:] = sys.argv[1:], []  # RecBole would take them for settings of its own
    main(Path(given[0]), given[1], width=int(given[2]), batch=int(given[3]))
