"""Checks blobs in large numbers and puts corrupt ones aside: `running` does the work, `quarantine` moves."""

from kvcatalog.verify.running import VerifyRun, verify_blobs

__all__ = ["VerifyRun", "verify_blobs"]
