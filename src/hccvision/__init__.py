"""hccvision finds liver cancer in MRI slices: backbones, heads, augmentation and metrics to compose in a few lines.

The public names are listed in ``__init__.pyi``. Each is imported at its first use: ``import hccvision`` is fast.
"""

import lazy_loader

__version__ = "0.1.0"

__getattr__, __dir__, __all__ = lazy_loader.attach_stub(__name__, __file__)
