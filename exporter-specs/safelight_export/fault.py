"""What is the user's to mend, told as one line instead of a traceback."""


class Fault(Exception):
    """Says what was attempted, what was found, what was expected and what to do."""


def unknown(what, name, known):
    """The sentence for a name that is not in a table."""
    return f'unknown {what} "{name}", expected one of: {", ".join(sorted(map(str, known)))}'
