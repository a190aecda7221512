"""What the four DAGs share: assets, defaults, and two operators that reach the project.

    ingest ── imported ──► features ── features ──► train ── bundle ──► index ── index

Airflow lives in an environment of its own. A step is therefore a process of the project's
environment (`PAGODA_PYTHON`, set by `pagoda up airflow`): `Stage` starts one with `python -m`,
`SparkStage` with that environment's spark-submit. Nothing of Pagoda is imported when a DAG file
is read; the operators import what they need when they run.
"""

from __future__ import annotations

import json
import os
from collections.abc import Sequence
from datetime import timedelta
from pathlib import Path
from typing import Any

from airflow.providers.apache.spark.operators.spark_submit import SparkSubmitOperator
from airflow.providers.standard.hooks.subprocess import SubprocessHook
from airflow.sdk import Asset, BaseOperator
from airflow.sdk.exceptions import AirflowException, AirflowFailException, AirflowSkipException
from jinja2 import pass_context

IMPORTED = Asset("imported", uri="pagoda://lake/events")
FEATURES = Asset("features", uri="pagoda://online/features")
BUNDLE = Asset("bundle", uri="pagoda://bundles/latest")
INDEX = Asset("index", uri="pagoda://milvus/items")

SPARK_CONNECTION = "pagoda_spark"
ROOT = Path(__file__).resolve().parent.parent
UNSET = ("", "None", "False")  # how a template renders a parameter that says nothing

DEFAULTS = {
    "owner": "search",
    "retries": 2,
    "retry_delay": timedelta(seconds=20),
    "execution_timeout": timedelta(hours=6),
}


def python() -> Path:
    """The project's Python: `PAGODA_PYTHON`, or that of `.venv` beside the DAGs."""
    return Path(os.environ.get("PAGODA_PYTHON") or ROOT / ".venv" / "bin" / "python")


@pass_context
def asked(context: Any, name: str) -> Any:
    """The parameter `name` of this run, or what the run upstream handed on with its asset.

    A template macro: `{{ asked('recipe') }}`. None where neither says anything.
    """
    if (given := context["params"].get(name)) is not None:
        return given
    events = (context.get("triggering_asset_events") or {}).values()
    handed_on = [event.extra.get(name) for group in events for event in group]
    return next((value for value in reversed(handed_on) if value is not None), None)


def fail_for(exit_code: int, what: str) -> None:
    """Raise for a non-zero exit code; without retries where trying again cannot help."""
    from pagoda import errors

    if exit_code == 0:
        return
    final = (
        errors.SettingsError,
        errors.MachineError,
        errors.InputError,
        errors.NothingToDo,
        errors.BundleRefused,
        errors.CheckFailed,
    )
    kind = next((each.__name__ for each in final if each.exit_code == exit_code), None)
    if kind:
        raise AirflowFailException(f"{what}: {kind}, which trying again cannot mend; see above")
    raise AirflowException(f"{what} ended with exit code {exit_code}; see above")


@pass_context
def days(context: Any) -> tuple[str, str]:
    """First and last UTC day that a features run builds: a template macro, `{{ days() }}`.

    Asked for; else, after an import, all days of the data set up to the day of the run; else that
    day alone. Triggered and asset-triggered runs have no data interval: then the moment of the
    run counts.
    """
    run, params = context["dag_run"], context["params"]
    moment = run.data_interval_end or run.logical_date or run.run_after
    today = moment.date().isoformat()
    if params["from"] or params["to"]:
        return params["from"] or params["to"], params["to"] or today
    if context.get("triggering_asset_events"):
        from pagoda import dataset, settings

        return dataset.load(settings.load()).first_day.isoformat(), today
    return today, today


def skip_in_backfill(context: Any) -> None:
    """Past days of a backfill are for training: they move neither online rows nor the model."""
    if context["dag_run"].run_type == "backfill":
        raise AirflowSkipException("a backfill's day is for training, not for the online store")


def _tell_consumers(operator: Any, context: Any) -> None:
    """Put what `hand_on` says beside each outlet asset, for `asked` in the DAGs it starts."""
    extra = {name: value for name, value in operator.hand_on.items() if value not in UNSET}
    for asset in operator.outlets:
        context["outlet_events"][asset].extra = extra


class Stage(BaseOperator):
    """Runs `python -m MODULE ARGUMENTS OPTIONS` in the project's environment.

    Args:
        arguments: templated.
        options: option to templated value. Unset, empty or False: the option is left out;
            True: it stands alone.
        hand_on: templated; goes with the outlet assets, for the DAGs that they start.
    """

    ui_color = "#e8f1f2"
    template_fields: Sequence[str] = ("arguments", "options", "hand_on")

    def __init__(
        self,
        *,
        module: str,
        arguments: Sequence[str] = (),
        options: dict[str, str] | None = None,
        hand_on: dict[str, str] | None = None,
        **kwargs: Any,
    ) -> None:
        super().__init__(**kwargs)
        self.module = module
        self.arguments = arguments
        self.options = options or {}
        self.hand_on = hand_on or {}

    def execute(self, context: Any) -> None:
        """Run the stage; its output is the task's log."""
        self.hook = SubprocessHook()
        command = [str(python()), "-m", self.module, *self.arguments]
        for option, value in self.options.items():
            if value not in UNSET:
                command += [option] if value == "True" else [option, value]
        result = self.hook.run_command(command, cwd=str(ROOT))
        fail_for(result.exit_code, self.module)
        _tell_consumers(self, context)

    def on_kill(self) -> None:
        """Stop the process and its children when the task is stopped."""
        self.hook.send_sigterm()


class SparkStage(SparkSubmitOperator):
    """Runs a script under spark-submit, with the master and the configuration of the settings.

    `AIRFLOW_CONN_PAGODA_SPARK`, where it is set, names another master, queue or deploy mode.
    """

    ui_color = "#fbe7d0"
    template_fields: Sequence[str] = (*SparkSubmitOperator.template_fields, "hand_on")

    def __init__(
        self, *, script: str, hand_on: dict[str, str] | None = None, **kwargs: Any
    ) -> None:
        super().__init__(
            application=str(ROOT / script),
            conn_id=SPARK_CONNECTION,
            pool="spark",
            name="{{ dag.dag_id }}.{{ task.task_id }}",
            **kwargs,
        )
        self.hand_on = hand_on or {}

    def execute(self, context: Any) -> None:
        """Submit the job and wait for its end; its output is the task's log."""
        from pagoda import errors, settings, spark

        try:
            loaded = settings.load()
            self.conf = spark.conf(loaded)
        except errors.PagodaError as error:
            raise AirflowFailException(str(error)) from error
        master = json.dumps({"conn_type": "spark", "host": loaded.spark.master})
        os.environ.setdefault(f"AIRFLOW_CONN_{SPARK_CONNECTION.upper()}", master)
        # spark-submit takes the pyspark of the first python3 on PATH: it must be the project's.
        os.environ["PATH"] = f"{python().parent}{os.pathsep}{os.environ['PATH']}"
        self._spark_binary = str(python().with_name("spark-submit"))
        try:
            super().execute(context)
        except AirflowException:
            exit_code = self._hook._submit_sp.returncode
        else:
            exit_code = 0
        fail_for(exit_code, Path(self.application).name)
        _tell_consumers(self, context)
