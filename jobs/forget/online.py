"""A user's row in the online store, and in the file by which Redis would bring it back."""

from __future__ import annotations

import time
from typing import Any

import redis

from pagoda import store
from pagoda.errors import DependencyDown
from pagoda.online import connect
from pagoda.online_layout import Keys
from pagoda.settings import Settings

_REWRITE_WITHIN_S = 300.0


class Online:
    """All views of a user are one hash in Redis."""

    def __init__(self, settings: Settings, user_key: int) -> None:
        """Raises: DependencyDown("redis", ...) if it does not answer."""
        self._settings = settings
        self._client: Any = connect(settings)
        self._key = Keys("user_key").of(user_key)
        self._ask(self._client.ping)

    def rows(self) -> int:
        """1 if the user has a row, else 0."""
        found: int = self._ask(lambda: self._client.exists(self._key))
        return found

    def forget(self) -> tuple[int, str]:
        """Delete the row and write the append-only file anew; rows deleted, and what to know.

        Materialisation may be bringing rows online that it read before they were deleted from
        the lake: it is waited for.
        """
        with store.registry_lock(self._settings):
            deleted = self._ask(lambda: self._client.delete(self._key))
            return deleted, self._ask(self._rewrite)

    def _rewrite(self) -> str:
        if not self._client.info("persistence")["aof_enabled"]:
            return "Redis keeps no append-only file; its snapshots hold the row until the next one"
        try:
            self._client.bgrewriteaof()
        except redis.ResponseError as error:
            return f"Redis did not write its append-only file anew: {error}"
        give_up = time.monotonic() + _REWRITE_WITHIN_S
        while time.monotonic() < give_up:
            state = self._client.info("persistence")
            if not (state["aof_rewrite_in_progress"] or state["aof_rewrite_scheduled"]):
                ok = state["aof_last_bgrewrite_status"] == "ok"
                return (
                    "append-only file written anew" if ok else "append-only file NOT written anew"
                )
            time.sleep(0.1)
        return f"Redis is still writing its append-only file anew after {_REWRITE_WITHIN_S:.0f} s"

    def _ask(self, call: Any) -> Any:
        try:
            return call()
        except redis.RedisError as error:
            raise DependencyDown("redis", str(error)) from error
