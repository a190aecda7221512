"""`pagoda features`: build the tables, register them with Feast, bring them online."""

from __future__ import annotations

import typer

from jobs.batch import build, materialise
from pagoda import settings, store
from pagoda.console import people, run

app = typer.Typer(
    add_completion=False, help="Build feature tables, apply, materialise.", no_args_is_help=True
)
app.command("build")(build.main)
app.command("materialise")(materialise.main)


@app.command()
def apply() -> None:
    """Register with Feast what feature_repo declares."""
    store.apply(settings.load())
    people.print("Feast's registry holds what feature_repo declares.")


@app.command(
    context_settings={"allow_extra_args": True, "ignore_unknown_options": True},
    add_help_option=False,
)
def feast(ctx: typer.Context) -> None:
    """Run Feast's own command line on this store: `pagoda features feast ui`."""
    raise typer.Exit(store.run_feast(settings.load(), ctx.args).returncode)


if __name__ == "__main__":
    run(app)
