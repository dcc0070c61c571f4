"""An artifact catalog as an embedded key-value store: what do we have, where is it, and is it still intact."""
