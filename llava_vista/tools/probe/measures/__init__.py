"""What a probe measures: one file each.

A measure collects small numbers per sample, batch by batch, and turns them into a record for the JSON at the end.
"""

from .alignment import Alignment
from .attention import Attention
from .information import VisualInformation
from .neighbours import Neighbours

__all__ = ["Alignment", "Attention", "Neighbours", "VisualInformation"]
