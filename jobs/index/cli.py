"""`pagoda index` builds and checks a collection; `pagoda index update` writes what has changed."""

from __future__ import annotations

from jobs.index import update
from jobs.index.build import app

app.command("update")(update.main)
