"""An LMDB environment made safe to share: transactions as arguments, ordered keys, checked values, one writing door.

Nothing here knows what an artifact is.
"""
