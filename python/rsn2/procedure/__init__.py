"""The procedure of the paper (Algorithm 1): score, claim, train."""

from rsn2.procedure.claim import ClaimReport, claim, equal_share
from rsn2.procedure.history import EarlyStopping, History
from rsn2.procedure.reading import read_weights
from rsn2.procedure.reselect import Reselection
from rsn2.procedure.train import fit

__all__ = ["ClaimReport", "EarlyStopping", "History", "Reselection", "claim", "equal_share", "fit", "read_weights"]
