"""Data: samples to batches, splits that don't leak, and manifests."""
