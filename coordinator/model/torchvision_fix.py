"""Import timm, even if a CPU build of torch is installed beside the package index's torchvision.

timm imports torchvision, and the torchvision wheel on the index is built for CUDA. Beside a CPU build of torch its
compiled operators do not load, and `import torchvision` fails while it registers shape functions for them ("operator
torchvision::nms does not exist"). This project uses none of those operators. On that failure, and on no other, the
module that registers them is replaced by an empty one. A torchvision that matches torch is left alone.

Import timm from here: `from coordinator.model.torchvision_fix import timm`. It takes more than a second to load, so
modules that a hospital or the server imports do this in the function that needs timm.
"""

from __future__ import annotations

import importlib
import sys
import types

_REGISTRATIONS = "torchvision._meta_registrations"
_SYMPTOM = "operator torchvision::nms does not exist"


def _import_torchvision() -> None:
    """Import torchvision, without its operators if they do not fit the installed torch."""
    try:
        importlib.import_module("torchvision")
    except ImportError:
        return  # timm's own import names what is missing
    except RuntimeError as error:
        if _SYMPTOM not in str(error):
            raise
        for name in [n for n in sys.modules if n == "torchvision" or n.startswith("torchvision.")]:
            del sys.modules[name]
        sys.modules[_REGISTRATIONS] = types.ModuleType(_REGISTRATIONS)
        importlib.import_module("torchvision")


_import_torchvision()

import timm  # noqa: E402 - only after the fix

__all__ = ["timm"]
