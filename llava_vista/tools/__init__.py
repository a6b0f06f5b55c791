"""The subcommands of ``llava-vista``, a folder each, and the kit that they share. README.md has the rules."""
