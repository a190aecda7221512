"""`pagoda`: each command is a typer app that lives with the stage it runs."""

from __future__ import annotations

from pagoda.cli.lazy import LazyGroup
from pagoda.console import run

# command: (module:app, one line of help). A command of two words is a group.
COMMANDS: dict[str, tuple[str, str]] = {
    "up": ("pagoda.cli.servers:up", "Start the local servers and wait until they answer."),
    "down": ("pagoda.cli.servers:down", "Stop the local servers."),
    "status": ("pagoda.cli.servers:status", "Show each server: health, memory, port, log."),
    "doctor": ("pagoda.cli.doctor:app", "Find what is wrong with this machine or the settings."),
    "jars": ("pagoda.cli.jars:app", "Fetch the jars of Spark and Kafka by coordinate."),
    "import": ("jobs.imports.cli:app", "Bring a data set into the lake."),
    "features": ("jobs.batch.cli:app", "Build feature tables, apply, materialise."),
    "lake": ("jobs.lake.cli:app", "What the lake's tables take, and their maintenance."),
    "stream": ("jobs.stream.cli:app", "Consume, land or replay events."),
    "train": ("training.train:app", "Train a recipe and write a bundle."),
    "evaluate": ("training.evaluate:app", "Judge a bundle beside the baselines."),
    "reproduce": ("training.reproduce.cli:app", "A paper's claims, run anew; one HTML report."),
    "ranker": ("training.ranker:app", "Train a bundle's pre-ranker."),
    "relevance": ("training.relevance:app", "Train the model that judges relevance."),
    "index": ("jobs.index.cli:app", "Build and check a collection, or update the live one."),
    "models": ("pagoda.cli.models:app", "List bundles, promote one, go back, remove some."),
    "serve": ("serving.server:app", "Run the search service."),
    "search": ("pagoda.cli.search:app", "Ask the running search service."),
    "run": ("pagoda.cli.run:app", "Trigger the Airflow DAGs and follow them."),
    "airflow": ("pagoda.cli.airflow:app", "Airflow's own command line, on this installation."),
    "check": ("jobs.checks.cli:app", "Parity, contracts, index: is what is served right?"),
    "forget": ("jobs.forget.run:app", "Remove a user from everything that Pagoda keeps."),
    "bench": ("pagoda.cli.bench:group", "How fast: beside peers that run in the same minutes."),
    "demo": ("pagoda.cli.demo:app", "The whole road on real purchases."),
    "stages": ("pagoda.cli.stages:app", "The stages, what each reads and writes; draw the road."),
}


def main() -> None:
    """Entry point of the console script."""
    run(LazyGroup("pagoda", COMMANDS, help="Embedding-based product retrieval as one platform."))


if __name__ == "__main__":
    main()
