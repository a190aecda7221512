"""The type of `home`, where this room's tests look for it."""

from __future__ import annotations

from tests.conftest import Home as Home
