"""Lets timm be imported where a CPU build of torch stands beside the index's torchvision.

timm imports torchvision, and torchvision's wheel on the index is built for CUDA. Beside a CPU build of
torch its compiled operators do not load, and `import torchvision` then dies while registering shape
functions for them ("operator torchvision::nms does not exist"). We use none of those operators, so on that
failure, and on that one only, the module that registers them is replaced by an empty one. A matching
torchvision is left alone, as is every other failure.

Whoever needs timm, torchvision or torchmetrics imports it from here.
"""

from __future__ import annotations

import importlib
import sys
import types

_OPERATORS = "torchvision._meta_registrations"
_SYMPTOM = "operator torchvision::nms does not exist"


def _import_torchvision() -> None:
    try:
        importlib.import_module("torchvision")
    except ImportError:
        return  # timm will say what is missing
    except RuntimeError as error:
        if _SYMPTOM not in str(error):
            raise
        for name in [n for n in sys.modules if n == "torchvision" or n.startswith("torchvision.")]:
            del sys.modules[name]
        sys.modules[_OPERATORS] = types.ModuleType(_OPERATORS)
        importlib.import_module("torchvision")


_import_torchvision()

import timm  # noqa: E402 - after the fix, on purpose

__all__ = ["timm"]
