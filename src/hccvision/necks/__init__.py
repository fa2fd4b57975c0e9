"""Necks: feature maps in, feature maps out, between backbone and head. Importing this registers them."""
