"""The VISTA objective (arXiv 2505.10917): what is maximised, and how it is computed.

    L_VISTA = -(1/m) * sum_{t=1..m} omega(t, m) * I(x_t, S_n)

    S_n  the decoder's last hidden state, after its final norm, at the last image position of the sample   (d,)
    x_t  the input embedding of the sample's t-th text token                                               (d,)

`estimators` holds I, `weightings` holds omega, `text_sums` the one pass over the embeddings that both need, `head` puts
them together, `own_text` compares samples for the log. All of it takes tensors and a config and returns tensors.

THEORY.md beside this file says what the objective assumes, and what it does not guarantee.
"""

from .estimators import TextBag, register_estimator
from .head import AlignmentHead, AlignmentTerms, Text, vista_loss
from .weightings import register_weighting

__all__ = [
    "AlignmentHead",
    "AlignmentTerms",
    "Text",
    "TextBag",
    "register_estimator",
    "register_weighting",
    "vista_loss",
]
