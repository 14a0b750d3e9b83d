"""The errors a user can cause: one base class, one subclass for each boundary that a message can come from.

A message says what was given, why it cannot work, and what to do instead. The command line prints it without a
traceback and exits with code 2.
"""


class ReflectRLError(Exception):
    """Base of every error that is the user's to mend."""


class SettingsError(ReflectRLError):
    """A recipe, an override or a combination of settings that cannot work."""


class EnvironmentContractError(ReflectRLError):
    """An environment that breaks the TextEnv contract (or was used against it)."""


class TeacherError(ReflectRLError):
    """A teacher that could not write a reflection."""


class ModelError(ReflectRLError):
    """A model or tokenizer that cannot be loaded, or cannot do what is asked of it."""


class NonFiniteError(ModelError):
    """A loss, gradient, weight or probability that is not a finite number: what a model learns or says is lost.

    what: a phrase, such as "the loss is nan". advice: a sentence on what to do, if the place that raises knows it.
    """

    def __init__(self, what: str, advice: str = "") -> None:
        super().__init__(f"{what[:1].upper()}{what[1:]}. {advice}".rstrip())
        self.what = what
        self.advice = advice


class PromptError(ReflectRLError):
    """A prompt that cannot be written from what was given, or does not fit the token budget."""


class RunFolderError(ReflectRLError):
    """A run folder, or a file in it, that is missing, damaged or cannot be written."""


class OutputError(ReflectRLError):
    """A path given for output that cannot be used, or written to."""


class SelectionError(ReflectRLError):
    """A pool, a budget or a strategy's input that cannot be selected from."""
