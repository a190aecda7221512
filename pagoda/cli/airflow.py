"""`pagoda airflow ...`: Airflow's own command line, on this installation."""

from __future__ import annotations

import os

import typer

from pagoda import settings as settings_module
from pagoda.console import run
from pagoda.errors import MachineError
from pagoda.servers.airflow import environment

app = typer.Typer(add_completion=False)


@app.command(
    add_help_option=False,
    context_settings={"allow_extra_args": True, "ignore_unknown_options": True},
)
def main(context: typer.Context) -> None:
    """Hand all arguments to Airflow, e.g. `pagoda airflow backfill create --help`."""
    settings = settings_module.load()
    binary = settings.airflow.environment / "bin" / "airflow"
    if not binary.exists():
        raise MachineError(
            "Airflow's environment is not there", where=str(binary), next_step="Run `make setup`."
        )
    env = {**os.environ, **environment(settings)}
    os.execve(binary, [str(binary), *context.args], env)  # noqa: S606 - our own environment's


if __name__ == "__main__":
    run(app)
