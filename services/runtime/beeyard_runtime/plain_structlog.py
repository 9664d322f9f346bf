"""structlog, imported as on a machine that has no rich.

Where rich is installed structlog imports it for coloured tracebacks. Those of services are plain, and the import is a
seventh of the processor time that a queen needs until it listens.
"""

import sys

if "rich" in sys.modules:
    import structlog
else:
    # An entry without a module makes an import fail as if nothing of that name were installed.
    sys.modules["rich"] = None  # type: ignore[assignment]
    try:
        import structlog
    finally:
        # Whoever wants rich itself, such as the command line, gets it.
        del sys.modules["rich"]

__all__ = ["structlog"]
