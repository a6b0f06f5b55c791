"""Called at every start of this environment's Python, by the line of ``llava_vista.pth``: may VISTA be asked for?

Installed as a top-level module (pyproject.toml), not as a part of the package, so that a start that did not ask imports
no package. It reads the environment and the command line, and opens no file. (`from __future__` would be one more
import at every start.)
"""

import os
import sys

#: LLAVA_VISTA and LLAVA_VISTA_PROBE (hooks/host_probe.py) are the user's; LLAVA_VISTA_REQUEST is what a parent process
#: was asked for (hooks/request.py).
VARIABLES = ("LLAVA_VISTA", "LLAVA_VISTA_PROBE", "LLAVA_VISTA_REQUEST")
FLAGS = ("--vista", "--no-vista", "--no_vista")
#: Trainers that read configuration files, in which VISTA's keys may be: their commands, and the scripts they start.
TRAINERS = ("trl", "llamafactory-cli", "swift")
TRAINER_SCRIPTS = ("trl/scripts/", "llamafactory/launcher.py", "swift/cli/")


def start() -> None:
    """Put llava-vista's hooks in place where VISTA may be asked for."""
    if may_ask(getattr(sys, "argv", []), getattr(sys, "orig_argv", [])[:4]):
        try:
            from llava_vista.hooks import listen
        except ImportError as error:
            found = next((name for name in VARIABLES if os.environ.get(name)), None)
            if found:
                _warn(f"{found} is set, but llava-vista cannot be imported ({error}). Install it again.")
        else:
            listen()
    else:
        import atexit

        atexit.unregister(tell_if_set_too_late)  # a folder that is on the path twice has its .pth files read twice
        atexit.register(tell_if_set_too_late)


def may_ask(words: list[str], program: list[str]) -> bool:
    """Return whether VISTA may be asked for.

    Args:
        words: of the command line.
        program: the interpreter's first words, among which the program is.
    """
    if any(map(os.environ.get, VARIABLES)):
        return True
    for word in words:
        if word.startswith(FLAGS) or (word.startswith(("vista=", "vista_")) and "=" in word):
            return True
    for word in program:
        path = word.replace(os.sep, "/")
        if path.rpartition("/")[2] in TRAINERS or any(script in path for script in TRAINER_SCRIPTS):
            return True
    return False


def tell_if_set_too_late() -> None:
    """Warn, at exit, where LLAVA_VISTA was set in a running process, which no hook was there to read."""
    if not os.environ.get("LLAVA_VISTA") or "llava_vista.hooks" in sys.modules:
        return
    try:
        from llava_vista.hooks.process_signs import optimizer_was_made
    except ImportError:
        return
    if optimizer_was_made():
        _warn(
            f"LLAVA_VISTA={os.environ['LLAVA_VISTA']} was set when Python was running already, and had no effect. Set "
            "it before the start (of a notebook's kernel, too), or call llava_vista.install()."
        )


def _warn(message: str) -> None:
    print(f"[llava-vista] WARNING: {message}", file=sys.stderr)
