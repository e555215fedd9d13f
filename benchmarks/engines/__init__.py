"""The engines that ``benchmarks.engine`` compares, one file each. Each runs in a process of its own (``__main__``).

A vLLM environment has none of our packages: nothing here imports them but ``ours``.
"""
