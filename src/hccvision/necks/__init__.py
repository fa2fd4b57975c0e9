"""Necks: feature maps in, feature maps out, between backbone and head. None is built in; register yours in `NECKS`."""
