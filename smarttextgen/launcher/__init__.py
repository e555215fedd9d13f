"""The launcher: the whole stack on one machine, started, watched and ended by one process.

``runner.run_stack(stack.StackOptions(…), display)`` is the way in. Nothing is imported here: the command line reads the
ready file on every system, while starting a stack takes Linux or macOS.
"""
