"""The pipeline in small: URLs over HTTP, through finalize, into the catalog, with a manifest of each run."""

from kvcatalog.pipeline.fetched import Fetched, Item
from kvcatalog.pipeline.manifest import Manifest, config_hash
from kvcatalog.pipeline.running import Pipeline, new_run_id
from kvcatalog.pipeline.transfer import Limits

__all__ = ["Fetched", "Item", "Limits", "Manifest", "Pipeline", "config_hash", "new_run_id"]
