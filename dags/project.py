"""Two operators that run the project's stages.

Airflow lives in an environment of its own. A stage is therefore a process of the project's
environment (`PAGODA_PYTHON`, set by `pagoda up airflow`): `Stage` starts one with `python -m`,
`SparkStage` with that environment's spark-submit.
"""

from __future__ import annotations

import json
import os
import subprocess
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from airflow.providers.apache.spark.operators.spark_submit import SparkSubmitOperator
from airflow.providers.standard.hooks.subprocess import SubprocessHook
from airflow.sdk import BaseOperator
from airflow.sdk.exceptions import (
    AirflowException,
    AirflowFailException,
    AirflowSkipException,
)

ROOT = Path(__file__).resolve().parent.parent
SPARK_CONNECTION = "pagoda_spark"
UNSET = ("", "None", "False")  # how a template renders a parameter that says nothing


class Stage(BaseOperator):
    """Runs `python -m MODULE ARGUMENTS OPTIONS -- OPERANDS` in the project's environment.

    Args:
        arguments: templated.
        options: option to templated value, see `given`.
        operands: templated, a JSON list: what a person may write as they like, as behind `--`
            none of it is taken for an option; empty ones are left out.
        hand_on: templated; goes with the outlet assets, for the DAGs that they start.
        metrics: name of the metrics file that the stage writes; what stands in it is the task's
            XCom `metrics`, also when the stage fails.
        skip_if_nothing: skip, rather than fail, if the stage finds nothing to work on.
    """

    ui_color = "#e8f1f2"
    template_fields: Sequence[str] = ("arguments", "options", "operands", "hand_on")

    def __init__(
        self,
        *,
        module: str,
        arguments: Sequence[str] = (),
        options: dict[str, str] | None = None,
        operands: str = "[]",
        hand_on: dict[str, str] | None = None,
        metrics: str | None = None,
        skip_if_nothing: bool = False,
        **kwargs: Any,
    ) -> None:
        super().__init__(**kwargs)
        self.module = module
        self.arguments = arguments
        self.options = options or {}
        self.operands = operands
        self.hand_on = hand_on or {}
        self.metrics = metrics
        self.skip_if_nothing = skip_if_nothing

    def command(self) -> list[str]:
        """The process, once the templates are rendered; no shell reads it."""
        operands = [each for each in json.loads(self.operands) or () if each]
        start = [str(python()), "-m", self.module, *self.arguments, *given(self.options)]
        return [*start, "--", *operands] if operands else start

    def execute(self, context: Any) -> None:
        """Run the stage; its output is the task's log."""
        self.hook = SubprocessHook()
        began = time.time()
        result = self.hook.run_command(self.command(), cwd=str(ROOT))
        if self.metrics:
            _show_metrics(context, self.metrics, since=began)
        if self.skip_if_nothing:
            skip_for(result.exit_code)
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
    template_fields: Sequence[str] = (*SparkSubmitOperator.template_fields, "options", "hand_on")

    def __init__(
        self,
        *,
        script: str,
        options: dict[str, str] | None = None,
        hand_on: dict[str, str] | None = None,
        **kwargs: Any,
    ) -> None:
        super().__init__(
            application=str(ROOT / script),
            conn_id=SPARK_CONNECTION,
            pool="spark",
            name="{{ dag.dag_id }}.{{ task.task_id }}",
            **kwargs,
        )
        self.options = options or {}
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
        self.application_args = given(self.options)
        self._spark_binary = str(python().with_name("spark-submit"))
        try:
            super().execute(context)
        except AirflowException:
            exit_code = self._hook._submit_sp.returncode
        else:
            exit_code = 0
        fail_for(exit_code, Path(self.application).name)
        _tell_consumers(self, context)


def python() -> Path:
    """The project's Python: `PAGODA_PYTHON`, or that of `.venv` beside the DAGs."""
    return Path(os.environ.get("PAGODA_PYTHON") or ROOT / ".venv" / "bin" / "python")


def answer_of(module: str, *arguments: str) -> Any:
    """What a stage prints as JSON: for questions that only the project's environment can answer."""
    done = subprocess.run(
        [str(python()), "-m", module, *arguments],
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=False,
    )
    if done.returncode:
        raise AirflowFailException(f"{module}: {done.stderr.strip()}")
    return json.loads(done.stdout)


def given(options: dict[str, str]) -> list[str]:
    """Rendered options as arguments: unset, empty or False is left out, True stands alone."""
    return [
        part
        for option, value in options.items()
        if value not in UNSET
        for part in ((option,) if value == "True" else (option, value))
    ]


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


def skip_for(exit_code: int) -> None:
    """Skip the task if the stage found nothing to work on."""
    from pagoda import errors

    if exit_code == errors.NothingToDo.exit_code:
        raise AirflowSkipException("there was nothing to work on; see above")


def _show_metrics(context: Any, name: str, *, since: float) -> None:
    from pagoda import settings, textfile

    found = textfile.values(settings.load(), name, since=since)
    context["ti"].xcom_push(key="metrics", value=found)


def _tell_consumers(operator: Any, context: Any) -> None:
    """Put what `hand_on` says beside each outlet asset, for `asked` in the DAGs it starts."""
    extra = {name: value for name, value in operator.hand_on.items() if value not in UNSET}
    for asset in operator.outlets:
        context["outlet_events"][asset].extra = extra
