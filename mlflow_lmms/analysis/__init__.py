"""The analysis of scores: tests, intervals, ranks, gates. Pure: numbers in, numbers out.

Everything is deterministic: where books resample, a saddlepoint approximation gives the resampling distribution
without drawing from it (`saddlepoint`).
"""
