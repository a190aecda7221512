"""Run the search service: `pagoda serve`, or `python -m serving.server`."""

from __future__ import annotations

import logging

import torch
import typer
import uvicorn

from pagoda import settings as settings_module
from pagoda.console import people, run
from serving.app import create_app

app = typer.Typer(add_completion=False, help="Run the search service.")


@app.command()
def main() -> None:
    """Serve searches at the address of the settings, with whatever bundle is current."""
    settings = settings_module.load()
    # Its client logs every attempt at a broker that is away; the publisher says it once itself.
    logging.getLogger("kafka").setLevel(logging.CRITICAL)
    # One thread a request: a batch of one gains nothing from more, and requests run side by side.
    torch.set_num_threads(1)
    serving = settings.serving
    people.print(f"search page and API at http://{serving.host}:{serving.port}")
    uvicorn.run(
        create_app(settings),
        host=serving.host,
        port=serving.port,
        log_level="warning",
        timeout_graceful_shutdown=5,
    )


if __name__ == "__main__":
    run(app)
