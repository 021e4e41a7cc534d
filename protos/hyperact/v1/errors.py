"""The errors of the contract: a field that is not as it should be, and settings that lead to no connection."""


class FieldError(ValueError):
    """A field of a message breaks the contract.

    Attributes:
        field: the field at fault, dotted from the message's top ("observation.shape").
        reason: a constant in UPPER_SNAKE_CASE for programs.
    """

    def __init__(self, field: str, message: str, reason: str = "INVALID_FIELD") -> None:
        super().__init__(f"{field}: {message}")
        self.field = field
        self.reason = reason

    def under(self, parent: str) -> "FieldError":
        """Return the same error as seen from a message in which this one is the field `parent`."""
        inner = str(self).split(": ", 1)[1]
        return FieldError(f"{parent}.{self.field}" if self.field else parent, inner, self.reason)


class ConnectionSettingsError(ValueError):
    """A file that connection settings name cannot be used. The message names the file and not its content."""
