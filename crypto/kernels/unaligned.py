"""Load and store four bytes of an array in one instruction, wherever they start: loops over RGB pixels need it.

For Numba's compiled code only. Neither function checks bounds or counts from the end: the caller makes sure that all
four bytes are the array's.
"""

from __future__ import annotations

from typing import Any

from llvmlite import ir
from numba.core import types
from numba.extending import intrinsic


def _address(context: Any, builder: Any, signature: Any, args: Any) -> Any:
    """Return a pointer to the four bytes at element args[1] of the array args[0]."""
    data = context.make_array(signature.args[0])(context, builder, args[0]).data
    return builder.bitcast(builder.gep(data, [args[1]]), ir.IntType(32).as_pointer())


@intrinsic  # type: ignore[untyped-decorator] # numba has no types
def load4(typing: Any, array: Any, at: Any) -> Any:  # noqa: ARG001 - numba's signature
    """Load bytes `at` to `at + 3` of a uint8 array, or element `at` of a uint32 one, as uint32; `at` is int64."""

    def code(context: Any, builder: Any, signature: Any, args: Any) -> Any:
        return builder.load(_address(context, builder, signature, args), align=1)

    return types.uint32(array, types.int64), code


@intrinsic  # type: ignore[untyped-decorator] # numba has no types
def store4(typing: Any, array: Any, at: Any, value: Any) -> Any:  # noqa: ARG001 - numba's signature
    """Store a uint32 value as bytes `at` to `at + 3` of a uint8 array; `at` is int64."""

    def code(context: Any, builder: Any, signature: Any, args: Any) -> Any:
        builder.store(args[2], _address(context, builder, signature, args), align=1)
        return context.get_dummy_value()

    return types.void(array, types.int64, types.uint32), code
