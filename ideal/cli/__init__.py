"""The command line ``ideal-run``: a thin layer over the stages and the engine.

`ideal.cli.app` assembles the commands, one file holds each group of them. A command imports what it needs when it is
called, so that ``ideal-run --help`` and ``ideal-run check`` answer at once.
"""
