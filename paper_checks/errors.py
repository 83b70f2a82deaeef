"""The one error that means the reader asked for something that cannot be had."""


class InputError(ValueError):
    """Bad input, told in one line that names the argument, the value and the remedy.

    The command line prints the line and exits with status 2; a library caller catches it as a
    `ValueError`.
    """

    def __init__(self, argument: str, value: object, remedy: str) -> None:
        super().__init__(f"{argument}: {value!s}: {remedy}")
        self.argument = argument
        self.value = value
        self.remedy = remedy
