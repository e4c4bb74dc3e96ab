"""What was read and joined, remembered up to a number of bytes."""

import threading
from collections import OrderedDict
from collections.abc import Hashable
from typing import Any


class Cache:
    """Keeps the values used last, as long as they fit; safe to share between threads.

    Args:
        limit: most bytes of all values together.

    Example:
    >>> cache = Cache(limit=10)
    >>> cache.put("a", "first", size=6)
    >>> cache.put("b", "second", size=6)
    >>> cache.get("a"), cache.get("b")
    (None, 'second')
    """

    def __init__(self, limit: int) -> None:
        self._limit = limit
        self._size = 0
        self._lock = threading.Lock()
        self._values: OrderedDict[Hashable, tuple[Any, int]] = OrderedDict()

    def get(self, key: Hashable) -> Any:
        """Gives the value of `key`, or None."""
        with self._lock:
            if key not in self._values:
                return None
            self._values.move_to_end(key)
            return self._values[key][0]

    def put(self, key: Hashable, value: Any, size: int) -> None:
        """Remembers `value`, which takes `size` bytes, in place of what was used longest ago."""
        with self._lock:
            self._size -= self._values.pop(key, (None, 0))[1]
            self._values[key] = (value, size)
            self._size += size
            while self._size > self._limit and self._values:
                self._size -= self._values.popitem(last=False)[1][1]
