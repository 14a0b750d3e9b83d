"""Errors that a user can cause: a base class, with one subclass for each source.

A message says what was given, why it cannot work, and what to do instead. The command line prints it without a
traceback and exits with the error's `exit_code`.
"""


class ReflectRLError(Exception):
    """Base class of all user errors. exit_code: of the command that one ends."""

    exit_code = 2


class SettingsError(ReflectRLError):
    """An invalid recipe, override or combination of settings."""


class EnvironmentContractError(ReflectRLError):
    """An environment that breaks the TextEnv contract, or is used against it."""


class WorldLostError(EnvironmentContractError):
    """A world in a process of its own that died or took too long: its episode is lost."""


class TeacherError(ReflectRLError):
    """A teacher that could not write a reflection."""


class AgentError(ReflectRLError):
    """An agent that cannot be loaded or evaluated, or that raised an error while it acted."""


class ServerError(ReflectRLError):
    """A model server that stays away, or refuses the model, the key or the request. The same command continues."""

    exit_code = 3


class BudgetError(ServerError):
    """A call to a model server that could exceed the budget."""


class ModelError(ReflectRLError):
    """A model or tokenizer that cannot be loaded, or lacks a required ability."""


class NonFiniteError(ModelError):
    """A loss, gradient, weight or probability is NaN or infinite.

    what: a phrase, such as "the loss is nan". advice: a sentence on what to do, if the raising code knows it.
    """

    def __init__(self, what: str, advice: str = "") -> None:
        super().__init__(f"{what[:1].upper()}{what[1:]}. {advice}".rstrip())
        self.what = what
        self.advice = advice


class PromptError(ReflectRLError):
    """A prompt that cannot be built from its inputs, or exceeds the token budget."""


class RunFolderError(ReflectRLError):
    """A run folder, or a file in it, that is missing, damaged or not writable."""


class WorkerError(ReflectRLError):
    """A worker process that was killed. The same command continues."""


class OutputError(ReflectRLError):
    """An output path that cannot be used or written."""


class SelectionError(ReflectRLError):
    """A pool, budget or strategy input that makes selection impossible."""
