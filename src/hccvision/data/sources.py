"""Forwards `copied_from` until its importers are rewritten."""

from hccvision.curation.copies import copied_from as copied_from
