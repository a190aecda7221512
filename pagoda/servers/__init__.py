"""The local servers of the embedded profile: `up`, `down`, `status`.

The same functions serve the command line, the demo and the tests.
"""

from __future__ import annotations

from pagoda.servers.catalogue import SERVERS
from pagoda.servers.control import down, up
from pagoda.servers.health import Health, status

__all__ = ["SERVERS", "Health", "down", "status", "up"]
