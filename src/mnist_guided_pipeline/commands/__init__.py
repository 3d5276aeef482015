"""The subcommands of ``mnist-guided``, a file each: a function is a command, its arguments the options.

Paths are checked before anything heavy is imported, and nothing is overwritten without ``--force``.
"""
