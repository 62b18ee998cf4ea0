"""What starts next, where, and why the rest waits. Pure: values in, values out, the standard library alone.

`plan.plan` decides; `benchmarks/schedule.py` runs the same code in simulated time.
"""
