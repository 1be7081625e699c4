"""A stand-in for CuPy, for machines without a GPU: that part of its interface which distsgd uses, backed by NumPy.

Its arrays are of a type of their own. As CuPy's, they are not converted implicitly: a NumPy function that gets one, or
a function of this module that gets a NumPy array, is a TypeError. What is not here is an AttributeError, so that code
which uses more of CuPy has to be looked at against CuPy's own documentation before the stand-in learns it.
"""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import numpy as np

__version__ = "0.0 (a stand-in)"

float32, float64, int64, uint8 = np.float32, np.float64, np.int64, np.uint8
nan = np.nan


def _host(value: Any) -> Any:
    """Return the NumPy array behind an array of this module, or a scalar as it is."""
    if isinstance(value, ndarray):
        return value._array
    if isinstance(value, bool | int | float | np.generic):
        return value
    raise TypeError(f"Unsupported type {type(value)}")


def _index(key: Any) -> Any:
    if isinstance(key, tuple):
        return tuple(_index(part) for part in key)
    return key if key is None or key is Ellipsis or isinstance(key, slice | int) else _host(key)


class ndarray:  # noqa: N801 - CuPy's name
    """An array that lies on a device, as far as NumPy can tell."""

    __array_ufunc__ = None

    def __init__(self, array: np.ndarray) -> None:
        self._array = array

    def __array__(self, *_: Any, **__: Any) -> np.ndarray:
        raise TypeError("Implicit conversion to a NumPy array is not allowed. Please use `.get()`")

    def __array_function__(self, func: Any, *_: Any) -> Any:
        raise TypeError(f"numpy.{func.__name__} was called with an array of the device")

    shape = property(lambda self: self._array.shape)
    dtype = property(lambda self: self._array.dtype)
    ndim = property(lambda self: self._array.ndim)
    size = property(lambda self: self._array.size)
    nbytes = property(lambda self: self._array.nbytes)
    T = property(lambda self: ndarray(self._array.T))

    def __len__(self) -> int:
        return len(self._array)

    def __iter__(self) -> Any:
        return (ndarray(part) for part in self._array)

    def __float__(self) -> float:
        return float(self._array)

    def __int__(self) -> int:
        return int(self._array)

    def __bool__(self) -> bool:
        return bool(self._array)

    def __getitem__(self, key: Any) -> ndarray:
        return ndarray(np.asarray(self._array[_index(key)]))

    def __setitem__(self, key: Any, value: Any) -> None:
        self._array[_index(key)] = _host(value)

    def __neg__(self) -> ndarray:
        return ndarray(-self._array)

    def view(self, dtype: Any) -> ndarray:
        return ndarray(self._array.view(dtype))

    def reshape(self, *shape: Any) -> ndarray:
        return ndarray(self._array.reshape(*shape))

    def dot(self, other: ndarray) -> ndarray:
        return ndarray(np.asarray(self._array.dot(_host(other))))

    def astype(self, dtype: Any) -> ndarray:
        return ndarray(self._array.astype(dtype))

    def fill(self, value: float) -> None:
        self._array.fill(value)

    def get(self, out: np.ndarray | None = None) -> np.ndarray:
        if out is None:
            return self._array.copy()
        assert isinstance(out, np.ndarray)
        assert out.dtype == self.dtype
        assert out.shape == self.shape
        out[...] = self._array
        return out

    def take(self, indices: Any, axis: int | None = None, out: ndarray | None = None) -> ndarray:
        found = self._array.take(_host(indices), axis)
        if out is None:
            return ndarray(found)
        assert out.dtype == self.dtype
        out._array[...] = found
        return out


def _method(name: str) -> Any:
    def method(self: ndarray, axis: int | None = None, dtype: Any = None, out: ndarray | None = None) -> ndarray:
        options = {"out": None if out is None else out._array} | ({"dtype": dtype} if dtype else {})
        found = getattr(self._array, name)(axis=axis, **options)
        return out if out is not None else ndarray(np.asarray(found))

    return method


def _operator(name: str) -> Any:
    def operator(self: ndarray, other: Any) -> ndarray:
        return ndarray(np.asarray(getattr(self._array, name)(_host(other))))

    return operator


def _in_place(name: str) -> Any:
    def operator(self: ndarray, other: Any) -> ndarray:
        getattr(self._array, name)(_host(other))
        return self

    return operator


for _name in ("sum", "max", "min", "all"):
    setattr(ndarray, _name, _method(_name))
for _name in ("add", "sub", "mul", "truediv", "matmul"):
    setattr(ndarray, f"__{_name}__", _operator(f"__{_name}__"))
    setattr(ndarray, f"__r{_name}__", _operator(f"__r{_name}__"))
    setattr(ndarray, f"__i{_name}__", _in_place(f"__i{_name}__"))
for _name in ("eq", "gt", "lt"):
    setattr(ndarray, f"__{_name}__", _operator(f"__{_name}__"))


def _function(name: str) -> Any:
    def function(*arguments: Any, out: ndarray | None = None, **options: Any) -> ndarray:
        given = [_host(argument) for argument in arguments]
        assert any(isinstance(argument, ndarray) for argument in arguments), "scalars alone need no device"
        if out is None:
            return ndarray(np.asarray(getattr(np, name)(*given, **options)))
        getattr(np, name)(*given, out=_host(out), **options)
        return out

    return function


def _new(name: str) -> Any:
    return lambda *arguments, **options: ndarray(getattr(np, name)(*arguments, **options))


add, subtract, multiply, divide, greater = map(_function, ("add", "subtract", "multiply", "divide", "greater"))
maximum, minimum, absolute, copysign = map(_function, ("maximum", "minimum", "absolute", "copysign"))
expm1, tanh, sqrt = map(_function, ("expm1", "tanh", "sqrt"))
exp, log, square, isfinite, matmul, dot = map(_function, ("exp", "log", "square", "isfinite", "matmul", "dot"))
abs, log1p, maximum, negative = map(_function, ("abs", "log1p", "maximum", "negative"))  # noqa: A001
sign, left_shift, right_shift, bitwise_and = map(_function, ("sign", "left_shift", "right_shift", "bitwise_and"))
argmax, count_nonzero, array = map(_function, ("argmax", "count_nonzero", "array"))
empty, zeros, ones, full, arange = map(_new, ("empty", "zeros", "ones", "full", "arange"))


def asarray(value: Any, dtype: Any = None) -> ndarray:
    """Return an array on the device: the same one, or a copy of what lies on the host."""
    if isinstance(value, ndarray):
        return value if dtype in (None, value.dtype) else ndarray(value._array.astype(dtype))
    return ndarray(np.array(value, dtype))


def asnumpy(value: ndarray) -> np.ndarray:
    return value.get()


def copyto(target: ndarray, source: ndarray) -> None:
    np.copyto(target._array, source._array)


cuda = SimpleNamespace(
    runtime=SimpleNamespace(getDeviceCount=lambda: 1, getDeviceProperties=lambda _: {"name": b"no GPU at all"}),
    Device=lambda: SimpleNamespace(id=0),
)
