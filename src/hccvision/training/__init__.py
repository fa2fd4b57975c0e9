"""Training: the engine behind ``hv.fit``, and what it leaves in a run folder."""
