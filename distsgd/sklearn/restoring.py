"""Fits that fail leave an estimator as it was, so that its attributes are always those of one and the same fit."""

from __future__ import annotations

from collections.abc import Callable
from functools import wraps
from typing import Any, TypeVar, cast

Method = TypeVar("Method", bound=Callable[..., Any])


def restoring(method: Method) -> Method:
    """Return a method of an estimator that restores its attributes if it ends with an exception."""

    @wraps(method)
    def restored(self: Any, *args: Any, **kwargs: Any) -> Any:
        # Curves of losses and scores are lists, to which a fit that goes on appends.
        before = {name: list(value) if type(value) is list else value for name, value in vars(self).items()}
        try:
            return method(self, *args, **kwargs)
        except BaseException:
            vars(self).clear()
            vars(self).update(before)
            raise

    return cast("Method", restored)
