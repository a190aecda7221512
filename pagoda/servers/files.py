"""PAGODA_HOME as the servers can use it."""

from __future__ import annotations

import os

from pagoda.errors import MachineError
from pagoda.settings import Settings

# Kafka, Milvus, Java's class path or the supervisor give these a meaning of their own in paths.
_SPECIAL = frozenset(",:;%#\"'\\\n")


def require_usable(settings: Settings) -> None:
    """Raises: MachineError if PAGODA_HOME cannot be written to or its path confuses a server."""
    special = sorted(_SPECIAL.intersection(str(settings.home)))
    if special:
        raise MachineError(
            "the path of PAGODA_HOME has characters that servers do not understand",
            where=str(settings.home),
            found=" ".join(map(repr, special)),
            next_step="Set PAGODA_HOME to another folder.",
        )
    try:
        probe = settings.run / f".probe.{os.getpid()}"
        probe.write_text("x")
        probe.unlink()
    except OSError as error:
        raise MachineError(
            "PAGODA_HOME cannot be written to",
            where=str(error.filename or settings.home),
            found=error.strerror or str(error),
            next_step="Make it writable, free some space, or set PAGODA_HOME to another folder.",
        ) from error
