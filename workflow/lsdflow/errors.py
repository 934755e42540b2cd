"""The one error type for mistakes that a user can mend."""


class UserError(Exception):
    """Input or configuration that cannot be used: the message names what, where, and the remedy.

    Command-line entry points print the message without a traceback.
    """


class DamagedError(UserError):
    """Stored data that were cut off or changed since they were written: they have to be made again.

    ``where`` begins with the path of the file or store.
    """

    def __init__(self, message: str, where: str) -> None:
        super().__init__(message)
        self.where = where
