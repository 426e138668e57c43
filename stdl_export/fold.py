"""The first step of an export: batch normalisation goes into the weights. Training for chips does it too, so the
algebra lies with the networks.
"""

from stdl_models.fold import fold, fold_layer

__all__ = ["fold", "fold_layer"]
