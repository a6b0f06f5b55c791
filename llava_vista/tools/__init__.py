"""The subcommands of ``llava-vista``, one folder each, and the kit that they share. The core imports none of them."""
