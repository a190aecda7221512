"""Every error a person can meet, drawn as one tree.

PagodaError
├── SettingsError      a setting is missing, malformed or contradicts another
├── MachineError       this machine lacks something: Java, disk, a port
├── InputError         data or arguments that cannot be used; lists every problem found
├── NothingToDo        a step found nothing to work on
├── DependencyDown     a server that is needed does not answer
├── BundleRefused      a model bundle is incomplete, altered or does not fit
├── CheckFailed        a check ran and found the system wrong (parity, recall, ...)
└── Conflict           somebody else wrote meanwhile; trying again is right
"""

from __future__ import annotations

from collections.abc import Sequence


class PagodaError(Exception):
    """One clear message: what, where, expected, found, next step.

    Args:
        problems: every problem found, one line each; shown below the message.
    """

    exit_code = 1

    def __init__(
        self,
        what: str,
        *,
        where: str | None = None,
        expected: str | None = None,
        found: str | None = None,
        next_step: str | None = None,
        problems: Sequence[str] = (),
    ) -> None:
        self.problems = list(problems)
        self.what = what
        self.where = where
        self.expected = expected
        self.found = found
        self.next_step = next_step
        super().__init__(self._message())

    def _message(self) -> str:
        head = f"{self.where}: {self.what}" if self.where else self.what
        parts = [
            f"expected {self.expected}" if self.expected else "",
            f"found {self.found}" if self.found else "",
        ]
        detail = ", ".join(part for part in parts if part)
        message = f"{head} ({detail})" if detail else head
        if self.next_step:
            message = f"{message}. {self.next_step}"
        return "\n".join([message, *(f"  - {problem}" for problem in self.problems)])


class SettingsError(PagodaError):
    """A setting is missing, malformed or contradicts another."""

    exit_code = 2


class MachineError(PagodaError):
    """This machine lacks something that Pagoda needs."""

    exit_code = 3


class InputError(PagodaError):
    """Data or arguments that cannot be used; `problems` lists all of them."""

    exit_code = 4


class NothingToDo(PagodaError):
    """A step found nothing to work on. Silence would look like success."""

    exit_code = 5


class DependencyDown(PagodaError):
    """A server that is needed does not answer; `name` says which."""

    exit_code = 6

    def __init__(self, name: str, reason: str, *, next_step: str | None = None) -> None:
        self.name = name
        super().__init__(
            f"{name} does not answer: {reason}",
            next_step=next_step or "See `pagoda status`; start it with `pagoda up`.",
        )


class BundleRefused(PagodaError):
    """A model bundle is incomplete, altered or does not fit this code."""

    exit_code = 7


class CheckFailed(PagodaError):
    """A check ran and found the system wrong."""

    exit_code = 8


class Conflict(PagodaError):
    """Somebody else wrote meanwhile; trying again is right."""

    exit_code = 9
