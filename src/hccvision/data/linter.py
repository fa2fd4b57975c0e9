"""Forwards `usable` until its importers are rewritten."""

from hccvision.curation.usable import usable as usable
