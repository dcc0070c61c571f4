"""kvcatalog: the index of record for what a download pipeline has stored."""

__version__ = "0.1.0"
