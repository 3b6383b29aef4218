"""Running cascades of any backend: many batches offline, single requests online (NumPy)."""
