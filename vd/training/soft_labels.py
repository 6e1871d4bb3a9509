"""Pairs whose labels are probabilities: p that the chosen reply is the preferred one, as judges of
AI feedback give them (Lee et al. 2023, arXiv 2309.00267):

    L = -E[p log sigmoid(d) + (1 - p) log sigmoid(-d)] = E[-log sigmoid(d) + (1 - p) d]

d is what says how far chosen is ahead: a difference of rewards, or beta times DPO's margin. Hard
labels have p = 1.
"""

import torch

from vd.data.sets import P_CHOSEN


class SoftLabels:
    """A TRL trainer on pairs, to go before its class: batches hold the column of labels (n,)."""

    def __init__(self, **how):
        super().__init__(**how)
        plain = self.data_collator

        def with_labels(rows: list[dict]) -> dict:
            labels = [row[P_CHOSEN] for row in rows if P_CHOSEN in row]
            batch = plain(rows)
            return batch | {P_CHOSEN: torch.tensor(labels)} if labels else batch

        self.data_collator = with_labels

    def _set_signature_columns_if_needed(self):
        super()._set_signature_columns_if_needed()
        if P_CHOSEN not in self._signature_columns:
            self._signature_columns = [*self._signature_columns, P_CHOSEN]


def added(p: torch.Tensor, ahead: torch.Tensor) -> torch.Tensor:
    """What soft labels (n,) add to the loss of hard ones, for pairs that are `ahead` (n,)."""
    return ((1 - p) * ahead).mean()
